"""A voice of tones: every word is a sine of its own pitch, with exact word times, delays and faults to order.

A word that holds a number sounds as that number's tone; any other as that of its place in the stream, counted from 0.
Tone k is a sine of `tone_hz(k)`. So a recording tells which words are in it (`antiphon.testing.tones`).
"""

import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from antiphon.adapters.settings import EngineSettings, check_language, choose_voice
from antiphon.contracts.adapters import Capabilities, Samples, SpeechChunk, SpeechRequest, WordTime
from antiphon.contracts.errors import AntiphonError, Reason

TONES = 200
_LOWEST_HZ = 300.0
_STEP_HZ = 16.0
_LEVEL = 0.25
_FADE_S = 0.005


def tone_hz(tone: int) -> float:
    """The pitch of tone `tone`: 300 to 3484 Hz, so that it passes at 8 kHz too; tones repeat after `TONES`."""
    return _LOWEST_HZ + _STEP_HZ * (tone % TONES)


class MockTtsSettings(EngineSettings):
    """What can be set of the mock voice."""

    sample_rate_hz: int = Field(default=24_000, ge=8_000, le=48_000)
    ms_per_word: int = Field(default=0, ge=0, le=10_000)
    """How long each word lasts; 0: as its length says."""
    ms_per_character: int = Field(default=60, ge=10, le=1_000)
    chunk_ms: int = Field(default=100, ge=10, le=10_000)
    latency_ms: int = Field(default=0, ge=0)
    """Before the first chunk of a clause."""
    real_time_factor: float = Field(default=0.0, ge=0)
    """Time spent on a chunk over the time it sounds."""
    word_times: bool = True
    voices: tuple[str, ...] = ("tone",)
    languages: tuple[str, ...] = ()
    memory_mib: int = Field(default=1, ge=0)
    load_ms: int = Field(default=0, ge=0)
    fail_load: str = ""
    """Loading fails with this cause."""
    fail_after_chunks: int | None = Field(default=None, ge=0)
    """Each stream fails once it gave this many chunks."""
    fail_every: int | None = Field(default=None, ge=1)
    """Each stream of such a number fails at once: 3 is a third of them, 1 all. The one that warms up is number 0."""


class MockTts:
    """The mock voice."""

    EXTRA: ClassVar[str] = ""

    def __init__(self) -> None:
        self._settings = MockTtsSettings()
        self._streams = itertools.count()

    @classmethod
    def describe(cls, files: Path | None, settings: Mapping[str, Any]) -> Capabilities:
        """What the settings make of it."""
        chosen = MockTtsSettings.parse(settings)
        return Capabilities(
            task="tts",
            sample_rate_hz=chosen.sample_rate_hz,
            languages=chosen.languages,
            voices=chosen.voices,
            streaming_output=True,
            word_times=chosen.word_times,
            licence="Apache-2.0",
            memory_mib=chosen.memory_mib,
        )

    def load(self, files: Path | None, settings: Mapping[str, Any]) -> None:
        """Takes `load_ms`. Raises `AntiphonError(LOAD_FAILED)` when `fail_load` says so."""
        self._settings = MockTtsSettings.parse(settings)
        time.sleep(self._settings.load_ms / 1000)
        if self._settings.fail_load:
            raise AntiphonError(Reason.LOAD_FAILED, self._settings.fail_load)

    def open(self, request: SpeechRequest) -> "MockTtsStream":
        """A stream that counts its words from 0."""
        choose_voice(self._settings.voices, request.voice)
        check_language(self._settings.languages, request.language)
        return MockTtsStream(self._settings, request.speed, next(self._streams))

    def close(self) -> None:
        """Nothing to free."""


class MockTtsStream:
    """One caller's tones."""

    def __init__(self, settings: MockTtsSettings, speed: float, number: int = 0) -> None:
        self._settings = settings
        self._speed = speed
        self._number = number
        self._words = 0
        self._chunks = 0
        self._cancelled = threading.Event()

    def synthesize(self, clause: str) -> Iterator[SpeechChunk]:
        """The clause as tones, in chunks of `chunk_ms`; a word's time comes with the chunk in which it begins."""
        words, samples = self._speak(clause)
        if not words or self._waited(self._settings.latency_ms / 1000):
            return
        rate_hz = self._settings.sample_rate_hz
        step = rate_hz * self._settings.chunk_ms // 1000
        for start in range(0, len(samples), step):
            piece = samples[start : start + step]
            if self._waited(self._settings.real_time_factor * len(piece) / rate_hz):
                return
            self._fail_when_due()
            begun = tuple(word for word in words if start <= word.start_samples < start + len(piece))
            yield SpeechChunk(piece, begun if self._settings.word_times else ())

    def cancel(self) -> None:
        """End at once, in the middle of a delay too; the stream speaks no more."""
        self._cancelled.set()

    def close(self) -> None:
        """The same as `cancel`."""
        self._cancelled.set()

    def _waited(self, seconds: float) -> bool:
        """Wait, and say whether the stream was cancelled."""
        return self._cancelled.wait(seconds) if seconds else self._cancelled.is_set()

    def _fail_when_due(self) -> None:
        limit = self._settings.fail_after_chunks
        if limit is not None and self._chunks >= limit:
            raise AntiphonError(Reason.ENGINE_FAULT, f"The mock voice fails after {limit} chunks, as it was told.")
        every = self._settings.fail_every
        if every is not None and self._number and self._number % every == 0:
            raise AntiphonError(Reason.ENGINE_FAULT, "The mock voice fails in this stream, as it was told.")
        self._chunks += 1

    def _speak(self, clause: str) -> tuple[list[WordTime], Samples]:
        words: list[WordTime] = []
        tones: list[Samples] = []
        position = 0
        for match in re.finditer(r"\S+", clause):
            tone = self._tone(match.group())
            tones.append(self._sine(tone_hz(tone), len(match.group())))
            words.append(WordTime(match.start(), match.end(), position, position + len(tones[-1]), 1.0))
            position += len(tones[-1])
        return words, np.concatenate(tones) if tones else np.zeros(0, dtype=np.float32)

    def _tone(self, word: str) -> int:
        number = re.search(r"\d+", word)
        tone = int(number.group()) if number else self._words
        self._words += 1
        return tone

    def _sine(self, hz: float, characters: int) -> Samples:
        ms = self._settings.ms_per_word or characters * self._settings.ms_per_character
        rate_hz = self._settings.sample_rate_hz
        count = max(1, round(rate_hz * ms / 1000 / self._speed))
        tone = _LEVEL * np.sin(2 * np.pi * hz * np.arange(count) / rate_hz)
        fade = min(round(_FADE_S * rate_hz), count // 2)
        tone[:fade] *= np.linspace(0, 1, fade)
        tone[count - fade :] *= np.linspace(1, 0, fade)
        return tone.astype(np.float32)
