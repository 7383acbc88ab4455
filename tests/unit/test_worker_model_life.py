"""Random sequences of load, unload, place, stream, pause, stop and evict break no invariant of the model manager."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from prometheus_client import CollectorRegistry

from antiphon.adapters.download import Progress
from antiphon.contracts.adapters import Capabilities, SpeechChunk, SpeechRequest
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec, revision_digest
from antiphon.contracts.v1 import synthesis_pb2 as pb
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.loading import LoadedModel, PreparedModel
from antiphon.worker.models import ModelManager
from antiphon.worker.slots import CatalogueEntry
from antiphon.worker.synthesis import Synthesis, SynthesisOrder

pytestmark = [pytest.mark.unit, pytest.mark.timeout(120)]

T = TypeVar("T")
RATE_HZ = 8_000
BUDGET_MIB, CAP = 40, 3
SPECS = tuple(
    ModelSpec(
        name=name,
        task="tts",
        engine="fake",
        memory={"weights_mib": weights_mib, "per_stream_mib": per_stream_mib},
        residency={"policy": policy, "minimum_seconds": minimum_s, "idle_ttl_seconds": 30},
    )
    for name, weights_mib, per_stream_mib, policy, minimum_s in (
        ("pinned", 5, 0, "Pinned", 0),
        ("preload", 10, 0, "Preload", 0),
        ("small", 10, 2, "OnDemand", 0),
        ("large", 25, 0, "OnDemand", 0),
        ("sticky", 10, 0, "OnDemand", 20),
        ("huge", 100, 0, "OnDemand", 0),
    )
)
REVISIONS = tuple(
    spec.model_copy(update={"engine_config": {"pitch": 2}})
    for spec in SPECS
    if spec.name in ("pinned", "small", "large")
)
DIGESTS = st.sampled_from(["", *map(revision_digest, REVISIONS)])
NAMES = st.sampled_from([spec.name for spec in SPECS])
ENTRIES = st.builds(
    CatalogueEntry,
    st.sampled_from(SPECS + REVISIONS),
    digest=st.just(""),
    stay=st.sampled_from(["held", "preloaded", "cached"]),
    may_load=st.booleans(),
)


def content(spec: ModelSpec) -> str:
    """What stands for the digest of a model's content: another one for each model and revision."""
    return f"{spec.name} {revision_digest(spec)}"


class FakeEngine:
    def __init__(self) -> None:
        self.voices = 0
        self.wrong: list[str] = []

    def open(self, request: SpeechRequest) -> "FakeVoice":
        self.voices += 1
        return FakeVoice(self)

    @classmethod
    def describe(cls, files: Any, settings: Any) -> Capabilities:
        return Capabilities(task="tts", sample_rate_hz=RATE_HZ)

    def load(self, files: Any, settings: Any) -> None: ...

    def close(self) -> None:
        if self.voices:
            self.wrong.append("an engine was closed in use")


