"""What reconciliation works with: handed down, so that nothing is global."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from antiphon.registry.snapshot import Snapshot
from antiphon_operator.config import OperatorConfig
from antiphon_operator.kube import Cluster
from antiphon_operator.queueing import WorkQueue
from antiphon_operator.status import StatusWriter
from antiphon_operator.world import World


class NamespaceRegistry(Protocol):
    """One namespace's part of the registry, as the leader follows it."""

    @property
    def snapshot(self) -> Snapshot:
        """What is known of it now; `stale` while Redis is out of reach."""


@dataclass(frozen=True, slots=True)
class Context:
    """The leader's, for as long as it leads."""

    config: OperatorConfig
    world: World
    cluster: Cluster
    queue: WorkQueue
    registries: Mapping[str, NamespaceRegistry]
    """By namespace: where there is anything to register."""
    statuses: StatusWriter
    clock: Callable[[], float]
    """Monotonic seconds: the event loop's."""
