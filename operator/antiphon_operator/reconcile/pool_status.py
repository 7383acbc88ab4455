"""What is true of a pool: its status, from its Pods, its Deployment and what its workers say of themselves.

- Accepted: the spec can be carried out as it stands.
- Available: at least one worker takes calls.
- Ready: as many workers as wanted take calls, and each holds what placement says that it must.
- Progressing: a rollout or a scaling is under way.
- Scheduled: every Pod has a node; False names the resource that is short.
- Degraded: something is wrong that does not mend itself by waiting.
- RolloutInterrupts: a rollout would leave nobody to take calls for a while.

What Kubernetes and the registry say is joined: a worker whose Pod is gone or going does not count, whatever its lease
says, nor does one whose lease has ended, whatever its Pod says. While the registry is out of reach its last word
stands, and Degraded says so.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphon.contracts.resources import WorkerPool
from antiphon.registry.roster import Worker
from antiphon_operator.reconcile.conditions import Finding
from antiphon_operator.reconcile.pool import selector, surge
from antiphon_operator.world import Body

_SHORT = re.compile(r"Insufficient ([^\s,.]+(?:[./][^\s,.]+)*)")
_NOT_READ = "The registry was not in reach since the operator began to lead: it does not know which workers live."
_STUCK = {
    "CrashLoopBackOff": "ends again and again",
    "ImagePullBackOff": "has an image that cannot be pulled",
    "ErrImagePull": "has an image that cannot be pulled",
    "ErrImageNeverPull": "has an image that is not on its node",
    "InvalidImageName": "has an image name that is none",
    "CreateContainerConfigError": "lacks something of its configuration, such as a Secret",
    "CreateContainerError": "cannot be started",
    "RunContainerError": "cannot be started",
}


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a pool's status is made of."""

    pool: WorkerPool
    pods: Sequence[Body] = ()
    deployment: Body | None = None
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """The registry's members by name."""
    registry_stale: bool = False
    """The registry is out of reach: its last word is what `workers` has."""
    registry_read: bool = True
    """It was in reach at least once: before, nobody knows which workers live."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Kind -> why the API server, or somebody else's object, stands in the way of a child."""
    claim_mode: str = ""
    """The access mode of the pool's own claim, where there is one."""


@dataclass(frozen=True, slots=True)
class Said:
    """A status, its conditions apart."""

    numbers: dict[str, Any]
    findings: list[Finding]


def pool_status(observed: Observed) -> Said:
    """What to say of a pool."""
    pods = [pod for pod in observed.pods if not is_going(pod)]
    serving = [worker for pod in pods if (worker := _serving(pod, observed.workers)) is not None]
    wanted = observed.pool.spec.replicas
    leases = [worker.lease for worker in serving if worker.lease is not None]
    numbers = {
        "replicas": len(pods),
        "readyReplicas": sum(_is_ready(pod) for pod in pods),
        "registeredWorkers": len(serving),
        "workers": f"{len(serving)}/{wanted}",
        "selector": ",".join(f"{name}={value}" for name, value in selector(observed.pool.metadata.name).items()),
        "streams": sum(lease.streams for lease in leases),
        "streamLimit": sum(lease.max_streams for lease in leases),
    }
    findings = [
        _accepted(observed),
        _available(observed, serving),
        _ready(observed, serving),
        _progressing(observed, pods),
        _scheduled(observed, pods),
        _degraded(observed, pods, serving),
        _rollout_interrupts(observed.pool),
    ]
    return Said(numbers, findings)


def is_taken_up(deployment: Body | None) -> bool:
    """Whether Kubernetes has seen the Deployment as it is now."""
    if deployment is None:
        return False
    seen: int = (deployment.get("status") or {}).get("observedGeneration", 0)
    return seen >= int(deployment["metadata"].get("generation", 0))


def pool_refused(message: str, before: Mapping[str, Any]) -> Said:
    """What to say of a pool whose spec cannot be read: what stood in its status, for its workers stay as they are."""
    finding = Finding.of("Accepted", False, "InvalidSpec", message)
    numbers = {name: value for name, value in before.items() if name not in ("conditions", "observedGeneration")}
    return Said(numbers, [finding, Finding.of("Ready", False, "InvalidSpec", "See the condition Accepted.")])


