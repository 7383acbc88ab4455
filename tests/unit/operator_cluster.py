"""An API server in memory: as much of it as the operator's own code asks."""

import itertools
from collections.abc import Mapping
from typing import Any

from antiphon_operator.kube import ApiError
from antiphon_operator.reconcile.difference import is_so


class InMemoryCluster:
    """Objects by kind, namespace and name, with versions and what was written; `down`: it does not answer."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.written: list[tuple[str, ...]] = []
        self.events: list[tuple[str, str]] = []
        self.down = False
        self.refuses: dict[str, str] = {}
        """Kind -> what is answered to an apply."""
        self._versions = itertools.count(1)

    def store(self, kind: str, body: Mapping[str, Any], verb: str = "") -> dict[str, Any]:
        metadata = body["metadata"]
        identity = (kind, metadata["namespace"], metadata["name"])
        before = self.objects.get(identity, {"metadata": {"uid": f"uid-{metadata['name']}"}})
        stored = {**before, **body, "metadata": {**before["metadata"], **metadata}}
        stored["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[identity] = stored
        if verb:
            self.written.append((verb, kind, metadata["name"]))
        return stored

    def _answer(self) -> None:
        if self.down:
            raise ApiError(0, "The API server does not answer.")

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        self._answer()
        return self.objects.get((kind, namespace, name))

    async def list(self, kind: str, namespace: str = "") -> tuple[list[dict[str, Any]], int]:
        self._answer()
        return [body for (each, _, _), body in self.objects.items() if each == kind], next(self._versions)

    async def apply(self, kind: str, body: Mapping[str, Any], *, force: bool = True) -> dict[str, Any]:
        self._answer()
        if kind in self.refuses:
            raise ApiError(422, self.refuses[kind])
        return self.store(kind, body, "apply")

    async def write_status(self, kind: str, body: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        self._answer()
        return self.store(kind, {"metadata": body["metadata"], "status": status}, "status")

    async def annotate(self, kind: str, body: Mapping[str, Any], annotations: Mapping[str, Any]) -> dict[str, Any]:
        self._answer()
        metadata = dict(self.objects[kind, body["metadata"]["namespace"], body["metadata"]["name"]]["metadata"])
        said = {**metadata.get("annotations", {}), **annotations}
        metadata["annotations"] = {name: value for name, value in said.items() if value is not None}
        return self.store(kind, {"metadata": metadata}, "annotate")

    async def delete(self, kind: str, body: Mapping[str, Any]) -> None:
        self._answer()
        self.objects.pop((kind, body["metadata"]["namespace"], body["metadata"]["name"]), None)
        self.written.append(("delete", kind, body["metadata"]["name"]))

    async def event(self, kind: str, body: Mapping[str, Any], *, reason: str, **_: Any) -> None:
        self._answer()
        self.events.append((body["metadata"]["name"], reason))

    async def create(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._answer()
        if (kind, body["metadata"]["namespace"], body["metadata"]["name"]) in self.objects:
            raise ApiError(409, "exists")
        return self.store(kind, body, "create")

    async def update(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._answer()
        live = self.objects.get((kind, body["metadata"]["namespace"], body["metadata"]["name"]))
        if live is None:
            raise ApiError(404, "gone")
        if live["metadata"]["resourceVersion"] != body["metadata"].get("resourceVersion"):
            raise ApiError(409, "changed since")
        return self.store(kind, body, "update")

    def holds(self, kind: str, name: str, desired: Mapping[str, Any]) -> bool:
        """Whether an object of the namespace `team` is so."""
        return is_so(desired, self.objects.get((kind, "team", name)))
