"""What pools are to be, worked out once for each change of what was asked for."""

from dataclasses import dataclass, field

from antiphon.contracts.resources import WorkerPool
from antiphon_operator.reconcile.difference import is_so
from antiphon_operator.reconcile.pool import Manifest, Surroundings, manifests
from antiphon_operator.world import Body


@dataclass(slots=True)
class Blueprint:
    """One pool, and the objects that it should consist of."""

    version: tuple[str, int, str]
    """What it was made of: the pool's uid and generation, and its claim's access mode."""
    pool: WorkerPool
    """As it was asked for; its status may be older than what stands now."""
    manifests: dict[str, Manifest]
    """Kind -> object."""
    _found: dict[str, str] = field(default_factory=dict)
    """Kind -> the version of the live object that was found to be so."""

    def holds(self, kind: str, live: Body) -> bool:
        """Whether the live object of this kind is as it should be."""
        version = live["metadata"].get("resourceVersion", "")
        if version and self._found.get(kind) == version:
            return True
        if not is_so(self.manifests[kind], live):
            return False
        self._found[kind] = version
        return True


class Blueprints:
    """Of all pools."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Blueprint] = {}

    def of(self, body: Body, around: Surroundings, claimed: str) -> Blueprint:
        """What this pool is to be.

        Args:
            body: The pool.
            around: What is the same for all pools, always.
            claimed: The access mode of the pool's claim, where it exists.

        Raises:
            pydantic.ValidationError: the spec is not understood.
        """
        metadata = body["metadata"]
        key = metadata["namespace"], metadata["name"]
        version = (metadata["uid"], metadata.get("generation", 0), claimed)
        made = self._made.get(key)
        if made is None or made.version != version or not metadata.get("generation"):
            pool = WorkerPool.model_validate(body)
            made = self._made[key] = Blueprint(version, pool, manifests(pool, around, claimed=claimed))
        return made

    def forget(self, namespace: str, name: str) -> None:
        """This pool is no more."""
        self._made.pop((namespace, name), None)
