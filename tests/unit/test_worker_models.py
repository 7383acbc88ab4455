"""The model manager: what is loaded once, let go when, refused why."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from antiphon.adapters.download import Progress
from antiphon.contracts.adapters import Capabilities
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.loading import LoadedModel, PreparedModel
from antiphon.worker.models import ModelManager
from antiphon.worker.slots import CatalogueEntry, ModelState

pytestmark = [pytest.mark.unit, pytest.mark.looptime]


class SlowLoader:
    """Takes ten seconds of virtual time for a load, one for a close."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.closed: list[str] = []
        self.cause = ""

    async def prepare(self, spec: ModelSpec, progress: Callable[[Progress], None]) -> PreparedModel:
        progress(Progress(1, 2))
        return PreparedModel(spec, f"sha256:{spec.name}", Capabilities("tts", 24_000, memory_mib=10))

    async def load(self, prepared: PreparedModel) -> LoadedModel:
        self.loads.append(prepared.spec.name)
        await asyncio.sleep(10)
        if self.cause:
            raise AntiphonError(Reason.LOAD_FAILED, self.cause)
        return LoadedModel(prepared, engine=None)  # type: ignore[arg-type]

    async def close(self, model: LoadedModel) -> None:
        await asyncio.sleep(1)
        self.closed.append(model.name)


def spec(name: str, policy: str = "OnDemand", **residency: Any) -> ModelSpec:
    return ModelSpec(
        name=name,
        task="tts",
        engine="fake",
        aliases=(f"{name}-alias",),
        residency={"policy": policy, "minimum_seconds": 0} | residency,
    )


@contextlib.asynccontextmanager
async def managing(*specs: ModelSpec, **limits: Any) -> AsyncIterator[tuple[ModelManager, SlowLoader]]:
    loader = SlowLoader()
    clock = asyncio.get_running_loop().time
    metrics = WorkerMetrics(CollectorRegistry())
    async with ModelManager(specs, loader, metrics, clock=clock, **limits) as manager:
        keeping = asyncio.create_task(manager.run())
        try:
            yield manager, loader
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))


async def use(manager: ModelManager, name: str, seconds: float = 0) -> None:
    async with manager.use("tts", name):
        await asyncio.sleep(seconds)


async def test_who_asks_at_once_shares_one_load() -> None:
    async with managing(spec("a")) as (manager, loader):
        await asyncio.gather(*(use(manager, name) for name in ("a", "a-alias", "a")))
        assert loader.loads == ["a"]
        assert manager.view("a").state is ModelState.WARM


async def test_a_cancelled_wait_leaves_the_load_to_others() -> None:
    async with managing(spec("a")) as (manager, loader):
        first, second = asyncio.create_task(use(manager, "a")), asyncio.create_task(use(manager, "a"))
        await asyncio.sleep(1)
        first.cancel()
        await second
        assert loader.loads == ["a"] and first.cancelled()


async def test_pinned_and_preloaded_are_loaded_at_start_and_only_pinned_stay() -> None:
    async with managing(
        spec("pinned", "Pinned", idle_ttl_seconds=5), spec("pre", "Preload", idle_ttl_seconds=5), spec("later")
    ) as (manager, loader):
        await asyncio.sleep(12)
        assert sorted(loader.loads) == ["pinned", "pre"]
        await asyncio.sleep(10)
        assert loader.closed == ["pre"]
        await asyncio.sleep(100)
        assert sorted(loader.loads) == ["pinned", "pre"]
        with pytest.raises(AntiphonError, match="pinned"):
            await manager.unload("pinned")


async def test_the_least_recently_used_goes_first_and_never_one_in_use() -> None:
    async with managing(spec("a"), spec("b"), spec("c"), resident_cap=2) as (manager, loader):
        for name in ("a", "b", "a", "c"):
            await use(manager, name, seconds=1)
        assert loader.closed == ["b"]
        users = [asyncio.create_task(use(manager, name, 100)) for name in ("a", "c")]
        await asyncio.sleep(0)
        with pytest.raises(AntiphonError) as full:
            await use(manager, "b")
        assert full.value.reason is Reason.WORKER_FULL
        await asyncio.gather(*users)
        await use(manager, "b")


