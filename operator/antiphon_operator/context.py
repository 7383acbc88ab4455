"""What reconciliation works with: handed down, so that nothing is global."""

from collections.abc import Callable
from dataclasses import dataclass, field

from antiphon_operator.config import OperatorConfig
from antiphon_operator.kube import Cluster
from antiphon_operator.queueing import WorkQueue
from antiphon_operator.reconcile.blueprint import Blueprints
from antiphon_operator.status import StatusWriter
from antiphon_operator.sync import Registries
from antiphon_operator.world import World


@dataclass(frozen=True, slots=True)
class Context:
    """The leader's, for as long as it leads."""

    config: OperatorConfig
    world: World
    cluster: Cluster
    queue: WorkQueue
    registries: Registries
    """By namespace: where there is anything to register."""
    statuses: StatusWriter
    clock: Callable[[], float]
    """Monotonic seconds: the event loop's."""
    blueprints: Blueprints = field(default_factory=Blueprints)
    """What the pools are to be."""
