"""What a model must do before anybody else hears it: say a sentence, or hear one."""

import asyncio
import contextlib
import gc
import math
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from antiphon.adapters import discovery
from antiphon.adapters.tts.mock import MockTts
from antiphon.contracts.adapters import SpeechChunk, SpeechRequest
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.executor import Executor
from antiphon.worker.loading import EngineLoader, LoadedModel
from antiphon.worker.models import ModelManager

pytestmark = pytest.mark.unit


async def load(task: Literal["tts", "asr"], **settings: Any) -> LoadedModel:
    spec = ModelSpec(name="m", task=task, engine="mock", engine_config=settings)
    with loading() as loader:
        return await loader.load(await loader.prepare(spec, lambda _: None))


@contextlib.contextmanager
def loading() -> Iterator[EngineLoader]:
    metrics = WorkerMetrics(CollectorRegistry())
    executors = [Executor(name, 1, metrics) for name in ("load", "close")]
    try:
        yield EngineLoader(*executors, Path("unused"), loudness_lufs=None)
    finally:
        for executor in executors:
            executor.close()


@pytest.mark.parametrize(
    ("task", "settings", "cause"),
    [
        ("tts", {"failAfterChunks": 0}, "could not speak its test sentence: The mock voice fails"),
        ("asr", {"texts": [""]}, "could not hear its test sentence: It heard nothing in it."),
        ("asr", {"texts": [" "], "languages": ["de", "en-GB"]}, "heard nothing"),
        ("asr", {"failAfterCalls": 0}, "could not hear its test sentence: The mock recogniser fails"),
    ],
)
async def test_a_model_that_fails_its_test_sentence_is_not_loaded(
    task: Literal["tts", "asr"], settings: dict[str, Any], cause: str
) -> None:
    with pytest.raises(AntiphonError, match=cause) as failed:
        await load(task, **settings)
    assert failed.value.reason is Reason.LOAD_FAILED


async def test_english_is_no_test_for_a_recogniser_that_does_not_know_it() -> None:
    assert (await load("asr", texts=[""], languages=["fi"])).name == "m"


async def test_the_test_sentence_is_no_stream_of_those_that_fail_in_turn() -> None:
    voice, ear = await load("tts", failEvery=1), await load("asr", failEvery=1)
    assert voice.first_audio_ms > 0 and ear.real_time_factor > 0
    assert (voice.tally.served, voice.tally.failed) == (0, 0)


def mock_engine(monkeypatch: pytest.MonkeyPatch, engine: type[MockTts]) -> None:
    monkeypatch.setattr(discovery, "find_engine", lambda task, name: engine)


async def test_what_was_half_loaded_when_a_load_failed_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    halves: list[weakref.ref[Any]] = []

    class Cracked(MockTts):
        def load(self, *_: Any) -> None:
            halves.append(weakref.ref(self))
            raise AntiphonError(Reason.LOAD_FAILED, "The memory is full.")

    mock_engine(monkeypatch, Cracked)
    spec = ModelSpec(name="m", task="tts", engine="mock")
    with loading() as loader:
        async with ModelManager((spec,), loader, WorkerMetrics(CollectorRegistry())) as manager:
            with pytest.raises(AntiphonError, match="The memory is full") as failed:
                await manager.load("m")
            assert failed.value.retry_after_ms == 1000
            del failed
            gc.collect()
            assert halves[0]() is None
            assert manager.view("m").message == "The memory is full."


async def test_a_stream_does_not_wait_for_a_load_behind_which_another_model_would_be_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    class Slow(MockTts):
        def load(self, files: Path | None, settings: Any) -> None:
            super().load(files, {})
            if "loadMs" in settings:
                begun.set()
                assert goes_on.wait(30)

    mock_engine(monkeypatch, Slow)
    memory, residency = {"weights_mib": 10, "per_stream_mib": 1}, {"minimum_seconds": 0}

    def spec(name: str, **settings: Any) -> ModelSpec:
        return ModelSpec(
            name=name, task="tts", engine="mock", memory=memory, residency=residency, engine_config=settings
        )

    specs = (spec("spoken"), spec("idle"), spec("slow", loadMs=1), spec("next"))
    with loading() as loader:
        metrics = WorkerMetrics(CollectorRegistry())
        async with ModelManager(specs, loader, metrics, memory_budget_mib=35, load_wait_s=60) as manager:
            await manager.load("idle")
            await manager.load("spoken")
            loads = [asyncio.create_task(manager.load(name)) for name in ("slow", "next")]
            await asyncio.to_thread(begun.wait, 30)
            try:
                async with asyncio.timeout(15):
                    while manager.view("idle").memory_mib:
                        await asyncio.sleep(0.01)
                    async with manager.use("tts", "spoken"):
                        pass
            finally:
                goes_on.set()
            await asyncio.gather(*loads)


@pytest.mark.parametrize(
    ("scale", "cause"),
    [(0.0, "It gave silence."), (1e-4, "It gave silence."), (math.nan, "It gave what is no sound.")],
)
async def test_a_voice_that_gives_no_sound_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, scale: float, cause: str
) -> None:
    class Mute(MockTts):
        def open(self, request: SpeechRequest) -> Any:
            stream = super().open(request)
            synthesize = stream.synthesize

            def scaled(clause: str) -> Iterator[SpeechChunk]:
                for chunk in synthesize(clause):
                    yield SpeechChunk(chunk.samples * np.float32(scale))

            monkeypatch.setattr(stream, "synthesize", scaled)
            return stream

    mock_engine(monkeypatch, Mute)
    with pytest.raises(AntiphonError, match=f"could not speak its test sentence: {cause}"):
        await load("tts")