async def test_the_memory_budget_holds_and_a_new_model_is_not_thrown_out_at_once() -> None:
    models = spec("a", minimum_seconds=60), spec("b")
    async with managing(*models, memory_budget_mib=15) as (manager, loader):
        await use(manager, "a")
        with pytest.raises(AntiphonError) as full:
            await use(manager, "b")
        assert full.value.reason is Reason.WORKER_FULL
        await asyncio.sleep(60)
        await use(manager, "b")
        assert loader.closed == ["a"]


async def test_an_idle_model_goes_after_its_ttl() -> None:
    async with managing(spec("a", idle_ttl_seconds=30)) as (manager, loader):
        await use(manager, "a", seconds=100)
        await asyncio.sleep(28)
        assert not loader.closed
        await asyncio.sleep(5)
        assert loader.closed == ["a"]
        assert manager.view("a").state is ModelState.ABSENT


async def test_a_failed_load_is_tried_again_later_each_time_later_still() -> None:
    async with managing(spec("a", "Preload")) as (manager, loader):
        loader.cause = "cracked"
        with pytest.raises(AntiphonError, match="cracked") as failed:
            await use(manager, "a")
        assert failed.value.reason is Reason.LOAD_FAILED and failed.value.retry_after_ms == 1000
        assert manager.view("a").state is ModelState.FAILED
        await asyncio.sleep(30)
        assert len(loader.loads) == 4  # each lasts 10 s; then 1 s, 2 s, 4 s pass
        loader.cause = ""
        await asyncio.sleep(30)
        assert manager.view("a").state is ModelState.WARM


async def test_an_unload_waits_for_the_streams_and_takes_no_new_ones() -> None:
    async with managing(spec("a")) as (manager, loader):
        await manager.load("a")
        user = asyncio.create_task(use(manager, "a", 50))
        await asyncio.sleep(1)
        unloading = asyncio.create_task(manager.unload("a"))
        await asyncio.sleep(1)
        assert manager.view("a").state is ModelState.LEAVING
        with pytest.raises(AntiphonError) as refused:
            await use(manager, "a")
        assert refused.value.reason is Reason.MODEL_LOADING
        assert not loader.closed and not unloading.done()
        await user
        assert (await unloading).state is ModelState.ABSENT
        await use(manager, "a")
        assert loader.loads == ["a", "a"]


async def test_a_model_asked_for_while_it_closes_is_loaded_again_after() -> None:
    async with managing(spec("a")) as (manager, loader):
        await manager.load("a")
        unloading = asyncio.create_task(manager.unload("a"))
        await asyncio.sleep(0.5)
        await use(manager, "a")
        assert (loader.closed, loader.loads) == (["a"], ["a", "a"])
        await unloading


async def test_what_is_not_known_is_refused_by_name() -> None:
    async with managing(spec("a")) as (manager, loader):
        for ask in (manager.use("tts", "b"), manager.use("asr", "a"), manager.use("tts", "a", "sha256:other")):
            with pytest.raises(AntiphonError) as unknown:
                async with ask:
                    pass
            assert unknown.value.reason is Reason.MODEL_UNKNOWN
        async with manager.use("tts", "a", "sha256:a") as model:
            assert model.digest == "sha256:a"


async def test_a_load_that_lasts_is_said_to_be_loading_and_goes_on() -> None:
    async with managing(spec("a"), load_wait_s=3) as (manager, loader):
        with pytest.raises(AntiphonError) as loading:
            await use(manager, "a")
        assert loading.value.reason is Reason.MODEL_LOADING
        await asyncio.sleep(8)
        await use(manager, "a")
        assert loader.loads == ["a"]


