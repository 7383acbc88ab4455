"""The only code that talks to the API server, the watches apart."""

import asyncio
import datetime
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import ApiException

from antiphon_operator.metrics import OperatorMetrics
from antiphon_operator.world import MANAGER, MANAGER_LABEL, MODEL, NAME, NAME_LABEL, POD, POOL, Body

FIELD_MANAGER = "antiphon-operator"
REQUEST_S = 10.0
AT_ONCE = 24
"""Requests under way together: enough to keep an API server busy, few enough not to crowd others out."""
PAGE = 500


@dataclass(frozen=True, slots=True)
class Resource:
    """Where the objects of a kind are, and which of them are ours to list."""

    api_version: str
    plural: str
    selector: str = ""

    def path(self, namespace: str = "", name: str = "", part: str = "") -> str:
        """Of the collection, an object or a part of it."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        place = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{self.api_version}{place}/{self.plural}" + "".join(f"/{each}" for each in (name, part) if each)


_OURS = f"{MANAGER_LABEL}={MANAGER}"
RESOURCES: Mapping[str, Resource] = {
    POOL: Resource("antiphon.dev/v1alpha1", "workerpools"),
    MODEL: Resource("antiphon.dev/v1alpha1", "voicemodels"),
    POD: Resource("v1", "pods", f"{NAME_LABEL}={NAME}"),
    "Deployment": Resource("apps/v1", "deployments", _OURS),
    "Service": Resource("v1", "services", _OURS),
    "ServiceAccount": Resource("v1", "serviceaccounts", _OURS),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets", _OURS),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies", _OURS),
    "PersistentVolumeClaim": Resource("v1", "persistentvolumeclaims", _OURS),
    "Event": Resource("events.k8s.io/v1", "events"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
}


class ApiError(Exception):
    """What the API server answered instead of doing it; `status` 0: it did not answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def gone(self) -> bool:
        """There is no such object (any more)."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Somebody else was there first, or owns what was to be changed."""
        return self.status == 409


async def connect() -> ApiClient:
    """A client of the cluster that KUBECONFIG names, or else of the one that this process runs in.

    Raises:
        ApiError: for a configuration that cannot be read.
    """
    configuration = Configuration()
    configuration.retries = False
    # By default every request looks for a proxy in the environment and in ~/.netrc, on a thread of its own.
    configuration.client_session_kwargs = {"trust_env": False}
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            kubernetes_config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        else:
            await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    except kubernetes_config.ConfigException as error:
        raise ApiError(0, f"No cluster: set KUBECONFIG, or run in a Pod ({error}).") from error
    client = ApiClient(configuration)
    client.user_agent = "antiphon-operator"
    return client


