"""A worker's catalogue as others place it: what is held, what may be asked for, what must go."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from test_worker_models import SlowLoader, managing, spec, use

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import Memory, ModelSpec, revision_digest
from antiphon.registry.placement import Placement
from antiphon.registry.records import ModelRecord, ModelRef, Revision, Want
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.models import ModelManager
from antiphon.worker.placement import placed_entries
from antiphon.worker.slots import CatalogueEntry, ModelState, Stay
from antiphon.worker.tally import Tally

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


def held(name: str, **residency: Any) -> CatalogueEntry:
    return CatalogueEntry(spec(name, **residency), stay="held")


def cached(name: str, *, may_load: bool = True, **residency: Any) -> CatalogueEntry:
    return CatalogueEntry(spec(name, **residency), may_load=may_load)


async def test_what_is_held_is_loaded_and_outlives_its_idle_time() -> None:
    async with managing() as (manager, loader):
        manager.place([held("a", idle_ttl_seconds=5), cached("b")])
        await asyncio.sleep(60)
        assert loader.loads == ["a"] and loader.closed == []
        with pytest.raises(AntiphonError, match="to be held"):
            await manager.unload("a")


async def test_what_is_no_longer_held_stays_until_it_was_idle_or_in_the_way() -> None:
    async with managing(resident_cap=1) as (manager, loader):
        manager.place([held("a", idle_ttl_seconds=30), cached("b")])
        await asyncio.sleep(100)
        manager.place([cached("a", idle_ttl_seconds=30), cached("b")])
        await asyncio.sleep(25)
        assert manager.view("a").state is ModelState.WARM
        await use(manager, "b")
        assert loader.closed == ["a"]


async def test_what_left_the_catalogue_goes_with_its_last_stream() -> None:
    async with managing() as (manager, loader):
        manager.place([held("a")])
        speaking = asyncio.create_task(use(manager, "a", seconds=100))
        await asyncio.sleep(20)
        manager.place([cached("b")])
        with pytest.raises(AntiphonError) as caught:
            await use(manager, "a")
        assert caught.value.reason is Reason.MODEL_UNKNOWN
        assert [view.state for view in manager.views() if view.spec.name == "a"] == [ModelState.LEAVING]
        await speaking
        await asyncio.sleep(2)
        assert loader.closed == ["a"]
        assert [view.spec.name for view in manager.views()] == ["b"]


async def test_what_comes_back_before_it_was_gone_is_not_loaded_twice() -> None:
    async with managing() as (manager, loader):
        manager.place([held("a")])
        speaking = asyncio.create_task(use(manager, "a", seconds=100))
        await asyncio.sleep(20)
        manager.place([])
        manager.place([held("a")])
        await speaking
        await use(manager, "a")
        assert loader.loads == ["a"] and loader.closed == []


async def test_what_is_loaded_otherwise_is_loaded_beside_the_old_one() -> None:
    async with managing() as (manager, loader):
        manager.place([held("a")])
        speaking = asyncio.create_task(use(manager, "a", seconds=100))
        await asyncio.sleep(20)
        changed = spec("a").model_copy(update={"engine_config": {"pitch": 2}})
        manager.place([CatalogueEntry(changed, stay="held")])
        await use(manager, "a")
        assert loader.loads == ["a", "a"] and loader.closed == []
        await speaking
        await asyncio.sleep(2)
        assert loader.closed == ["a"] and manager.view("a").state is ModelState.WARM


async def test_a_changed_residency_loads_nothing_anew() -> None:
    async with managing() as (manager, loader):
        manager.place([held("a")])
        await asyncio.sleep(20)
        manager.place([CatalogueEntry(spec("a", idle_ttl_seconds=7), "sha256:a", stay="held")])
        await use(manager, "a")
        assert loader.loads == ["a"]


async def test_only_what_may_be_is_loaded_for_a_caller() -> None:
    async with managing() as (manager, loader):
        manager.place([cached("a"), cached("b", may_load=False)])
        await manager.load("a")
        with pytest.raises(AntiphonError) as caught:
            await manager.load("b")
        assert caught.value.reason is Reason.MODEL_UNKNOWN and loader.loads == ["a"]


async def test_what_is_held_makes_room_but_never_of_what_is_in_use_or_held() -> None:
    async with managing(resident_cap=2) as (manager, loader):
        manager.place([held("a"), cached("b"), cached("c")])
        speaking = asyncio.create_task(use(manager, "b", seconds=200))
        await asyncio.sleep(30)
        manager.place([held("a"), cached("b"), held("c")])
        await asyncio.sleep(100)
        assert loader.closed == [] and sorted(loader.loads) == ["a", "b"]
        await speaking
        await asyncio.sleep(80)
        assert loader.closed == ["b"] and manager.view("c").state is ModelState.WARM


async def test_a_model_that_is_asked_for_gives_way_to_one_that_is_held() -> None:
    async with managing(resident_cap=1) as (manager, loader):
        manager.place([cached("a"), cached("b")])
        await use(manager, "a")
        manager.place([cached("a"), held("b")])
        await asyncio.sleep(15)
        assert loader.closed == ["a"]
        with pytest.raises(AntiphonError) as caught:
            await manager.load("a")
        assert caught.value.reason is Reason.WORKER_FULL


async def test_a_size_that_was_corrected_counts_at_once() -> None:
    def sized(name: str, weights_mib: int) -> CatalogueEntry:
        memory = spec(name).model_copy(update={"memory": Memory(weights_mib=weights_mib)})
        return CatalogueEntry(memory, stay="held")

    async with managing(memory_budget_mib=40) as (manager, loader):
        manager.place([sized("a", 30), sized("b", 30)])
        await asyncio.sleep(30)
        assert (manager.view("a").memory_mib, manager.view("b").reason) == (30, "WORKER_FULL")
        manager.place([sized("a", 15), sized("b", 25)])
        await asyncio.sleep(30)
        assert [manager.view(name).memory_mib for name in ("a", "b")] == [15, 25]
        assert loader.loads == ["a", "b"]


async def test_two_revisions_stand_beside_each_other() -> None:
    loader, old, new = SlowLoader(), spec("a"), spec("a").model_copy(update={"engine_config": {"pitch": 2}})
    async with ModelManager([], loader, WorkerMetrics(CollectorRegistry())) as manager:
        manager.place([CatalogueEntry(old, "sha256:a", stay="held"), CatalogueEntry(new, "sha256:b", stay="held")])
        assert manager.view("a").spec is old
        assert manager.view("a", "sha256:b").spec is new
        await asyncio.sleep(30)
        assert loader.loads == ["a", "a"]


def revision(pitch: int, stay: Stay = "held", **residency: Any) -> CatalogueEntry:
    changed = spec("a", **residency).model_copy(update={"engine_config": {"pitch": pitch}})
    return CatalogueEntry(changed, revision_digest(changed), stay=stay)


def standing(manager: ModelManager, entry: CatalogueEntry) -> tuple[ModelState, str]:
    view = manager.view("a", entry.revision)
    return view.state, view.reason


async def test_each_stream_has_the_revision_that_it_asks_for_by_either_name() -> None:
    old, new = revision(1), revision(2)
    async with managing() as (manager, _):
        manager.place([old, new])
        for entry in (old, new):
            async with manager.use("tts", "a", entry.revision) as model:
                assert model.revision == entry.revision
        async with manager.use("tts", "a", "sha256:a") as model:  # its content's digest
            assert model.revision == old.revision
        with pytest.raises(AntiphonError) as unknown:
            await manager.load("a", "sha256:other")
        assert unknown.value.reason is Reason.MODEL_UNKNOWN


async def test_a_new_revision_waits_for_room_until_the_old_one_is_no_longer_held_and_its_streams_ended() -> None:
    old, new = revision(1, minimum_seconds=600), revision(2)
    async with managing(memory_budget_mib=15) as (manager, loader):
        manager.place([old, new])
        await asyncio.sleep(20)
        assert standing(manager, new) == (ModelState.LOADING, "WORKER_FULL")
        with pytest.raises(AntiphonError) as full:
            await manager.load("a", new.revision)
        assert full.value.reason is Reason.WORKER_FULL
        speaking = asyncio.create_task(use(manager, "a", seconds=50))
        await asyncio.sleep(1)
        manager.place([revision(1, "cached", minimum_seconds=600), new])
        await asyncio.sleep(1)
        assert [standing(manager, entry)[0] for entry in (old, new)] == [ModelState.LEAVING, ModelState.LOADING]
        with pytest.raises(AntiphonError) as waits:
            await manager.load("a", new.revision)
        assert waits.value.reason is Reason.MODEL_LOADING and "its other revision" in waits.value.message
        await speaking
        await asyncio.sleep(12)
        assert standing(manager, new) == (ModelState.WARM, "") and loader.closed == ["a"]


async def test_what_waits_for_room_and_is_no_longer_to_be_held_gives_up() -> None:
    old, new = revision(1), revision(2)
    async with managing(memory_budget_mib=15) as (manager, loader):
        manager.place([old, new])
        await asyncio.sleep(20)
        manager.place([old, revision(2, "cached")])
        await asyncio.sleep(1)
        assert standing(manager, new) == (ModelState.ABSENT, "") and loader.loads == ["a"]
        manager.place([old, new])
        await asyncio.sleep(5)
        assert standing(manager, new)[0] is ModelState.LOADING
    assert loader.closed == ["a"]


async def test_a_swap_that_is_taken_back_leaves_the_old_revision_where_it_is() -> None:
    old, new = revision(1), revision(2)
    async with managing(memory_budget_mib=15) as (manager, loader):
        manager.place([old, new])
        await asyncio.sleep(20)
        speaking = asyncio.create_task(use(manager, "a", seconds=50))
        await asyncio.sleep(1)
        manager.place([revision(1, "cached"), new])
        await asyncio.sleep(1)
        assert standing(manager, old)[0] is ModelState.LEAVING
        manager.place([old])
        await speaking
        await asyncio.sleep(20)
        assert standing(manager, old)[0] is ModelState.WARM and loader.loads == ["a"] and loader.closed == []


async def test_a_revision_that_is_tried_out_keeps_nobody_waiting() -> None:
    async with managing(memory_budget_mib=15) as (manager, _):
        manager.place([revision(1), revision(2)])
        async with asyncio.timeout(15):
            await manager.warm()


async def test_what_becomes_of_streams_is_counted_by_revision() -> None:
    old, new = revision(1), revision(2)
    async with managing() as (manager, _):
        manager.place([old, new])
        await use(manager, "a")
        for reason in (Reason.ENGINE_FAULT, Reason.INVALID_REQUEST):
            with pytest.raises(AntiphonError):
                async with manager.use("tts", "a", new.revision) as model:
                    model.tally.note_first_audio(40)
                    raise AntiphonError(reason, "as it was told")
        views = {view.revision: view for view in manager.views()}
        counts = [(views[entry.revision].served, views[entry.revision].failed) for entry in (old, new)]
        assert counts == [(1, 0), (0, 1)] and views[new.revision].first_audio_ms == 40


def test_first_audio_is_what_most_of_the_latest_streams_waited() -> None:
    tally = Tally()
    for ms in (9_999, *range(1, 101)):
        tally.note_first_audio(ms)
    assert tally.first_audio_ms == 95


def test_who_gave_up_soon_was_not_failed() -> None:
    tally = Tally()
    for waited_s in (0.1, 1.9, 2.5):
        tally.note_giving_up(waited_s)
    assert (tally.served, tally.failed) == (0, 1)


def record(name: str, **changes: Any) -> ModelRecord:
    return ModelRecord.of(ModelSpec(name=name, task="tts", engine="mock")).model_copy(update=changes)


def entries(want: Want, *records: ModelRecord) -> dict[tuple[str, str], tuple[str, bool]]:
    placement = Placement(1, {each.name: each for each in records}, want)
    return {(entry.spec.name, entry.digest): (entry.stay, entry.may_load) for entry in placed_entries(placement)}


def test_a_want_says_what_is_held_and_what_may_be_loaded() -> None:
    want = Want(hold=(ModelRef(name="a"),), may=(ModelRef(name="b"), ModelRef(name="unknown")))
    assert entries(want, record("a"), record("b"), record("c")) == {
        ("a", ""): ("held", True),
        ("b", ""): ("cached", True),
        ("c", ""): ("cached", False),
    }


def test_a_revision_is_wanted_by_its_digest_and_the_models_own_comes_first() -> None:
    revisions = (Revision(digest="new", weight=10), Revision(digest="own", weight=90))
    want = Want(hold=(ModelRef(name="a"),), may=(ModelRef(name="a", digest="new"),))
    said = entries(want, record("a", digest="own", revisions=revisions))
    assert list(said.items()) == [(("a", "own"), ("held", True)), (("a", "new"), ("cached", True))]


def test_what_this_version_does_not_understand_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    odd = record("odd", spec={"name": "odd", "task": "tts", "engine": "mock", "fromTheFuture": 1})
    assert entries(Want(), odd, record("empty", spec={}), record("a")) == {("a", ""): ("cached", False)}
    assert [getattr(told, "model", "") for told in caplog.records] == ["odd", "empty"]