class FakeVoice:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._open = True

    def synthesize(self, clause: str) -> Iterator[SpeechChunk]:
        for _ in clause.split():
            if not self._open:
                self._engine.wrong.append("a closed voice spoke")
            yield SpeechChunk(np.full(RATE_HZ // 5, 0.1, np.float32))

    def cancel(self) -> None: ...

    def close(self) -> None:
        if self._open:
            self._open = False
            self._engine.voices -= 1


class FakeLoader:
    """Counts what is alive; each step takes some turns of the loop; fails when it is told to."""

    def __init__(self) -> None:
        self.alive: Counter[str] = Counter()
        self.engines: list[FakeEngine] = []
        self.broken = False

    async def prepare(self, spec: ModelSpec, progress: Callable[[Progress], None]) -> PreparedModel:
        await turns(2)
        progress(Progress(1, 2))
        return PreparedModel(spec, content(spec), FakeEngine.describe(None, {}))

    async def load(self, prepared: PreparedModel) -> LoadedModel:
        self.alive[prepared.digest] += 1  # memory is taken from the first byte on
        await turns(4)
        if self.broken:
            self.alive[prepared.digest] -= 1
            raise AntiphonError(Reason.LOAD_FAILED, "told to fail")
        engine = FakeEngine()
        self.engines.append(engine)
        return LoadedModel(prepared, engine)

    async def close(self, model: LoadedModel) -> None:
        await turns(3)
        assert isinstance(model.engine, FakeEngine)
        model.engine.close()
        self.alive[model.digest] -= 1


class InlineExecutor:
    """Computes on the loop, one turn later: the same every time."""

    has_free_thread = True

    async def run(self, hop: Callable[..., T], *args: Any, cancel: Callable[[], None] | None = None) -> T:
        await turns(1)
        return hop(*args)

    async def run_to_end(self, hop: Callable[[], None]) -> None:
        hop()


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Caller:
    """One caller of a synthesis, without gRPC."""

    def __init__(self, models: ModelManager, metrics: WorkerMetrics, name: str, digest: str) -> None:
        config = pb.SynthesisConfig(
            stream_id=str(uuid.uuid4()), model=name, digest=digest, sample_rate_hz=RATE_HZ, max_lead_ms=400
        )
        self._requests: asyncio.Queue[pb.SynthesizeRequest | None] = asyncio.Queue()
        self.responses: list[pb.SynthesizeResponse] = []
        self.stream = Synthesis(
            SynthesisOrder.of(config),
            models,
            InlineExecutor(),  # type: ignore[arg-type]
            metrics,
            max_text_chars=10_000,
            max_stream_s=600,
        )
        self.task = asyncio.get_running_loop().create_task(self._run())

    def send(self, **kind: Any) -> None:
        self._requests.put_nowait(pb.SynthesizeRequest(**kind))

    async def _run(self) -> str:
        try:
            await self.stream.run(self._incoming(), self._write)
        except AntiphonError as error:
            return error.reason
        except BaseExceptionGroup as group:
            assert all(isinstance(error, AntiphonError) for error in group.exceptions), group.exceptions
            return "refused"
        assert self.responses[-1].WhichOneof("kind") == "summary"
        return "spoken"

    async def _incoming(self) -> AsyncIterator[pb.SynthesizeRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _write(self, response: pb.SynthesizeResponse) -> None:
        await turns(1)
        self.responses.append(response)
        if response.WhichOneof("kind") == "summary":
            self._requests.put_nowait(None)


class ModelLife(RuleBasedStateMachine):
    callers = Bundle("callers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.loader = FakeLoader()
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.everyone: list[Caller] = []
        self.asked: list[asyncio.Task[Any]] = []
        self.manager = self._on_loop(self._open())

    async def _open(self) -> ModelManager:
        manager = ModelManager(
            SPECS,
            self.loader,
            self.metrics,
            memory_budget_mib=BUDGET_MIB,
            resident_cap=CAP,
            clock=lambda: self.now,
        )
        # The manager's task group belongs to the task that opens and closes it.
        opened, self.close_now = asyncio.Event(), asyncio.Event()

        async def life() -> None:
            async with manager:
                opened.set()
                await self.close_now.wait()

        self.life = asyncio.get_running_loop().create_task(life())
        await opened.wait()
        return manager

    def _on_loop(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def _ask(self, work: Callable[[], Any]) -> None:
        async def begin() -> None:
            self.asked.append(asyncio.get_running_loop().create_task(work()))
            await turns(1)

        self._on_loop(begin())

    @rule(name=NAMES, digest=DIGESTS)
    def load(self, name: str, digest: str) -> None:
        self._ask(lambda: self.manager.load(name, digest))

    @rule(name=NAMES)
    def unload(self, name: str) -> None:
        self._ask(lambda: self.manager.unload(name))

    @rule(entries=st.lists(ENTRIES, unique_by=lambda entry: entry.key))
    def place(self, entries: list[CatalogueEntry]) -> None:
        async def place() -> None:
            self.manager.place(entries)

        self._on_loop(place())

    @rule(
        target=callers,
        name=NAMES,
        digest=DIGESTS,
        text=st.sampled_from(["", "One. ", "One two three. Four five six. "]),
    )
    def stream(self, name: str, digest: str, text: str) -> Caller:
        async def begin() -> Caller:
            caller = Caller(self.manager, self.metrics, name, digest)
            caller.send(text=pb.TextInput(text=text))
            return caller

        caller: Caller = self._on_loop(begin())
        self.everyone.append(caller)
        return caller

    @rule(caller=callers, text=st.sampled_from(["and ", "more. "]))
    def say_more(self, caller: Caller, text: str) -> None:
        caller.send(text=pb.TextInput(text=text))

    @rule(caller=callers, samples=st.integers(0, 4 * RATE_HZ))
    def played(self, caller: Caller, samples: int) -> None:
        caller.send(played=pb.Played(position_samples=samples))

    @rule(caller=callers)
    def pause(self, caller: Caller) -> None:
        caller.stream.pause()

    @rule(caller=callers)
    def resume(self, caller: Caller) -> None:
        caller.stream.resume()

    @rule(caller=consumes(callers))
    def end(self, caller: Caller) -> None:
        caller.send(end=pb.EndOfText())

    @rule(caller=callers)
    def stop(self, caller: Caller) -> None:
        async def stop() -> None:
            caller.stream.stop()

        self._on_loop(stop())

    @rule(caller=consumes(callers))
    def vanish(self, caller: Caller) -> None:
        caller.task.cancel()

    @rule(caller=callers)
    def leave(self, caller: Caller) -> None:
        caller.stream.leave()

    @rule(count=st.integers(1, 30))
    def turn(self, count: int) -> None:
        self._on_loop(turns(count))

    @rule(seconds=st.sampled_from([0.5, 5.0, 25.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        async def sweep() -> None:
            self.now += seconds
            self.manager.sweep()

        self._on_loop(sweep())

    @rule(broken=st.booleans())
    def breaks_or_mends(self, broken: bool) -> None:
        self.loader.broken = broken

    @invariant()
    def nothing_is_there_twice(self) -> None:
        assert all(count in (0, 1) for count in self.loader.alive.values()), self.loader.alive

    @invariant()
    def never_above_budget(self) -> None:
        alive = [digest for digest, count in self.loader.alive.items() if count]
        known = [spec for spec in SPECS + REVISIONS if content(spec) in alive]
        assert len(known) == len(alive) and sum(spec.memory.weights_mib for spec in known) <= BUDGET_MIB
        assert len(alive) <= CAP

    @invariant()
    def nothing_is_let_go_in_use(self) -> None:
        assert not [wrong for engine in self.loader.engines for wrong in engine.wrong]

    def teardown(self) -> None:
        try:
            self._on_loop(self._end())
        finally:
            self.loop.close()

    async def _end(self) -> None:
        for caller in self.everyone:
            caller.stream.resume()
            caller.send(end=pb.EndOfText())
            for second in range(1, 60):
                caller.send(played=pb.Played(position_samples=second * RATE_HZ))
        waiting = [caller.task for caller in self.everyone] + self.asked
        for _ in range(5_000):
            if all(task.done() for task in waiting):
                break
            for caller in self.everyone:
                caller.send(played=pb.Played(position_samples=1 << 40))
            await turns(1)
        assert all(task.done() for task in waiting), "a stream without an end"
        for task in waiting:
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, AntiphonError), error
        assert not any(view.streams for view in self.manager.views())
        assert not any(engine.voices for engine in self.loader.engines)
        self.close_now.set()
        await self.life
        assert not +self.loader.alive, "a model was not let go"
        self.nothing_is_let_go_in_use()


TestModelLife = ModelLife.TestCase
TestModelLife.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
