"""What a model must do before anybody else hears it: say a sentence, or hear one."""

from pathlib import Path
from typing import Any, Literal

import pytest
from prometheus_client import CollectorRegistry

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.worker.executor import Executor
from antiphon.worker.loading import EngineLoader, LoadedModel

pytestmark = pytest.mark.unit


async def load(task: Literal["tts", "asr"], **settings: Any) -> LoadedModel:
    executor = Executor("load", 1, WorkerMetrics(CollectorRegistry()))
    loader = EngineLoader(executor, Path("unused"), loudness_lufs=None)
    try:
        spec = ModelSpec(name="m", task=task, engine="mock", engine_config=settings)
        return await loader.load(await loader.prepare(spec, lambda _: None))
    finally:
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
