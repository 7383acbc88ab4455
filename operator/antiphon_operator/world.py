"""What the API server said last, in memory: watches and comparisons fill it, reconciliation reads it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from antiphon_operator.queueing import Key

Body = Mapping[str, Any]
"""An object as the API server gives it. Never changed in place."""

POOL, MODEL, POD = "WorkerPool", "VoiceModel", "Pod"
CHILDREN = ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy", "PersistentVolumeClaim")
"""What a pool consists of; each is named after it."""
KINDS = (POOL, MODEL, POD, *CHILDREN)

NAME_LABEL, NAME = "app.kubernetes.io/name", "antiphon-worker"
MANAGER_LABEL, MANAGER = "app.kubernetes.io/managed-by", "antiphon-operator"
POOL_LABEL = "antiphon.dev/pool"
DRAINING = "antiphon.dev/draining"
"""The annotation of a Pod whose worker takes nothing new: it is about to leave."""
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

_Id = tuple[str, str]
_GONE_KEPT = 10_000


class World:
    """Tables by kind -> namespace -> name -> body.

    What is older than what is known is not taken, so that watches, comparisons and the answers to our own writes may
    arrive in any order.

    Args:
        touch: Told of every key that a change concerns.
    """

    def __init__(self, touch: Callable[[Key], None]) -> None:
        self._touch = touch
        self._tables: dict[str, dict[str, dict[str, Body]]] = {kind: {} for kind in KINDS}
        self._pods: dict[_Id, set[str]] = {}
        self._foreign: dict[str, set[_Id]] = {kind: set() for kind in CHILDREN}
        self._gone: dict[str, None] = {}
        self._read: set[str] = set()

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """One object, or None."""
        return self._tables[kind].get(namespace, {}).get(name)

    def pools(self, namespace: str) -> list[Body]:
        """The WorkerPools of a namespace, by name."""
        return self._of(POOL, namespace)

    def models(self, namespace: str) -> list[Body]:
        """The VoiceModels of a namespace, by name."""
        return self._of(MODEL, namespace)

    def pods(self, namespace: str, pool: str) -> list[Body]:
        """The Pods of a pool, by name."""
        names = sorted(self._pods.get((namespace, pool), ()))
        return [self._tables[POD][namespace][name] for name in names]

    def children(self, namespace: str, pool: str) -> dict[str, Body]:
        """What there is of a pool: kind -> object."""
        found = {kind: self.get(kind, namespace, pool) for kind in CHILDREN}
        return {kind: body for kind, body in found.items() if body is not None}

    def is_foreign(self, kind: str, namespace: str, name: str) -> bool:
        """Whether somebody else has an object of that kind and name."""
        return (namespace, name) in self._foreign[kind]

    def namespaces(self) -> set[str]:
        """Where there are pools or models, and where it is known that there are none."""
        return self._tables[POOL].keys() | self._tables[MODEL].keys() | self._read - {""}

    def is_read(self, namespace: str) -> bool:
        """Whether all that there is in a namespace is known."""
        return not self._read.isdisjoint(("", namespace))

    def keys(self) -> list[Key]:
        """All that there is to reconcile: what is registered first, for calls depend on it."""
        keys = [Key("Registry", namespace) for namespace in sorted(self.namespaces())]
        keys += [
            Key("WorkerPool", namespace, name) for namespace, table in self._tables[POOL].items() for name in table
        ]
        keys += [
            Key("VoiceModel", namespace, name) for namespace, table in self._tables[MODEL].items() for name in table
        ]
        return keys

    def _of(self, kind: str, namespace: str) -> list[Body]:
        table = self._tables[kind].get(namespace, {})
        return [table[name] for name in sorted(table)]

    # --- being told ---------------------------------------------------------------------------------------------------

    def put(self, kind: str, body: Body) -> None:
        """Take an object as it is now."""
        namespace, name = identity = _identity(body)
        known = self.get(kind, namespace, name)
        if body["metadata"].get("uid") in self._gone or (known is not None and _version(known) >= _version(body)):
            return
        if known is None and not _concerns_us(kind, body):
            if kind in CHILDREN:
                self._foreign[kind].add(identity)
            return
        self._tables[kind].setdefault(namespace, {})[name] = body = _lean(body)
        if kind == POD:
            self._index_pod(identity, known, body)
        self._tell(kind, identity, body)

    def remove(self, kind: str, body: Body) -> None:
        """Forget an object that was deleted, for good."""
        namespace, name = identity = _identity(body)
        uid = body["metadata"].get("uid", "")
        self._gone[uid] = None
        while len(self._gone) > _GONE_KEPT:
            del self._gone[next(iter(self._gone))]
        if kind in CHILDREN and identity in self._foreign[kind]:
            self._foreign[kind].discard(identity)
            self._touch(Key("WorkerPool", namespace, name))
        known = self.get(kind, namespace, name)
        if known is not None and known["metadata"].get("uid", "") == uid:
            self._forget(kind, identity, known)

    def replace(self, kind: str, bodies: Iterable[Body], version: int, namespace: str = "") -> None:
        """Take a whole list of a kind (of one namespace; empty: of all), as it was at that version."""
        listed = {_identity(body): body for body in bodies}
        for place in [namespace] if namespace else list(self._tables[kind]):
            for name, known in list(self._tables[kind].get(place, {}).items()):
                if (place, name) not in listed and _version(known) <= version:
                    self._forget(kind, (place, name), known)
        for body in listed.values():
            self.put(kind, body)

    def mark_read(self, namespace: str) -> None:
        """All lists of a namespace (empty: of all) were taken: from now on, what is not here is nowhere."""
        self._read.add(namespace)

    def _forget(self, kind: str, identity: _Id, known: Body) -> None:
        namespace, name = identity
        del self._tables[kind][namespace][name]
        if not self._tables[kind][namespace]:
            del self._tables[kind][namespace]
        if kind == POD:
            self._index_pod(identity, known, None)
        self._tell(kind, identity, known)

    def _index_pod(self, identity: _Id, old: Body | None, new: Body | None) -> None:
        namespace, name = identity
        before = _pool_of(old) if old is not None else ""
        after = _pool_of(new) if new is not None else ""
        if before and before != after:
            names = self._pods.get((namespace, before), set())
            names.discard(name)
            if not names:
                self._pods.pop((namespace, before), None)
            self._touch(Key("WorkerPool", namespace, before))
        if after:
            self._pods.setdefault((namespace, after), set()).add(name)

    def _tell(self, kind: str, identity: _Id, body: Body) -> None:
        namespace, name = identity
        if kind == MODEL:
            self._touch(Key("VoiceModel", namespace, name))
        elif kind == POD:
            if pool := _pool_of(body):
                self._touch(Key("WorkerPool", namespace, pool))
        else:
            self._touch(Key("WorkerPool", namespace, name))
        if kind in (POOL, MODEL, POD):
            self._touch(Key("Registry", namespace))


def _identity(body: Body) -> _Id:
    return body["metadata"].get("namespace", ""), body["metadata"]["name"]


def _lean(body: Body) -> Body:
    """Without the bookkeeping of who set which field: half of an object, and nobody here asks."""
    if "managedFields" not in body["metadata"]:
        return body
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": metadata}


def _version(body: Body) -> int:
    """Of an object, as a number: the API server's versions rise."""
    version = body["metadata"].get("resourceVersion", "0")
    return int(version) if version.isdigit() else 0


def _pool_of(pod: Body) -> str:
    labels = pod["metadata"].get("labels") or {}
    return str(labels.get(POOL_LABEL, "")) if labels.get(NAME_LABEL) == NAME else ""


def _concerns_us(kind: str, body: Body) -> bool:
    if kind == POD:
        return bool(_pool_of(body))
    return kind not in CHILDREN or is_ours(body)


def is_ours(child: Body) -> bool:
    """Whether an object belongs to a WorkerPool, or did until the pool was deleted without it."""
    metadata = child["metadata"]
    owned = any(owner.get("kind") == POOL for owner in metadata.get("ownerReferences") or ())
    return owned or (metadata.get("labels") or {}).get(MANAGER_LABEL) == MANAGER
