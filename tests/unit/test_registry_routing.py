"""Who is asked: pure, and so shown by properties."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.registry.records import Lease, ModelRecord, ModelState, ResidentModel, WorkerRecord
from antiphon.registry.routing import RouteRequest, explain, route
from antiphon.registry.snapshot import Snapshot, Worker

pytestmark = pytest.mark.unit

JOE = RouteRequest("tts", "joe")
MODEL = ModelRecord(name="joe", task="tts", engine="piper")


def worker(name: str, state: ModelState | None = "warm", *, draining: bool = False, **lease: object) -> Worker:
    models = () if state is None else (ResidentModel(name="joe", state=state),)
    said = Lease(worker=name, incarnation="i", models=models, **({"engines": {"piper": "1"}} | lease))  # type: ignore[arg-type]
    return Worker(name, WorkerRecord(address=f"{name}:1", draining=draining), said)


def snapshot(*workers: Worker) -> Snapshot:
    return Snapshot(1, models={"joe": MODEL}, workers={worker.name: worker for worker in workers}, stale=False)


def order(*workers: Worker, **options: object) -> list[str]:
    return [c.worker for c in route(JOE, snapshot(*workers), rng=random.Random(1), **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (worker("x", draining=True), "draining"),
        (Worker("x", WorkerRecord(address="x:1")), "not alive"),
        (worker("x", engines={"mock": "1"}), "no engine piper"),
        (worker("x", streams=2, max_streams=2), "in use"),
        (worker("x", wire_version=9), "version 9"),
    ],
)
def test_who_cannot_take_it_is_not_asked_and_explained(refused: Worker, why: str) -> None:
    assert order(refused, worker("a")) == ["a"]
    [verdict] = [verdict for verdict in explain(JOE, snapshot(refused, worker("a"))) if verdict.worker == "x"]
    assert why in verdict.refusal


def test_an_unknown_model_or_another_task_has_no_candidates() -> None:
    known = snapshot(worker("a"))
    for request in (RouteRequest("tts", "ann"), RouteRequest("asr", "joe")):
        assert route(request, known, rng=random.Random(1)) == []
        assert all("catalogue" in verdict.refusal for verdict in explain(request, known))


def test_the_sessions_own_then_who_holds_it_then_who_loads_it_then_the_rest() -> None:
    workers = [worker("failed", "failed"), worker("absent", None), worker("loading", "loading"), worker("warm")]
    own = worker("own", "in_use", streams=3, max_streams=4)
    assert order(*workers, own, affinity="own") == ["own", "warm", "loading", "absent", "failed"]
    assert order(worker("own", None), worker("warm"), affinity="own") == ["warm", "own"]


def test_excluded_workers_are_left_out() -> None:
    assert order(worker("a"), worker("b"), exclude={"a"}) == ["b"]


def test_the_load_spreads_evenly() -> None:
    rng, streams = random.Random(3), Counter({f"w{index}": 0 for index in range(20)})
    for _ in range(500):
        known = snapshot(*(worker(name, streams=count, max_streams=100) for name, count in streams.items()))
        streams[route(JOE, known, rng=rng)[0].worker] += 1
    assert max(streams.values()) <= 1.25 * 500 / 20


states = st.sampled_from([None, "loading", "warm", "in_use", "leaving", "failed"])


@given(st.lists(st.tuples(states, st.booleans(), st.booleans(), st.integers(0, 3)), max_size=12), st.integers())
def test_only_who_can_is_asked_and_residents_come_first(
    drawn: list[tuple[ModelState | None, bool, bool, int]], seed: int
) -> None:
    workers = [
        worker(
            f"w{index}",
            state,
            draining=draining,
            engines={"piper": "1"} if capable else {},
            streams=streams,
            max_streams=3,
        )
        for index, (state, draining, capable, streams) in enumerate(drawn)
    ]
    candidates = route(JOE, snapshot(*workers), rng=random.Random(seed))
    able = {
        f"w{i}" for i, (_, draining, capable, streams) in enumerate(drawn) if capable and not draining and streams < 3
    }
    assert {candidate.worker for candidate in candidates} == able and len(candidates) == len(able)
    resident = [candidate.resident for candidate in candidates]
    assert resident == sorted(resident, reverse=True)
