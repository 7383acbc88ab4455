"""What a VoiceModel's conditions say: never ready for what cannot be called, and always what to do."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.contracts.resources import CandidateStatus, VoiceModel
from antiphon.registry.placing import Shortage
from antiphon.registry.records import Lease, ResidentModel, WorkerRecord
from antiphon.registry.roster import Worker
from antiphon_operator.reconcile.conditions import Finding, conditions
from antiphon_operator.reconcile.members import member_of
from antiphon_operator.reconcile.model import aliases_taken, reports_of, seen, target_of
from antiphon_operator.reconcile.model_status import Picture, findings, status_of
from antiphon_operator.reconcile.rollout import Course

pytestmark = [pytest.mark.unit, pytest.mark.timeout(20)]  # many examples, on a machine that may be busy


def model(name: str = "joe", **spec: Any) -> VoiceModel:
    given_spec = {
        "task": "tts",
        "engine": "mock",
        "artifact": {"uri": "hf://acme/joe", "revision": "r1"},
        "residency": {"policy": "Pinned", "minReplicas": 2},
    }
    return VoiceModel.model_validate({"metadata": {"name": name}, "spec": {**given_spec, **spec}})


JOE = model()
REVISION = target_of(JOE)
CANDIDATE = CandidateStatus(revision="r2", digest=f"sha256:{2:064x}", weight=0, since="2026-01-01T00:00:00Z")


def worker(name: str, draining: bool = False, **held: Any) -> Worker:
    resident = ResidentModel(name="joe", revision=REVISION.digest, **held)
    lease = Lease(worker=name, incarnation="i", models=(resident,), draining=draining)
    return Worker(name, WorkerRecord(address="a:1"), lease)


def candidate_of(name: str, **held: Any) -> Worker:
    resident = ResidentModel(name="joe", revision=CANDIDATE.digest, **held)
    return Worker(name, WorkerRecord(address="a:1"), Lease(worker=name, incarnation="i", models=(resident,)))


def picture(*workers: Worker, of: VoiceModel = JOE, **about: Any) -> Picture:
    reports = reports_of(workers).get("joe", [])
    return replace(Picture(of, Course(REVISION), seen(reports, REVISION.digest), holders=("w1", "w2")), **about)


def told(known: Picture, kind: str, stood: Any = ()) -> Finding:
    return next(each for each in findings(known, stood) if each.type == kind)


def said(known: Picture) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in findings(known, ())}


WARM = {"state": "warm", "files": "cached"}


def test_all_is_well() -> None:
    known = picture(worker("w1", **WARM), worker("w2", state="in_use", files="cached", streams=3), streams=3)
    assert said(known) == {
        "Accepted": ("True", "Accepted"),
        "ArtifactCached": ("True", "Cached"),
        "Scheduled": ("True", "Scheduled"),
        "Resident": ("True", "Resident"),
        "Ready": ("True", "Callable"),
        "Progressing": ("False", "Complete"),
        "Degraded": ("False", "AsWanted"),
    }
    status = status_of(known)
    assert (status["resident"], status["streams"], status["active"]["revision"]) == ("2/2", 3, "r1")


def test_progress_is_told_in_steps_and_for_each_worker() -> None:
    known = picture(worker("w1", state="loading", files="fetching", progress=0.47, size_bytes=512 * 2**20))
    assert told(known, "ArtifactCached").message == "w1: 40 % of 512 MiB"
    assert said(known)["Ready"] == ("False", "Loading") and said(known)["Progressing"] == ("True", "Loading")


def test_a_wrong_digest_is_named() -> None:
    why = "expected sha256:aa, got sha256:bb"
    known = picture(worker("w1", state="failed", reason="LOAD_FAILED", message=why))
    for kind, reason in (("ArtifactCached", "FetchFailed"), ("Ready", "LoadFailed"), ("Degraded", "LoadFailed")):
        assert (told(known, kind).reason, why in told(known, kind).message) == (reason, True)


def test_what_a_draining_or_silent_worker_holds_is_no_reason_to_be_ready() -> None:
    assert said(picture(worker("w1", draining=True, **WARM)))["Ready"] == ("False", "NoWorker")
    silent = Worker("w1", WorkerRecord(address="a:1"))
    assert said(picture(silent))["Ready"] == ("False", "NoWorker")


@given(
    st.lists(st.tuples(st.sampled_from(["loading", "warm", "in_use", "leaving", "failed"]), st.booleans()), max_size=4)
)
@settings(max_examples=80, deadline=None)
def test_it_is_ready_exactly_when_a_worker_that_serves_holds_it(states: list[tuple[Any, bool]]) -> None:
    workers = [worker(f"w{at}", draining=draining, state=state) for at, (state, draining) in enumerate(states)]
    callable_now = any(state in ("warm", "in_use") and not draining for state, draining in states)
    known = picture(*workers)
    assert (told(known, "Ready").status == "True") == callable_now
    assert all(each.message for each in findings(known, ()))


def test_it_is_not_ready_while_all_sessions_are_for_a_revision_that_nobody_holds() -> None:
    alone = Course(REVISION, CANDIDATE.model_copy(update={"weight": 100}))
    known = picture(worker("w1", **WARM), course=alone)
    assert said(known)["Ready"][0] == "False"
    coming = seen(reports_of([candidate_of("w2", state="loading")])["joe"], CANDIDATE.digest)
    assert said(replace(known, candidate=coming))["Ready"] == ("False", "Loading")
    warm = seen(reports_of([candidate_of("w2", **WARM)])["joe"], CANDIDATE.digest)
    assert told(replace(known, candidate=warm), "Ready").message == "Calls are served by w2, revision r2."
    shared = Course(REVISION, CANDIDATE.model_copy(update={"weight": 99}))
    assert said(picture(worker("w1", **WARM), course=shared))["Ready"] == ("True", "Callable")


def test_where_no_worker_has_to_hold_it_none_is_waited_for() -> None:
    spare = model(residency={"policy": "Preload", "minReplicas": 0})
    assert said(picture(of=spare, holders=()))["Resident"] == ("True", "Resident")
    assert said(picture(of=spare, holders=("w1",)))["Resident"] == ("False", "NotResident")
    leaving = Course(REVISION, CANDIDATE.model_copy(update={"weight": 100}))
    assert said(picture(of=spare, holders=(), course=leaving))["Resident"] == ("False", "NotResident")


def test_on_demand_it_is_ready_while_somebody_may_load_it() -> None:
    rare = model(residency={"policy": "OnDemand"})
    known = picture(of=rare, holders=(), lenders=("w1", "w2"))
    assert said(known)["Ready"] == ("True", "OnDemand") and said(known)["Scheduled"] == ("True", "OnDemand")
    assert status_of(known)["resident"] == "0/0"
    failed = worker("w1", state="failed", files="cached", message="no such file")
    assert said(picture(failed, of=rare, holders=(), lenders=("w1",)))["Ready"] == ("False", "LoadFailed")
    none = picture(of=rare, holders=(), shortage=Shortage.NO_ENGINE, engines=("piper",))
    assert said(none)["Ready"] == ("False", "NoEngine")


@pytest.mark.parametrize("shortage", list(Shortage))
def test_every_shortage_has_its_remedy(shortage: Shortage) -> None:
    selected = model(poolSelector={"matchLabels": {"tier": "gold"}})
    known = picture(of=selected, holders=(), shortage=shortage, selected=("gold",), engines=("piper",))
    found = told(known, "Scheduled")
    assert (found.status, found.reason) == ("False", shortage.value)
    assert any(verb in found.message for verb in ("raise ", "give ", "make ", "label ", "see "))


def test_fewer_than_asked_for_are_said_to_be_too_few() -> None:
    known = picture(worker("w1", **WARM), holders=("w1",), shortage=Shortage.TOO_FEW)
    assert status_of(known)["resident"] == "1/2"
    assert said(known)["Resident"] == ("False", "NotResident") and said(known)["Ready"] == ("True", "Callable")


def test_an_alias_that_is_taken_is_named_with_its_owner() -> None:
    known = picture(worker("w1", **WARM), taken={"alloy": "ann"})
    assert "alloy is ann's" in told(known, "Accepted").message and said(known)["Ready"][0] == "True"


def test_the_oldest_has_an_alias_and_a_name_belongs_to_its_model() -> None:
    models = [model("a", aliases=["x", "b"]), model("b", aliases=["x"]), model("c", aliases=["y"])]
    ages = {"a": "2026-01-02", "b": "2026-01-01", "c": "2026-01-03"}
    assert aliases_taken(models, ages) == {"a": {"x": "b", "b": "b"}}


def test_a_rollout_is_said_and_so_is_its_end() -> None:
    shifting = Course(REVISION, CANDIDATE, reason="Shifting", message="10 %")
    known = picture(worker("w1", **WARM), course=shifting)
    assert told(known, "Progressing") == Finding("Progressing", "True", "Shifting", "10 %")
    assert status_of(known)["candidate"]["digest"] == CANDIDATE.digest
    back = Course(REVISION, refused=CANDIDATE.digest, reason="RolledBack", message="20 % failed")
    rolled = picture(worker("w1", **WARM), worker("w2", **WARM), course=back)
    assert told(rolled, "Degraded") == Finding("Degraded", "True", "RolledBack", "20 % failed")
    assert said(rolled)["Progressing"] == ("False", "RolledBack") and status_of(rolled)["refused"] == CANDIDATE.digest


def test_without_the_registry_what_was_said_of_the_workers_stands() -> None:
    stood = [{"type": "Ready", "status": "True", "reason": "Callable", "message": "as before", "observedGeneration": 3}]
    blind = picture(is_blind=True, trouble="Redis does not answer")
    assert told(blind, "Ready", stood) == Finding("Ready", "True", "Callable", "as before", 3)
    now = "2026-01-01T00:00:00Z"
    written = {each["type"]: each for each in conditions(findings(blind, stood), (), generation=4, now=now)}
    assert written["Ready"]["observedGeneration"] == 3 and written["Degraded"]["observedGeneration"] == 4
    assert said(blind)["Degraded"] == ("True", "RegistryUnreachable")
    stale = picture(worker("w1", **WARM), trouble="ConnectionError")
    assert said(stale)["Ready"] == ("True", "Callable")


# --- members ----------------------------------------------------------------------------------------------------------


def pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "labels": {"antiphon.dev/pool": "voices"}},
        "spec": {
            "nodeName": "n",
            "containers": [{"name": "worker", "ports": [{"name": "grpc", "containerPort": 7001}]}],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.7", **status},
    }


def test_a_pod_that_runs_and_has_an_address_is_a_member_ready_or_not() -> None:
    assert member_of(pod()) == WorkerRecord(address="10.0.0.7:7001", pool="voices", node="n")
    found = member_of(pod(podIP="fd00::7"))
    assert found is not None and found.address == "[fd00::7]:7001"


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Pending"},
        {"phase": "Succeeded"},
        {"podIP": ""},
        {"containerStatuses": [{"name": "worker", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        {"containerStatuses": [{"name": "worker", "state": {"terminated": {"exitCode": 1}}}]},
    ],
)
def test_a_pod_in_which_nothing_runs_is_no_member(status: dict[str, Any]) -> None:
    assert member_of(pod(**status)) is None


def test_a_pod_that_is_to_go_is_draining() -> None:
    going, marked = pod(), pod()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    marked["metadata"]["annotations"] = {"antiphon.dev/draining": "true"}
    assert [member is not None and member.draining for member in map(member_of, (pod(), going, marked))] == [
        False,
        True,
        True,
    ]