async def test_who_watches_sees_the_present_and_each_change() -> None:
    async with managing(spec("a"), spec("b")) as (manager, _):
        seen: list[tuple[str, ModelState]] = []

        async def watch() -> None:
            async for view in manager.watch():
                if (view.spec.name, view.state) not in seen:
                    seen.append((view.spec.name, view.state))

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        await use(manager, "a", seconds=1)
        await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait((watching,))
    states = [state for name, state in seen if name == "a"]
    assert states == [ModelState.ABSENT, ModelState.LOADING, ModelState.IN_USE, ModelState.WARM]
    assert ("b", ModelState.ABSENT) in seen


class FetchingLoader(SlowLoader):
    """Fetches for an hour first."""

    def __init__(self) -> None:
        super().__init__()
        self.fetches = 0

    async def prepare(self, spec: ModelSpec, progress: Callable[[Progress], None]) -> PreparedModel:
        self.fetches += 1
        await asyncio.sleep(3600)
        return await super().prepare(spec, progress)


@contextlib.asynccontextmanager
async def fetching(*entries: CatalogueEntry) -> AsyncIterator[tuple[ModelManager, FetchingLoader]]:
    loader = FetchingLoader()
    clock = asyncio.get_running_loop().time
    metrics = WorkerMetrics(CollectorRegistry())
    async with ModelManager((), loader, metrics, clock=clock, load_wait_s=7200) as manager:
        keeping = asyncio.create_task(manager.run())
        try:
            manager.place(entries)
            await asyncio.sleep(60)
            assert manager.view(entries[0].spec.name).state is ModelState.LOADING
            yield manager, loader
        finally:
            keeping.cancel()
            await asyncio.wait((keeping,))


async def test_who_ends_gives_up_what_it_fetches() -> None:
    async with fetching(CatalogueEntry(spec("a"), stay="held")):
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 1


async def test_what_leaves_the_catalogue_is_not_fetched_to_the_end_and_comes_back_when_it_is_wanted_again() -> None:
    entry = CatalogueEntry(spec("a"), stay="held")
    async with fetching(entry) as (manager, loader):
        manager.place([])
        manager.place([entry])
        await asyncio.sleep(10)
        assert loader.fetches == 2 and manager.view("a").state is ModelState.LOADING
        manager.place([])
        await asyncio.sleep(1)
        assert manager.views() == []
    assert loader.loads == []


async def test_a_fetch_that_somebody_waits_for_goes_on_when_its_model_leaves() -> None:
    async with fetching(CatalogueEntry(spec("a"), stay="held")) as (manager, loader):
        waiting = asyncio.create_task(use(manager, "a"))
        await asyncio.sleep(1)
        manager.place([])
        await waiting
        assert loader.loads == ["a"] and loader.fetches == 1


async def test_a_load_that_is_given_up_before_it_began_leaves_nothing_behind() -> None:
    entry = CatalogueEntry(spec("a"), stay="held")
    async with managing() as (manager, loader):
        manager.place([entry])
        manager.place([])
        await asyncio.sleep(1)
        assert manager.views() == []
        manager.place([entry])
        manager.place([])
        manager.place([entry])
        await use(manager, "a")
        assert loader.loads == ["a"]


async def test_who_asks_while_a_load_is_given_up_begins_another() -> None:
    entry = CatalogueEntry(spec("a"), stay="held")
    async with fetching(entry) as (manager, loader):
        for rounds in range(3):  # of the loop: before the fetch has heard of it, and after
            manager.place([])
            manager.place([entry])
            for _ in range(rounds):
                await asyncio.sleep(0)
            async with asyncio.timeout(7200):
                await use(manager, "a")
            manager.place([])
            await asyncio.sleep(60)
            manager.place([entry])
            await asyncio.sleep(60)
    assert loader.loads == ["a"] * 3
