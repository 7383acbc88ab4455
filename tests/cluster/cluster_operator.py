"""The operator as its real process, for tests against a control plane."""

import sys
from pathlib import Path

from cluster_processes import Daemon, wait_for
from control_plane import ControlPlane, KubectlError

AGENT = "antiphon-operator"
LEASE = ("-n", "default", "lease", "antiphon-operator")


def operator(
    plane: ControlPlane, folder: Path, name: str, redis_url: str = "redis://127.0.0.1:1", **env: str
) -> Daemon:
    """An operator that is not started yet. Without a `redis_url` its registry is out of reach."""
    told = {
        "KUBECONFIG": str(plane.kubeconfig),
        "ANTIPHON_OPERATOR_IDENTITY": name,
        "ANTIPHON_OPERATOR_REDIS_URL": redis_url,
        "ANTIPHON_OPERATOR_HOST": "127.0.0.1",
        "ANTIPHON_OPERATOR_METRICS_PORT": "0",
        "ANTIPHON_OPERATOR_HEALTH_PORT": "0",
    }
    return Daemon(name, [sys.executable, "-m", "antiphon_operator"], folder / f"{name}.log", told | env)


def leader(plane: ControlPlane) -> str:
    """The name of the operator that holds the Lease; empty when nobody does."""
    try:
        holder: str = plane.get(*LEASE)["spec"].get("holderIdentity") or ""
    except KubectlError:
        return ""
    return holder.rpartition("_")[0]


def writes(plane: ControlPlane, since: int) -> list[str]:
    """What operators have written since a mark of the audit log, one line each; their own Lease apart."""
    entries = plane.audit(since, writes=True)
    return [str(each) for each in entries if each.agent.startswith((AGENT, "kopf")) and each.resource != "leases"]


def lead(plane: ControlPlane, *operators: Daemon) -> None:
    """Start operators; returns once one of them leads."""
    for each in operators:
        each.start()
    names = {each.name for each in operators}
    wait_for(lambda: all(each.must_live() for each in operators) and leader(plane) in names, "a leader", 30)
