"""What is said of a pool, for every state that it can be in."""

from typing import Any

import pytest

from antiphon.contracts.resources import WorkerPool
from antiphon.registry.records import Lease, ModelRef, ResidentModel, Want, WorkerRecord
from antiphon.registry.roster import Worker
from antiphon_operator.reconcile.conditions import Finding, changed, conditions
from antiphon_operator.reconcile.pool_status import Observed, pool_refused, pool_status

pytestmark = pytest.mark.unit

RUNNING = {
    "phase": "Running",
    "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
}


def pool(**spec: Any) -> WorkerPool:
    metadata = {"name": "voices", "namespace": "team", "uid": "u"}
    return WorkerPool.model_validate({"metadata": metadata, "spec": {"image": "w:1", **spec}})


def pod(name: str, status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "status": RUNNING if status is None else status}


def unscheduled(name: str, message: str) -> dict[str, Any]:
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(name, {"phase": "Pending", "conditions": [said]})


def worker(
    name: str, *models: ResidentModel, hold: tuple[str, ...] = (), draining: bool = False, **said: Any
) -> Worker:
    lease = Lease(worker=name, incarnation="i", models=models, max_streams=16, draining=draining, **said)
    want = Want(hold=tuple(ModelRef(name=each) for each in hold))
    return Worker(name, WorkerRecord(address="a:1", pool="voices"), lease, 1.0, want)


def deployment(updated: int = 1, generation: int = 1, **status: Any) -> dict[str, Any]:
    said = {"observedGeneration": 1, "updatedReplicas": updated, **status}
    return {"metadata": {"generation": generation}, "status": said}


def say(observed: Observed) -> dict[str, Finding]:
    return {each.type: each for each in pool_status(observed).findings}


def serving(*workers: Worker, replicas: int = 1, pods: tuple[dict[str, Any], ...] | None = None) -> Observed:
    stand = tuple(pod(each.name) for each in workers) if pods is None else pods
    return Observed(pool(replicas=replicas), stand, deployment(replicas), {each.name: each for each in workers})


def test_a_pool_whose_workers_hold_what_they_should_is_ready() -> None:
    said = say(serving(worker("a", ResidentModel(name="joe", state="warm"), hold=("joe",), streams=3)))
    assert {name: each.status for name, each in said.items()} == {
        "Accepted": "True",
        "Available": "True",
        "Ready": "True",
        "Progressing": "False",
        "Scheduled": "True",
        "Degraded": "False",
        "RolloutInterrupts": "False",
    }


@pytest.mark.parametrize("state", ["loading", "leaving", "failed"])
def test_a_pool_is_not_ready_before_what_is_pinned_is_warm(state: Any) -> None:
    said = say(serving(worker("a", ResidentModel(name="joe", state=state), hold=("joe",))))
    assert (said["Ready"].status, said["Ready"].reason) == ("False", "ModelsLoading")
    assert "a (joe)" in said["Ready"].message
    assert said["Available"].status == "True"


def test_a_pool_is_not_ready_before_its_workers_were_told_what_to_hold() -> None:
    known = worker("a")
    ready = say(serving(Worker("a", known.record, known.lease, 1.0)))["Ready"]
    assert (ready.status, ready.reason) == ("False", "ModelsLoading") and "not told yet" in ready.message


def test_another_revision_is_not_the_one_that_is_wanted() -> None:
    held = ResidentModel(name="joe", state="warm", digest="sha256:content", revision="sha256:old")
    for digest, status in (("sha256:old", "True"), ("sha256:content", "True"), ("", "True"), ("sha256:new", "False")):
        known = worker("a", held)
        wanted = Worker("a", known.record, known.lease, 1.0, Want(hold=(ModelRef(name="joe", digest=digest),)))
        assert say(serving(wanted))["Ready"].status == status


def test_a_worker_without_its_pod_or_whose_pod_goes_does_not_count() -> None:
    alive = worker("a")
    assert say(serving(alive, pods=()))["Available"].status == "False"
    going = pod("a", deletionTimestamp="2026-01-01T00:00:00Z")
    said = say(serving(alive, pods=(going,)))
    assert said["Available"].status == said["Ready"].status == "False"
    failed = pod("a", {"phase": "Failed"})
    assert say(serving(alive, pods=(failed,)))["Available"].status == "False"


def test_a_pod_without_a_live_worker_does_not_count() -> None:
    dead = Worker("a", WorkerRecord(address="a:1", pool="voices"), None)
    for each in (dead, worker("a", draining=True)):
        assert say(serving(each))["Ready"].reason == "NotRegistered"


def test_numbers_are_those_of_workers_that_take_calls() -> None:
    said = pool_status(serving(worker("a", streams=3), worker("b", streams=2, draining=True), replicas=2)).numbers
    assert said == {
        "replicas": 2,
        "readyReplicas": 2,
        "registeredWorkers": 1,
        "workers": "1/2",
        "selector": "app.kubernetes.io/name=antiphon-worker,antiphon.dev/pool=voices",
        "streams": 3,
        "streamLimit": 16,
    }


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available",
            "nvidia.com/gpu",
        ),
        ("0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.", "cpu, memory"),
        ("0/3 nodes are available: 3 Insufficient nvidia.com/mig-1g.10gb.", "nvidia.com/mig-1g.10gb"),
    ],
)
def test_what_is_short_is_named(message: str, short: str) -> None:
    said = say(Observed(pool(replicas=2), (pod("a"), unscheduled("b", message)), deployment(2)))["Scheduled"]
    assert (said.status, said.reason) == ("False", "InsufficientResources")
    assert said.message.startswith(f"1 of 2 Pods has no node: {short} is short.") and message in said.message


