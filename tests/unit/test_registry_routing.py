"""Who is asked: pure, and so shown by properties."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.contracts.adapters import Capabilities
from antiphon.registry.fitness import preference
from antiphon.registry.records import (
    Lease,
    ModelRecord,
    ModelRef,
    ModelState,
    PoolRecord,
    ResidentModel,
    Revision,
    Want,
    WorkerRecord,
)
from antiphon.registry.roster import Index, Roster
from antiphon.registry.routing import Refusal, RouteRequest, explain, route
from antiphon.registry.snapshot import Snapshot, Worker

pytestmark = [pytest.mark.unit, pytest.mark.timeout(20)]

JOE = RouteRequest("tts", "joe")
MODEL = ModelRecord(name="joe", task="tts", engine="piper")


def worker(name: str, state: ModelState | None = "warm", *, marked: bool = False, **lease: object) -> Worker:
    models = () if state is None else (ResidentModel(name="joe", state=state),)
    said = Lease(worker=name, incarnation="i", **({"models": models, "engines": {"piper": "1"}} | lease))  # type: ignore[arg-type]
    return Worker(name, WorkerRecord(address=f"{name}:1", draining=marked), said)


def snapshot(*workers: Worker) -> Snapshot:
    return Snapshot(1, models={"joe": MODEL}, workers={worker.name: worker for worker in workers}, stale=False)


def order(*workers: Worker, **options: object) -> list[str]:
    return [c.worker for c in route(JOE, snapshot(*workers), rng=random.Random(1), limit=20, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (worker("x", draining=True), "draining"),
        (worker("x", marked=True), "draining"),
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


@pytest.mark.parametrize(
    ("members", "wanted", "awaited"),
    [
        ((), 1, True),
        ((Worker("gone", WorkerRecord(address="x:1", pool="p")),), 1, True),
        ((worker("leaves", draining=True),), 1, True),
        ((worker("stays"),), 2, False),
        ((), 0, False),
    ],
)
def test_the_next_worker_of_a_pool_is_awaited_when_nobody_is_left_in_it(
    members: tuple[Worker, ...], wanted: int, awaited: bool
) -> None:
    inside = [replace(each, record=each.record.model_copy(update={"pool": "p"})) for each in members]
    known = replace(snapshot(*inside), pools={"p": PoolRecord(workers=wanted)}, index=None)
    assert known.is_awaited("p") is awaited
    assert not known.is_awaited("q")


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


def test_ten_thousand_requests_spread_evenly_over_twenty_workers() -> None:
    rng, roster, spread = random.Random(3), Roster(), Counter[str]()
    for index in range(20):
        roster.put(worker(f"w{index}", max_streams=1000))
    for _ in range(10_000):
        workers, index = roster.freeze()
        known = Snapshot(1, models={"joe": MODEL}, workers=workers, stale=False, index=index)
        chosen = workers[route(JOE, known, rng=rng)[0].worker]
        spread[chosen.name] += 1
        assert chosen.lease is not None
        lease = chosen.lease.model_copy(update={"streams": chosen.lease.streams + 1})
        roster.put(replace(chosen, lease=lease))
    assert len(spread) == 20 and max(spread.values()) <= 1.25 * 10_000 / 20


states = st.sampled_from([None, "loading", "warm", "in_use", "leaving", "failed"])


@st.composite
def drawn_worker(draw: st.DrawFn, name: str) -> tuple[Worker, bool]:
    """A worker in any condition, and whether it can take a call."""
    draining, marked, capable, dead, foreign = (draw(st.booleans()) for _ in range(5))
    streams = draw(st.integers(0, 4))
    made = worker(
        name,
        draw(states),
        marked=marked,
        draining=draining,
        engines={"piper": "1"} if capable else {"other": "1"},
        wire_version=9 if foreign else 1,
        streams=streams,
        max_streams=3,
    )
    able = capable and not (draining or marked or dead or foreign) and streams < 3
    return (replace(made, lease=None) if dead else made), able


@given(st.data(), st.integers(0, 12), st.integers(), st.sampled_from([None, "w0", "w1", "gone"]), st.integers(1, 20))
def test_only_who_can_is_asked_and_residents_come_first(
    data: st.DataObject, count: int, seed: int, affinity: str | None, limit: int
) -> None:
    drawn = [data.draw(drawn_worker(f"w{index}")) for index in range(count)]
    known = snapshot(*(each for each, _ in drawn))
    candidates = route(JOE, known, rng=random.Random(seed), exclude={"w3"}, affinity=affinity, limit=limit)
    able = {each.name for each, able in drawn if able and each.name != "w3"}
    assert {candidate.worker for candidate in candidates} <= able
    assert len({candidate.worker for candidate in candidates}) == len(candidates) == min(limit, len(able))
    resident = [candidate.resident for candidate in candidates]
    assert resident == sorted(resident, reverse=True)
    assert {verdict.worker for verdict in explain(JOE, known, exclude={"w3"}) if verdict.reason is None} == able


# --- capabilities -----------------------------------------------------------------------------------------------------

ABLE = Capabilities(
    "tts", 24_000, languages=("en-GB", "fr"), voices=("ann",), streaming_input=True, streaming_output=True, emotion=True
)


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        ({"language": "en"}, None),
        ({"language": "EN-gb"}, None),
        ({"language": "en-US"}, Refusal.LANGUAGE),
        ({"language": "fr-CA"}, None),
        ({"language": "de"}, Refusal.LANGUAGE),
        ({"voice": "ann"}, None),
        ({"voice": "bob"}, Refusal.VOICE),
        ({"sample_rate_hz": 24_000}, None),
        ({"sample_rate_hz": 48_000}, Refusal.SAMPLE_RATE),
        ({"streaming": True}, None),
        ({"cloning": True}, Refusal.CLONING),
        ({"emotion": True}, None),
        ({"engine": "piper"}, None),
        ({"engine": "other"}, Refusal.ENGINE),
    ],
)
def test_a_model_that_cannot_do_what_is_asked_has_no_candidates(
    wanted: dict[str, Any], refusal: Refusal | None
) -> None:
    known = replace(snapshot(worker("a")), models={"joe": MODEL.model_copy(update={"capabilities": ABLE})})
    request = replace(JOE, **wanted)
    assert bool(route(request, known, rng=random.Random(1))) == (refusal is None)
    assert [verdict.reason for verdict in explain(request, known)] == [refusal]


def test_an_alias_means_the_model() -> None:
    known = replace(snapshot(worker("a")), aliases={("tts", "tts-1"): "joe"})
    [candidate] = route(RouteRequest("tts", "tts-1"), known, rng=random.Random(1))
    assert candidate.model == "joe"


# --- revisions --------------------------------------------------------------------------------------------------------


def rollout(weight: int, *workers: Worker) -> Snapshot:
    revisions = (Revision(digest="old", weight=100 - weight), Revision(digest="new", weight=weight))
    return replace(snapshot(*workers), models={"joe": MODEL.model_copy(update={"revisions": revisions})})


def holding(name: str, *digests: str, **lease: Any) -> Worker:
    models = tuple(ResidentModel(name="joe", digest=digest, state="warm") for digest in digests)
    return worker(name, None, **{"models": models} | lease)


BOTH = holding("both", "old", "new")


def revision(known: Snapshot, session_id: str, digest: str = "") -> str:
    request = replace(JOE, session_id=session_id, digest=digest)
    return route(request, known, rng=random.Random(1))[0].digest


@given(st.text(max_size=40), st.lists(st.integers(0, 100), min_size=2, max_size=8).map(sorted))
def test_as_the_weight_grows_a_session_goes_over_at_most_once(session_id: str, weights: list[int]) -> None:
    taken = [revision(rollout(weight, BOTH), session_id or "x") for weight in weights]
    assert taken == sorted(taken, reverse=True)  # "old" comes after "new": never back


def test_sessions_are_shared_out_by_weight() -> None:
    taken = Counter(revision(rollout(30, BOTH), f"session-{number}") for number in range(2000))
    assert 0.27 < taken["new"] / 2000 < 0.33
    assert {revision(rollout(0, BOTH), f"session-{number}") for number in range(100)} == {"old"}
    assert {revision(rollout(100, BOTH), f"session-{number}") for number in range(100)} == {"new"}


def test_a_session_keeps_its_revision_for_as_long_as_there_is_one() -> None:
    assert revision(rollout(99, BOTH), "s", digest="old") == "old"
    assert revision(rollout(99, BOTH), "s", digest="gone") == "new"


def test_a_revision_without_weight_takes_nobody_any_more() -> None:
    assert revision(rollout(100, BOTH), "s", digest="old") == "new"
    assert revision(rollout(0, BOTH), "s", digest="new") == "old"


def test_a_revision_that_failed_in_this_stream_comes_last() -> None:
    request = replace(JOE, session_id="s", digest="new")
    found = [
        route(replace(request, avoid=avoid), rollout(50, BOTH), rng=random.Random(1))[0].digest
        for avoid in ((), ("new",), ("old",), ("new", "old"))
    ]
    assert found == ["new", "old", "new", "new"]


def test_a_revision_that_nobody_holds_yet_keeps_nobody_waiting_while_another_is_held() -> None:
    loading = ResidentModel(name="joe", revision="new", state="loading")
    both = (ResidentModel(name="joe", revision="old", state="warm"), loading)
    assert revision(rollout(100, worker("a", None, models=(loading,))), "s") == "new"
    assert {revision(rollout(50, worker("a", None, models=both)), f"s{number}") for number in range(50)} == {"old"}


def test_a_revision_that_nobody_can_serve_is_no_reason_to_refuse() -> None:
    assert revision(rollout(100, holding("a", "old", engines={"piper": "1"})), "s") == "new"  # it can be loaded there
    nobody = rollout(50, holding("a", "old", memory_mib=100, memory_free_mib=0, streams=1))
    heavy = nobody.models["joe"].model_copy(update={"memory_mib": 900})
    taken = {revision(replace(nobody, models={"joe": heavy}), f"s{number}") for number in range(50)}
    assert taken == {"old"}


# --- where it would have to be loaded ---------------------------------------------------------------------------------

HEAVY = MODEL.model_copy(update={"memory_mib": 300})


def full_of(name: str, free_mib: int, *others: tuple[str, ModelState, int]) -> Worker:
    models = tuple(ResidentModel(name=other, state=state, memory_mib=mib) for other, state, mib in others)
    return worker(name, None, models=models, memory_mib=1000, memory_free_mib=free_mib)


def loaders(*workers: Worker, want: dict[str, Want] | None = None) -> list[str]:
    told = (replace(each, want=(want or {}).get(each.name)) for each in workers)
    known = replace(snapshot(*told), models={"joe": HEAVY})
    return [candidate.worker for candidate in route(JOE, known, rng=random.Random(1), limit=20)]


def test_it_is_loaded_where_that_evicts_least() -> None:
    roomy, tight = full_of("roomy", 400, ("x", "warm", 600)), full_of("tight", 200, ("x", "warm", 800))
    assert loaders(tight, full_of("fuller", 100, ("x", "warm", 900)), roomy) == ["roomy", "tight", "fuller"]


def test_what_is_in_use_or_held_is_not_evicted() -> None:
    busy, held = full_of("busy", 100, ("x", "in_use", 900)), full_of("held", 100, ("x", "warm", 900))
    want = {"held": Want(hold=(ModelRef(name="x"),), may=(ModelRef(name="joe"),))}
    assert loaders(busy, held, full_of("idle", 100, ("x", "warm", 900)), want=want) == ["idle"]
    known = replace(snapshot(busy, replace(held, want=want["held"])), models={"joe": HEAVY})
    assert {verdict.reason for verdict in explain(JOE, known)} == {Refusal.NO_MEMORY}


def test_a_worker_loads_only_what_it_was_told_that_it_may() -> None:
    may = {"a": Want(may=(ModelRef(name="joe"),)), "b": Want(hold=(ModelRef(name="x"),))}
    assert loaders(full_of("a", 400), full_of("b", 400), want=may) == ["a"]
    [verdict] = explain(JOE, snapshot(replace(full_of("b", 400), want=may["b"])))
    assert verdict.reason is Refusal.NOT_PLACED


def test_a_model_that_failed_takes_no_other_s_place() -> None:
    broken = full_of("a", 1000, ("broken", "failed", 0))
    assert broken.lease is not None
    one_at_most = replace(broken, lease=broken.lease.model_copy(update={"resident_cap": 1}))
    assert loaders(one_at_most) == ["a"]


def test_every_caller_has_it_loaded_on_the_same_worker() -> None:
    known = replace(snapshot(*(full_of(f"w{index}", 400) for index in range(30))), models={"joe": HEAVY})
    first = {route(JOE, known, rng=random.Random(seed))[0].worker for seed in range(30)}
    assert first == {max((f"w{index}" for index in range(30)), key=lambda name: preference("joe", name))}
    spread = Counter(
        max((f"w{index}" for index in range(4)), key=lambda name: preference(f"m{number}", name))
        for number in range(400)
    )
    assert max(spread.values()) < 160


def evicts_mib(model: ModelRecord, worker: Worker) -> int | None:
    """What must leave for it, thought through anew."""
    lease, held = worker.lease, {ref.name for ref in worker.want.hold} if worker.want else set()
    assert lease is not None
    idle = [each.memory_mib for each in lease.models if each.state == "warm" and each.name not in held]
    lacks = max(0, model.memory_mib - lease.memory_free_mib) if lease.memory_mib else 0
    if lease.resident_cap and len([each for each in lease.models if each.state != "failed"]) >= lease.resident_cap:
        return max(lacks, min(idle), 1) if idle and lacks <= sum(idle) else None
    return lacks if lacks <= sum(idle) else None


@st.composite
def loader(draw: st.DrawFn, name: str) -> Worker:
    others = draw(st.lists(st.tuples(st.sampled_from(["warm", "in_use", "failed"]), st.integers(0, 400)), max_size=3))
    made = full_of(name, draw(st.integers(0, 500)), *((f"m{at}", *each) for at, each in enumerate(others)))
    assert made.lease is not None
    lease = made.lease.model_copy(
        update={
            "resident_cap": draw(st.sampled_from([0, 0, 2])),
            "memory_mib": draw(st.sampled_from([0, 1000, 1000])),
            "streams": draw(st.integers(0, 2)),
            "max_streams": 2,
            "models": (*made.lease.models, *draw(st.sampled_from([(), (ResidentModel(name="joe", state="failed"),)]))),
        }
    )
    wants = st.builds(lambda held, may: Want(hold=held, may=may), refs, refs)
    return replace(made, lease=lease, want=draw(st.none() | wants))


refs = st.lists(st.sampled_from([ModelRef(name=name) for name in ("joe", "m0", "m1")]), max_size=2).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 100), st.integers(0, 2**32))
def test_where_it_would_be_loaded_is_where_that_evicts_least_for_every_caller(
    data: st.DataObject, count: int, seed: int
) -> None:
    kinds = data.draw(st.lists(loader("x"), min_size=1, max_size=6))
    names = [f"w{number}" for number in range(count)]
    known = replace(
        snapshot(*(replace(kinds[at % len(kinds)], name=name) for at, name in enumerate(names))),
        models={"joe": HEAVY},
    )
    able = {
        name: (evicted, -preference("joe", name))
        for name, each in known.workers.items()
        if each.lease and each.lease.streams < 2 and (each.want is None or each.want.allows("joe"))
        if (evicted := evicts_mib(HEAVY, each)) is not None
    }
    failed = {name for name in able if any(each.name == "joe" for each in known.workers[name].lease.models)}  # type: ignore[union-attr]
    best = sorted(able, key=lambda name: (name in failed, able[name]))
    for limit in (1, 4, 200):
        found = route(JOE, known, rng=random.Random(seed), limit=limit)
        assert [candidate.worker for candidate in found] == best[:limit]
    told = {verdict.worker: verdict.evicts_mib for verdict in explain(JOE, known) if verdict.reason is None}
    assert told == {name: evicted for name, (evicted, _) in able.items()}


# --- the index --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), states, st.booleans(), st.booleans()), max_size=40))
def test_an_index_that_was_changed_is_the_one_that_is_made_anew(
    changes: list[tuple[int, ModelState | None, bool, bool]],
) -> None:
    roster, before = Roster(), []
    for number, state, draining, gone in changes:
        if gone:
            roster.remove(f"w{number}")
        else:
            roster.put(worker(f"w{number}", state, draining=draining))
        workers, index = roster.freeze()
        anew = Index.of(workers.values())
        for table, other in ((index.warm, anew.warm), (index.loading, anew.loading)):
            assert {key: set(row) for key, row in table.items()} == {key: set(row) for key, row in other.items()}
        assert rooms(index) == rooms(anew)
        before.append((workers, dict(workers), index, dict(index.warm), rooms(index)))
    for workers, copied, index, warm, had in before:  # what was handed out did not change
        assert (dict(workers), dict(index.warm), rooms(index)) == (copied, warm, had)


def rooms(index: Index) -> dict[str, dict[str, list[float]]]:
    return {
        engine: {name: known.rooms[:, at].tolist() for at, name in enumerate(known.names)}
        for engine, known in index.rooms.items()
    }
