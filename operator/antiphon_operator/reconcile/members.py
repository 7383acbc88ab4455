"""From Pods to the registry's members: pure."""

from collections.abc import Mapping
from typing import Any

from antiphon.registry.records import WorkerRecord
from antiphon_operator.world import DRAINING, POOL_LABEL, Body

PORT_NAME = "grpc"
PORT = 7001
"""Where a worker listens whose Pod names no port `grpc`."""
CONTAINER = "worker"


def member_of(pod: Body) -> WorkerRecord | None:
    """What the registry says of the worker in a Pod; None for a Pod in which none runs.

    A member runs and has an address. It need not be ready: what it is to load it learns as a member. One that is being
    deleted, or is marked to leave, is draining.
    """
    metadata, status = pod["metadata"], pod.get("status") or {}
    address = status.get("podIP", "")
    if status.get("phase") != "Running" or not address or _has_ended(status):
        return None
    return WorkerRecord(
        address=f"[{address}]:{_port(pod)}" if ":" in address else f"{address}:{_port(pod)}",
        pool=(metadata.get("labels") or {}).get(POOL_LABEL, ""),
        node=(pod.get("spec") or {}).get("nodeName") or "",
        draining="deletionTimestamp" in metadata or DRAINING in (metadata.get("annotations") or {}),
    )


def _has_ended(status: Mapping[str, Any]) -> bool:
    """Whether the kubelet says that the worker's container does not run."""
    return any(
        each.get("name") == CONTAINER and bool({"terminated", "waiting"} & (each.get("state") or {}).keys())
        for each in status.get("containerStatuses") or ()
    )


def _port(pod: Body) -> int:
    containers = (pod.get("spec") or {}).get("containers") or ()
    ports = [port for container in containers for port in container.get("ports") or ()]
    return next((int(port["containerPort"]) for port in ports if port.get("name") == PORT_NAME), PORT)