class Cluster:
    """Lists, applies, writes status, deletes, tells events.

    Args:
        client: Of the API server.
        metrics: Told of every request.
        may_write: Asked right before each write: a process that was stopped for a while may lead no more, and does not
            know it yet.
    """

    def __init__(
        self,
        client: ApiClient,
        metrics: OperatorMetrics | None = None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._may_write = may_write
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def list(self, kind: str, namespace: str = "") -> tuple[list[Body], int]:
        """All objects of a kind that may concern us, in one namespace or (empty) everywhere, and as of which version.

        Raises:
            ApiError: when they cannot be had.
        """
        resource = RESOURCES[kind]
        query = {"limit": str(PAGE)} | ({"labelSelector": resource.selector} if resource.selector else {})
        bodies: list[Body] = []
        version = ""
        while True:
            page = await self._send("GET", resource.path(namespace), query=query)
            bodies += page["items"]
            version = version or page["metadata"].get("resourceVersion", "0")
            if not (more := page["metadata"].get("continue")):
                return bodies, int(version)
            query["continue"] = more

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """One object, or None.

        Raises:
            ApiError: when the API server does not say.
        """
        try:
            return await self._send("GET", RESOURCES[kind].path(namespace, name))
        except ApiError as error:
            if error.gone:
                return None
            raise

    async def apply(self, kind: str, body: Body, *, force: bool = True) -> Body:
        """Make an object so, by server-side apply; what others manage in it stays theirs.

        Args:
            kind: Of the object.
            body: With all that we want to say of it, and nothing else.
            force: Take over fields that somebody else has set.

        Returns:
            The object as it is now.

        Raises:
            ApiError: when it was refused.
        """
        return await self._apply(kind, body, force=force)

    async def write_status(self, kind: str, body: Body, status: Mapping[str, Any]) -> Body:
        """Make this an object's whole status.

        Raises:
            ApiError: when it was refused; `gone` when the object is.
        """
        metadata = body["metadata"]
        said = {
            "metadata": {"namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]},
            "status": status,
        }
        return await self._apply(kind, said, part="status")

    async def annotate(self, kind: str, body: Body, annotations: Mapping[str, str | None]) -> Body:
        """Set annotations of an object that is not ours; None removes one.

        Raises:
            ApiError: when it was refused; `gone` when the object is.
        """
        path = RESOURCES[kind].path(body["metadata"]["namespace"], body["metadata"]["name"])
        patch = {"metadata": {"uid": body["metadata"]["uid"], "annotations": annotations}}
        query = {"fieldManager": FIELD_MANAGER}
        return await self._send("PATCH", path, query=query, body=patch, content="application/merge-patch+json")

    async def delete(self, kind: str, body: Body) -> None:
        """Delete exactly this object; quiet when it is gone.

        Raises:
            ApiError: when it was refused.
        """
        metadata = body["metadata"]
        options = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            await self._send("DELETE", RESOURCES[kind].path(metadata["namespace"], metadata["name"]), body=options)
        except ApiError as error:
            if not error.gone:
                raise

    async def event(self, kind: str, body: Body, *, reason: str, note: str, action: str, warning: bool = False) -> None:
        """Tell who looks at an object what happened to it.

        Raises:
            ApiError: when it was refused.
        """
        metadata = body["metadata"]
        now = datetime.datetime.now(datetime.UTC)
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name'][:200]}-", "namespace": metadata["namespace"]},
            "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": "antiphon.dev/operator",
            "reportingInstance": os.environ.get("HOSTNAME", FIELD_MANAGER)[:128] or FIELD_MANAGER,
            "action": action,
            "reason": reason,
            "regarding": {
                "apiVersion": RESOURCES[kind].api_version,
                "kind": kind,
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "note": note[:1024],
            "type": "Warning" if warning else "Normal",
        }
        await self._send("POST", RESOURCES["Event"].path(metadata["namespace"]), body=event)

    async def create(self, kind: str, body: Body) -> Body:
        """Create an object that nobody may have made before.

        Raises:
            ApiError: when it was refused; `conflict` when it exists.
        """
        return await self._send("POST", RESOURCES[kind].path(body["metadata"]["namespace"]), body=_typed(kind, body))

    async def update(self, kind: str, body: Body) -> Body:
        """Replace an object as it was read.

        Raises:
            ApiError: when it was refused; `conflict` when it has changed since.
        """
        path = RESOURCES[kind].path(body["metadata"]["namespace"], body["metadata"]["name"])
        return await self._send("PUT", path, body=_typed(kind, body))

    async def _apply(self, kind: str, body: Body, *, force: bool = True, part: str = "") -> Body:
        path = RESOURCES[kind].path(body["metadata"]["namespace"], body["metadata"]["name"], part)
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        return await self._send(
            "PATCH", path, query=query, body=_typed(kind, body), content="application/apply-patch+yaml"
        )

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        code = 0
        try:
            async with self._slots, asyncio.timeout(REQUEST_S):
                if method != "GET" and not self._may_write():
                    raise ApiError(0, "This operator leads no more: it writes nothing.")
                code, data = await self._exchange(method, path, query or {}, body, content)
        except ApiException as error:
            code = error.status or 0
            raise ApiError(code, _message(error.body) or str(error.reason)) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(0, f"The API server does not answer ({type(error).__name__}).") from error
        finally:
            if self._metrics is not None:
                self._metrics.requests.labels(method, str(code)).inc()
        if not 200 <= code <= 299:
            raise ApiError(code, _message(data) or f"The API server answers {code}.")
        decoded: dict[str, Any] = json.loads(data)
        return decoded

    async def _exchange(
        self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None, content: str
    ) -> tuple[int, bytes]:
        method, url, headers, said, _ = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._client.call_api(method, url, headers, said)
        return answer.status, await answer.read()  # type: ignore[no-untyped-call]


def _typed(kind: str, body: Body) -> dict[str, Any]:
    return {"apiVersion": RESOURCES[kind].api_version, "kind": kind, **body}


def _message(data: bytes | str | None) -> str:
    """The sentence in a `Status` object."""
    try:
        return str(json.loads(data or "{}").get("message", ""))
    except (ValueError, AttributeError):
        return ""
