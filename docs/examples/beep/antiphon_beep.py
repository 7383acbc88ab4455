"""A voice that beeps once for each word."""

import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from antiphon.adapters.settings import EngineSettings, check_language, choose_voice
from antiphon.contracts.adapters import Capabilities, SpeechChunk, SpeechRequest, WordTime

RATE_HZ = 16_000
BEEP_S = 0.25
VOICES = {"low": 1.0, "high": 2.0}


class BeepSettings(EngineSettings):
    """What people may write under `engineConfig`; anything else is refused."""

    pitch_hz: float = Field(default=220.0, gt=50, lt=2000)


class BeepTts:
    """The engine: one object for each loaded model."""

    def __init__(self) -> None:
        self._settings = BeepSettings()

    @classmethod
    def describe(cls, files: Path | None, settings: Mapping[str, Any]) -> Capabilities:
        """What it can do, without loading anything."""
        BeepSettings.parse(settings)
        return Capabilities(
            task="tts",
            sample_rate_hz=RATE_HZ,
            languages=("en",),
            voices=tuple(VOICES),
            streaming_output=True,
            word_times=True,
            licence="Apache-2.0",
        )

    def load(self, files: Path | None, settings: Mapping[str, Any]) -> None:
        """Load the weights under `files`. Import what is heavy here, not above."""
        self._settings = BeepSettings.parse(settings)

    def open(self, request: SpeechRequest) -> "BeepStream":
        """A stream for one caller: what it keeps is kept there, never here."""
        check_language(("en",), request.language)
        voice = choose_voice(tuple(VOICES), request.voice)
        return BeepStream(self._settings.pitch_hz * VOICES[voice], BEEP_S / request.speed)

    def close(self) -> None:
        """Free the weights."""


class BeepStream:
    """One caller's beeps."""

    def __init__(self, pitch_hz: float, beep_s: float) -> None:
        self._cancelled = threading.Event()
        count = int(beep_s * RATE_HZ)
        beep = 0.2 * np.sin(2 * np.pi * pitch_hz * np.arange(count) / RATE_HZ)
        self._beep = (beep * np.hanning(count)).astype(np.float32)

    def synthesize(self, clause: str) -> Iterator[SpeechChunk]:
        """A chunk for each word, computed when it is asked for."""
        for index, word in enumerate(re.finditer(r"\S+", clause)):
            if self._cancelled.is_set():
                return
            start = index * len(self._beep)
            time = WordTime(word.start(), word.end(), start, start + len(self._beep), 1.0)
            yield SpeechChunk(self._beep, (time,))

    def cancel(self) -> None:
        """End within a chunk; may come from another thread, and more than once."""
        self._cancelled.set()

    def close(self) -> None:
        """Let go."""
        self._cancelled.set()