def _accepted(observed: Observed) -> Finding:
    if not observed.refusals:
        return Finding.of("Accepted", True, "Applied", "Everything that the pool consists of is applied.")
    kind, message = next(iter(sorted(observed.refusals.items())))
    return Finding.of("Accepted", False, f"{kind}Refused", f"{kind}: {message}")


def _available(observed: Observed, serving: Sequence[Worker]) -> Finding:
    if serving:
        return Finding.of("Available", True, "Serving", f"{_workers(len(serving))} can be called.")
    if observed.pool.spec.replicas == 0:
        return Finding.of("Available", False, "ScaledToZero", "No worker is wanted: set replicas.")
    if not observed.registry_read:
        return Finding("Available", "Unknown", "RegistryOutOfReach", _NOT_READ)
    return Finding.of("Available", False, "NoWorker", "No worker is registered and takes calls.")


def _ready(observed: Observed, serving: Sequence[Worker]) -> Finding:
    wanted = observed.pool.spec.replicas
    if wanted == 0:
        return Finding.of("Ready", False, "ScaledToZero", "No worker is wanted: set replicas.")
    if not observed.registry_read:
        return Finding("Ready", "Unknown", "RegistryOutOfReach", _NOT_READ)
    if len(serving) < wanted:
        message = f"{len(serving)} of {_workers(wanted)} are registered and take calls."
        return Finding.of("Ready", False, "NotRegistered", message)
    lacking = [f"{worker.name} ({', '.join(names)})" for worker in serving if (names := _lacks(worker))]
    if lacking:
        return Finding.of("Ready", False, "ModelsLoading", f"Models are not loaded yet: {_some(lacking)}.")
    return Finding.of("Ready", True, "Ready", f"{_workers(wanted)} can be called and hold what they should.")


def _progressing(observed: Observed, pods: Sequence[Body]) -> Finding:
    deployment, wanted = observed.deployment, observed.pool.spec.replicas
    if deployment is None:
        return Finding.of("Progressing", True, "Creating", "The Deployment is being made.")
    status = deployment.get("status") or {}
    for each in status.get("conditions") or ():
        if each["type"] == "Progressing" and each.get("reason") == "ProgressDeadlineExceeded":
            return Finding.of("Progressing", False, "Stalled", str(each.get("message", "")))
    if not is_taken_up(deployment):
        return Finding.of("Progressing", True, "RollingOut", "The Deployment was just changed.")
    updated = status.get("updatedReplicas", 0)
    going = len(observed.pods) - len(pods)
    if updated < wanted and updated < len(pods):
        return Finding.of(
            "Progressing", True, "RollingOut", f"{updated} of {_workers(wanted)} are of the new revision."
        )
    if len(pods) != wanted:
        return Finding.of("Progressing", True, "Scaling", f"There are {len(pods)} Pods; {wanted} are wanted.")
    if going:
        return Finding.of("Progressing", True, "Draining", f"{_workers(going)} finish their streams.")
    return Finding.of("Progressing", False, "Complete", "There is nothing to be done.")


def _scheduled(observed: Observed, pods: Sequence[Body]) -> Finding:
    waiting = [(pod, each) for pod in pods for each in _conditions(pod, "PodScheduled") if each["status"] == "False"]
    if waiting:
        told = str(waiting[0][1].get("message", ""))
        short = sorted({name for _, each in waiting for name in _SHORT.findall(str(each.get("message", "")))})
        count = f"{len(waiting)} of {len(pods)} Pods" if len(pods) > 1 else "The Pod"
        verb = "have" if len(waiting) > 1 else "has"
        if short:
            message = f"{count} {verb} no node: {', '.join(short)} is short. The scheduler says: {told}"
            return Finding.of("Scheduled", False, "InsufficientResources", message)
        return Finding.of("Scheduled", False, "Unschedulable", f"{count} {verb} no node. The scheduler says: {told}")
    for each in ((observed.deployment or {}).get("status") or {}).get("conditions") or ():
        if each["type"] == "ReplicaFailure" and each["status"] == "True":
            return Finding.of("Scheduled", False, "PodsRefused", f"Pods are refused: {each.get('message', '')}")
    return Finding.of("Scheduled", True, "Scheduled", "Every Pod has a node.")


