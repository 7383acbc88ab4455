"""Where a stream goes when nobody holds its model: a load, a fallback, the next worker, or a refusal that says why."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.conversation.ports import ModelLoading
from antiphon.orchestrator.config import AliasesConfig
from antiphon.orchestrator.names import Names
from antiphon.orchestrator.workers.channels import WorkerChannels
from antiphon.orchestrator.workers.fleet import Choice, Fleet, StillLoading, Tries, Wanted
from antiphon.orchestrator.workers.loads import Loads
from antiphon.registry.records import Lease, ModelRecord, ModelRef, ResidentModel, Revision, Want, WorkerRecord
from antiphon.registry.routing import Candidate
from antiphon.registry.snapshot import Snapshot, Worker

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

Refusals = dict[str, AntiphonError]


class Known:
    """A reader whose snapshot is made by hand: worker -> the models that it holds."""

    def __init__(self, holds: dict[str, list[str]], may: list[str] | None = None) -> None:
        self.may = may
        self.version = 0
        self.tell(holds)

    def tell(self, holds: dict[str, list[str]], **lease: Any) -> None:
        self.version += 1
        models = {name: ModelRecord.of(ModelSpec(name=name, task="tts", engine="mock")) for name in ("a", "b")}
        self.snapshot = Snapshot(
            version=self.version,
            stale=False,
            models=models,
            workers={name: self._worker(name, held, lease) for name, held in holds.items()},
        )

    def _worker(self, name: str, held: list[str], lease: dict[str, Any]) -> Worker:
        models = tuple(ResidentModel(name=model, state="warm") for model in held)
        said = Lease(worker=name, incarnation=name, engines={"mock": "1"}, models=models, **lease)
        want = Want(may=tuple(ModelRef(name=model) for model in self.may or ("a", "b")))
        return Worker(name, WorkerRecord(address=f"{name}:1"), said, want=want)

    async def changed(self, version: int) -> Snapshot:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


class ScriptedLoads(Loads):
    """Takes ten seconds for a load, or is refused as told."""

    def __init__(self, known: Known, refusals: Refusals) -> None:
        super().__init__(WorkerChannels())
        self.known = known
        self.refusals = refusals
        self.asked: list[str] = []
        self.load_s = 10.0
        self.loaded: dict[str, list[str]] = {}

    async def _ask(self, candidate: Candidate, model: str) -> AntiphonError | None:
        self.asked.append(candidate.worker)
        if candidate.worker in self.refusals:
            return self.refusals[candidate.worker]
        await asyncio.sleep(self.load_s)
        self.loaded[candidate.worker] = [model]
        return None


class Stage:
    """A fleet, and what came of its streams."""

    def __init__(self, holds: dict[str, list[str]], refusals: Refusals | None = None, **known: Any) -> None:
        self.known = Known(holds, **known)
        self.loads = ScriptedLoads(self.known, refusals or {})
        self.demand: list[tuple[str, str]] = []
        names = Names(AliasesConfig(), {"tts": None, "asr": None}, lambda: self.known.snapshot)
        self.fleet = Fleet(
            self.known,  # type: ignore[arg-type]
            WorkerChannels(),
            names,
            rng=random.Random(1),
            loads=self.loads,
            note_demand=lambda task, model, reason: self.demand.append((model, reason)),
        )
        self.fails: Callable[[Choice], AntiphonError | None] = lambda choice: None
        self.tried: list[str] = []
        self.sessions = 0

    async def stream(self, model: str = "a", fallback: str = "") -> tuple[str, str, list[ModelLoading]]:
        """Which model served it, on which worker, and what was told meanwhile."""
        served: list[Choice] = []
        told: list[ModelLoading] = []

        async def attempt(choice: Choice, tries: Tries) -> None:
            self.tried.append(choice.candidate.worker)
            if (error := self.fails(choice)) is not None:
                raise error
            served.append(choice)

        async def tell(loading: ModelLoading) -> None:
            told.append(loading)

        self.sessions += 1  # each is a session of its own: none is bound to a worker
        await self.fleet.serve(Wanted("tts", model, f"session-{self.sessions}", fallback), attempt, tell)
        return served[-1].model, served[-1].candidate.worker, told


def full() -> AntiphonError:
    return AntiphonError(Reason.WORKER_FULL, "full", retry_after_ms=60_000)


async def test_who_holds_the_model_is_asked_and_nothing_is_loaded() -> None:
    stage = Stage({"w1": [], "w2": ["a"]})
    assert await stage.stream() == ("a", "w2", [])
    assert stage.loads.asked == [] and stage.demand == []


async def test_a_stream_waits_for_the_load_and_all_share_one() -> None:
    stage = Stage({"w1": [], "w2": [], "w3": []})
    answers = await asyncio.gather(*(stage.stream() for _ in range(5)))
    assert len({worker for _, worker, _ in answers}) == len(stage.loads.asked) == 1
    assert all(told == [ModelLoading("a", 0.0)] for *_, told in answers)
    assert asyncio.get_running_loop().time() == pytest.approx(10, abs=0.3)
    assert stage.demand == [("a", Reason.MODEL_LOADING)] * 5


async def test_every_orchestrator_chooses_the_same_worker() -> None:
    stages = [Stage({f"w{number}": [] for number in range(9)}) for _ in range(4)]
    await asyncio.gather(*(stage.stream() for stage in stages))
    assert len({stage.loads.asked[0] for stage in stages}) == 1


async def test_a_fallback_serves_while_the_model_is_loaded() -> None:
    stage = Stage({"w1": ["b"], "w2": []})
    assert await stage.stream("a", "b") == ("b", "w1", [ModelLoading("a", 0.0, "b")])
    assert asyncio.get_running_loop().time() == 0 and stage.demand == [("a", Reason.MODEL_LOADING)]
    await asyncio.sleep(11)
    assert len(stage.loads.asked) == 1


async def test_a_fallback_that_nobody_holds_is_no_help() -> None:
    stage = Stage({"w1": [], "w2": []})
    model, _, told = await stage.stream("a", "b")
    assert model == "a" and told == [ModelLoading("a", 0.0)]


async def test_a_worker_without_room_sends_its_callers_to_the_next_at_once() -> None:
    first = Stage({"w1": [], "w2": []})
    await first.stream()
    [preferred] = first.loads.asked
    begun = asyncio.get_running_loop().time()
    stage = Stage({"w1": [], "w2": []}, {preferred: full()})
    _, worker, _ = await stage.stream()
    assert stage.loads.asked == [preferred, worker]
    assert asyncio.get_running_loop().time() - begun == pytest.approx(10, abs=0.5)


async def test_a_fallbacks_callers_do_not_ask_a_worker_without_room_again_and_again() -> None:
    stage = Stage({"w1": [], "w2": [], "w3": ["b"]}, {"w1": full(), "w3": full()})
    for _ in range(5):
        await stage.stream("a", "b")
        await asyncio.sleep(0.1)
    assert stage.loads.asked.count("w2") == 1 and len(stage.loads.asked) <= 3


async def test_no_room_anywhere_is_told_as_such() -> None:
    stage = Stage({"w1": [], "w2": []}, {"w1": full(), "w2": full()})
    with pytest.raises(AntiphonError) as caught:
        await stage.stream()
    assert caught.value.reason is Reason.WORKER_FULL and caught.value.retry_after_ms
    assert sorted(stage.loads.asked) == ["w1", "w2"]


async def test_all_streams_in_use_is_told_as_such() -> None:
    stage = Stage({"w1": ["a"]})
    stage.known.tell({"w1": ["a"]}, streams=4, max_streams=4)
    with pytest.raises(AntiphonError) as caught:
        await stage.stream()
    assert caught.value.reason is Reason.WORKER_FULL
    assert stage.demand == [("a", Reason.WORKER_FULL)]


async def test_what_no_worker_may_load_is_demand_and_no_worker() -> None:
    stage = Stage({"w1": []}, may=["b"])
    with pytest.raises(AntiphonError) as caught:
        await stage.stream()
    assert caught.value.reason is Reason.NO_WORKER and stage.loads.asked == []
    assert stage.demand == [("a", Reason.NO_WORKER)]


async def test_a_load_that_takes_too_long_goes_on_without_its_caller() -> None:
    stage = Stage({"w1": [], "w2": []})
    stage.loads.load_s = 100
    with pytest.raises(StillLoading) as caught:
        await stage.stream()
    assert caught.value.reason is Reason.MODEL_LOADING and caught.value.retry_after_ms
    assert len(stage.loads.asked) == 1
    await asyncio.sleep(100)
    stage.known.tell({"w1": stage.loads.loaded.get("w1", []), "w2": stage.loads.loaded.get("w2", [])})
    assert await stage.stream() == ("a", stage.loads.asked[0], [])


async def test_a_caller_that_leaves_does_not_end_the_load_of_the_others() -> None:
    stage = Stage({"w1": []})
    first, second = asyncio.create_task(stage.stream()), asyncio.create_task(stage.stream())
    await asyncio.sleep(1)
    first.cancel()
    assert (await second)[0] == "a" and stage.loads.asked == ["w1"]


async def test_a_worker_that_is_lost_is_left_alone_for_longer_each_time() -> None:
    stage = Stage({"w1": ["a"], "w2": ["a"]})
    stage.fails = lambda choice: (
        AntiphonError(Reason.WORKER_LOST, "gone", retry_after_ms=0) if choice.candidate.worker == "w1" else None
    )
    for _ in range(600):
        assert (await stage.stream())[1] == "w2"
        await asyncio.sleep(0.1)
    # After 1, 2, 4, 8, 16 and 16 s, and a moment each time until chance asks it.
    assert 5 <= stage.tried.count("w1") <= 7


async def test_a_worker_that_refuses_is_not_held_for_broken() -> None:
    stage = Stage({"w1": ["a"], "w2": ["a"]})
    stage.fails = lambda choice: full() if choice.candidate.worker == "w1" else None
    for _ in range(50):
        assert (await stage.stream())[1] == "w2"
    assert stage.tried.count("w1") > 10


@pytest.mark.parametrize("reason", [Reason.WORKER_FULL, Reason.DRAINING])
async def test_the_one_worker_that_has_room_is_found_among_many_that_say_so_too_late(reason: Reason) -> None:
    stage = Stage({f"w{number}": ["a"] for number in range(20)})
    refusal = AntiphonError(reason, "no room", retry_after_ms=1000)
    stage.fails = lambda choice: refusal if choice.candidate.worker != "w7" else None
    for _ in range(20):
        assert (await stage.stream())[1] == "w7"


async def test_that_nobody_has_room_is_found_out_in_time() -> None:
    stage = Stage({f"w{number}": ["a"] for number in range(20)})

    stage.fails = lambda choice: AntiphonError(Reason.WORKER_FULL, "no room", retry_after_ms=100)
    with pytest.raises(AntiphonError) as caught:
        await stage.stream()
    assert caught.value.reason is Reason.WORKER_FULL and caught.value.retry_after_ms
    assert len(stage.tried) <= 20 + 6


async def test_a_full_worker_that_may_not_load_the_model_does_not_lack_room_for_it() -> None:
    stage = Stage({"w1": ["b"]}, may=["b"])
    stage.known.tell({"w1": ["b"]}, streams=4, max_streams=4)
    with pytest.raises(AntiphonError) as caught:
        await stage.stream("a")
    assert caught.value.reason is Reason.NO_WORKER and "may not load it" in caught.value.message
    assert stage.demand == [("a", Reason.NO_WORKER)]


async def test_a_revision_that_cannot_be_loaded_does_not_keep_the_other_from_being() -> None:
    stage = Stage({"w1": []})
    new, old = Revision(digest="new", weight=100), Revision(digest="old", weight=1)
    model = stage.known.snapshot.models["a"].model_copy(update={"revisions": (old, new)})
    workers = {"w1": replace(stage.known.snapshot.workers["w1"], want=Want(may=(ModelRef(name="a"),)))}
    stage.known.snapshot = replace(stage.known.snapshot, models={"a": model}, workers=workers)
    whole, asked = stage.loads._ask, list[str]()

    async def ask(candidate: Candidate, name: str) -> AntiphonError | None:
        asked.append(candidate.digest)
        if candidate.digest == "new":
            return AntiphonError(Reason.LOAD_FAILED, "wrong digest", retry_after_ms=60_000)
        return await whole(candidate, name)

    stage.loads._ask = ask  # type: ignore[method-assign]
    for _ in range(3):
        assert (await stage.stream())[:2] == ("a", "w1")
    assert asked.count("new") == 1