def test_other_reasons_for_having_no_node_are_told_in_the_schedulers_words() -> None:
    message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    said = say(Observed(pool(), (unscheduled("a", message),), deployment()))["Scheduled"]
    assert said.reason == "Unschedulable" and message in said.message
    refused = deployment(conditions=[{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}])
    said = say(Observed(pool(), (), refused))["Scheduled"]
    assert said.reason == "PodsRefused" and "exceeded quota" in said.message


@pytest.mark.parametrize(
    ("observed", "status", "reason"),
    [
        (Observed(pool()), "True", "Creating"),
        (Observed(pool(), (), deployment(generation=2)), "True", "RollingOut"),
        (Observed(pool(replicas=2), (pod("a"), pod("b")), deployment(1)), "True", "RollingOut"),
        (Observed(pool(replicas=2), (pod("a"),), deployment(1)), "True", "Scaling"),
        (Observed(pool(), (pod("a"), pod("b", deletionTimestamp="t")), deployment(1)), "True", "Draining"),
        (
            Observed(
                pool(),
                (),
                deployment(
                    conditions=[{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]
                ),
            ),
            "False",
            "Stalled",
        ),
        (Observed(pool(), (pod("a"),), deployment(1)), "False", "Complete"),
    ],
)
def test_what_is_under_way(observed: Observed, status: str, reason: str) -> None:
    said = say(observed)["Progressing"]
    assert (said.status, said.reason) == (status, reason)


@pytest.mark.parametrize("reason", ["CrashLoopBackOff", "ImagePullBackOff", "CreateContainerConfigError"])
def test_a_pod_that_does_not_mend_itself_is_named(reason: str) -> None:
    waiting = {"state": {"waiting": {"reason": reason, "message": "why"}}, "lastState": {"terminated": {"exitCode": 3}}}
    said = say(Observed(pool(), (pod("a", {"phase": "Pending", "containerStatuses": [waiting]}),), deployment()))
    assert (said["Degraded"].status, said["Degraded"].reason) == ("True", "PodsFailing")
    assert said["Degraded"].message.startswith("a ") and "why" in said["Degraded"].message


def test_a_registry_out_of_reach_changes_nothing_else() -> None:
    near = serving(worker("a"))
    far = Observed(near.pool, near.pods, near.deployment, near.workers, registry_stale=True)
    before, after = say(near), say(far)
    assert after.pop("Degraded").reason == "RegistryOutOfReach" and before.pop("Degraded").status == "False"
    assert before == after


def test_a_registry_that_was_never_read_leaves_open_who_lives() -> None:
    said = say(Observed(pool(), (pod("a"),), deployment(), registry_stale=True, registry_read=False))
    assert said["Ready"].status == said["Available"].status == "Unknown"
    assert said["Degraded"].reason == "RegistryOutOfReach"


def test_a_model_that_failed_and_a_claim_for_one_node_are_told() -> None:
    failed = ResidentModel(name="joe", state="failed", message="expected sha256:a, got sha256:b")
    assert "joe: expected sha256:a" in say(serving(worker("a", failed)))["Degraded"].message
    near = serving(worker("a"), worker("b"), replicas=2)
    shared = Observed(near.pool, near.pods, near.deployment, near.workers, claim_mode="ReadWriteOnce")
    assert say(shared)["Degraded"].reason == "CacheNotShared"


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({"gpu": {}}, "True"),
        ({}, "False"),
        ({"gpu": {}, "replicas": 2}, "False"),
        ({"gpu": {}, "maxSurge": 1}, "False"),
    ],
)
def test_a_rollout_that_will_interrupt_is_told_beforehand(spec: dict[str, Any], status: str) -> None:
    assert say(Observed(pool(**spec)))["RolloutInterrupts"].status == status


def test_no_worker_wanted_is_not_ready_and_not_degraded() -> None:
    said = say(Observed(pool(replicas=0), (), deployment(0)))
    assert said["Ready"].reason == said["Available"].reason == "ScaledToZero"
    assert said["Degraded"].status == "False" and said["Progressing"].status == "False"


def test_what_was_refused_is_told() -> None:
    said = say(Observed(pool(), refusals={"Service": "voices exists and is not the pool's."}))["Accepted"]
    assert (said.status, said.reason) == ("False", "ServiceRefused") and "not the pool's" in said.message
    assert [each.status for each in pool_refused("spec.image: missing", {}).findings] == ["False", "False"]


# --- conditions -------------------------------------------------------------------------------------------------------


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = conditions([Finding.of("Ready", False, "NotRegistered")], (), generation=1, now="t1")
    second = conditions([Finding.of("Ready", False, "ModelsLoading", "m")], first, generation=2, now="t2")
    third = conditions([Finding.of("Ready", True, "Ready")], second, generation=2, now="t3")
    assert [each[0]["lastTransitionTime"] for each in (first, second, third)] == ["t1", "t1", "t3"]
    assert second[0]["observedGeneration"] == 2 and second[0]["reason"] == "ModelsLoading"
    assert changed(second, first) == [] and changed(third, second) == third
    assert changed(first, ()) == []
