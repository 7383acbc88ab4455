"""The names of everything that lies in Redis, and how long a lease lasts."""

from dataclasses import dataclass

BEAT_S = 1.0
"""How often a worker renews its lease."""
LEASE_S = 3.0
"""How long a lease lives without being renewed: two beats may be lost."""
STREAM_ENTRIES = 10_000
"""About how many changes a stream keeps. A reader that fell behind by more reads everything again."""
DEMAND_S = 30.0
"""How long demand stands without being said again."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace, hash-tagged so that all lie in one slot of a Redis Cluster."""

    namespace: str

    def _key(self, name: str) -> str:
        return f"{{antiphon:{self.namespace}}}:{name}"

    @property
    def meta(self) -> str:
        """Hash of the operator's: `nonce`, `epoch`, `sequence`, `format`. Absent: Redis came back empty."""
        return self._key("meta")

    @property
    def models(self) -> str:
        """Hash of the operator's: name -> `ModelRecord`."""
        return self._key("models")

    @property
    def pools(self) -> str:
        """Hash of the operator's: name -> `PoolRecord`."""
        return self._key("pools")

    @property
    def workers(self) -> str:
        """Hash of the operator's: worker id -> `WorkerRecord`."""
        return self._key("workers")

    @property
    def want(self) -> str:
        """Hash of the operator's: worker id -> `Want`."""
        return self._key("want")

    def hash(self, kind: str) -> str:
        """One of the operator's hashes above, by its name."""
        return self._key(kind)

    @property
    def changes(self) -> str:
        """Stream of the operator's changes; entries are numbered 0-1, 0-2, ... without gaps."""
        return self._key("changes")

    @property
    def leases(self) -> str:
        """Stream of the workers' leases; entries are numbered 0-1, 0-2, ... without gaps."""
        return self._key("leases")

    @property
    def claims(self) -> str:
        """Stream of sessions that changed hands: `session`, `owner`, `epoch`; numbered as the others.

        With `stopped`: that owner does not answer any more.
        """
        return self._key("claims")

    def lease(self, worker: str) -> str:
        """String of that worker's own: its `Lease`; expires."""
        return self._key(f"lease:{worker}")

    def session(self, session_id: str) -> str:
        """Hash of its owner's: `owner`, `epoch`, `released`, `record` (a `SessionRecord`); expires."""
        return self._key(f"session:{session_id}")

    def demand(self, model: str) -> str:
        """Hash of the orchestrators': orchestrator id -> `Demand` for a model of the catalogue; expires."""
        return self._key(f"demand:{model}")