def _degraded(observed: Observed, pods: Sequence[Body], serving: Sequence[Worker]) -> Finding:
    if observed.registry_stale:
        message = "The registry is out of reach: calls go on by what was known, and nothing new is placed."
        return Finding.of("Degraded", True, "RegistryOutOfReach", message)
    stuck = [told for pod in pods if (told := _stuck(pod))]
    if stuck:
        return Finding.of("Degraded", True, "PodsFailing", f"{_some(stuck)}.")
    failed = [
        f"{worker.name} cannot load {model.name}: {model.message}" if model.message else f"{worker.name}: {model.name}"
        for worker in serving
        if worker.lease is not None
        for model in worker.lease.models
        if model.state == "failed"
    ]
    if failed:
        return Finding.of("Degraded", True, "LoadFailed", _some(failed))
    if observed.claim_mode == "ReadWriteOnce" and observed.pool.spec.replicas > 1:
        message = "The cache's claim is for one node at a time: make a ReadWriteMany claim and name it in claimName."
        return Finding.of("Degraded", True, "CacheNotShared", message)
    return Finding.of("Degraded", False, "AsExpected", "Nothing is known to be wrong.")


def _rollout_interrupts(pool: WorkerPool) -> Finding:
    kind, spec = "RolloutInterrupts", pool.spec
    if spec.replicas == 1 and surge(spec) == 0:
        message = (
            "A rollout or a drained node ends the only worker before another takes calls: set replicas to 2, or "
            "maxSurge to 1 where there is room for a second worker."
        )
        return Finding.of(kind, True, "OneWorkerNoSurge", message)
    return Finding.of(kind, False, "OthersServe", "During a rollout other workers take calls.")


# --- one pod, one worker ----------------------------------------------------------------------------------------------


def _serving(pod: Body, workers: Mapping[str, Worker]) -> Worker | None:
    """The pod's worker, where it takes calls."""
    worker = workers.get(pod["metadata"]["name"])
    return worker if worker is not None and worker.serving else None


def _lacks(worker: Worker) -> list[str]:
    """What it should hold and does not hold warm."""
    lease, want = worker.lease, worker.want
    if lease is None:
        return []
    if want is None:
        return ["not told yet which"]
    warm = {
        (model.name, digest)
        for model in lease.models
        if model.state in ("warm", "in_use")
        for digest in ("", model.digest, model.revision)
    }
    return sorted(ref.name for ref in want.hold if (ref.name, ref.digest) not in warm)


def is_going(pod: Body) -> bool:
    """Whether no new call is for a Pod, be it that it is being deleted or that it has ended."""
    phase = (pod.get("status") or {}).get("phase")
    return "deletionTimestamp" in pod["metadata"] or phase in ("Succeeded", "Failed")


def _is_ready(pod: Body) -> bool:
    return any(each["status"] == "True" for each in _conditions(pod, "Ready"))


def _conditions(pod: Body, kind: str) -> list[Mapping[str, Any]]:
    return [each for each in (pod.get("status") or {}).get("conditions") or () if each["type"] == kind]


def _stuck(pod: Body) -> str:
    """What is wrong with a pod that does not mend itself; empty for nothing."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if (reason := waiting.get("reason")) in _STUCK:
            last = (container.get("lastState") or {}).get("terminated") or {}
            told = waiting.get("message") or last.get("message") or reason
            code = f" (exit code {last['exitCode']})" if "exitCode" in last else ""
            return f"{pod['metadata']['name']} {_STUCK[reason]}{code}: {str(told)[:300]}"
    return ""


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _some(told: Sequence[str], most: int = 3) -> str:
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    return "; ".join(told[:most]) + more
