"""A recogniser that hears what it was told to hear, with delays and faults to order."""

import itertools
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from antiphon.adapters.settings import EngineSettings, check_language
from antiphon.contracts.adapters import Capabilities, HearingRequest, Hypothesis, Samples, WordTime
from antiphon.contracts.errors import AntiphonError, Reason


class ScriptedText(EngineSettings):
    """What is heard in utterances of a certain length or more."""

    at_least_ms: int = Field(ge=0)
    text: str


class MockAsrSettings(EngineSettings):
    """What can be set of the mock recogniser."""

    texts: tuple[str, ...] = ("hello",)
    """What is heard, utterance by utterance in the order in which they were opened; the last one then stays."""
    by_duration: tuple[ScriptedText, ...] = ()
    """When given, instead of `texts`: the longest `at_least_ms` that the utterance reaches."""
    ms_per_word: int = Field(default=300, ge=1)
    """A partial holds one word for each so many milliseconds of audio."""
    sample_rate_hz: int = Field(default=16_000, ge=8_000, le=48_000)
    languages: tuple[str, ...] = ()
    mean_log_probability: float = Field(default=-0.1, le=0)
    no_speech_probability: float = Field(default=0.0, ge=0, le=1)
    latency_ms: int = Field(default=0, ge=0)
    """Of each call."""
    real_time_factor: float = Field(default=0.0, ge=0)
    """Time spent on a call over the audio heard, beside the latency."""
    memory_mib: int = Field(default=1, ge=0)
    load_ms: int = Field(default=0, ge=0)
    fail_load: str = ""
    """Loading fails with this cause."""
    fail_after_calls: int | None = Field(default=None, ge=0)
    """Each stream fails at its call after this many partials and finals."""
    fail_every: int | None = Field(default=None, ge=1)
    """Each utterance of such a number fails: 3 is a third of them, 1 all. The one that warms up is 0."""


class MockAsr:
    """The mock recogniser."""

    EXTRA: ClassVar[str] = ""

    def __init__(self) -> None:
        self._settings = MockAsrSettings()
        self._utterances = itertools.count()

    @classmethod
    def describe(cls, files: Path | None, settings: Mapping[str, Any]) -> Capabilities:
        """What the settings make of it."""
        chosen = MockAsrSettings.parse(settings)
        return Capabilities(
            task="asr",
            sample_rate_hz=chosen.sample_rate_hz,
            languages=chosen.languages,
            streaming_input=True,
            streaming_output=True,
            word_times=True,
            licence="Apache-2.0",
            memory_mib=chosen.memory_mib,
        )

    def load(self, files: Path | None, settings: Mapping[str, Any]) -> None:
        """Takes `load_ms`. Raises `AntiphonError(LOAD_FAILED)` when `fail_load` says so."""
        self._settings = MockAsrSettings.parse(settings)
        time.sleep(self._settings.load_ms / 1000)
        if self._settings.fail_load:
            raise AntiphonError(Reason.LOAD_FAILED, self._settings.fail_load)

    def open(self, request: HearingRequest) -> "MockAsrStream":
        """A stream that takes the next text."""
        check_language(self._settings.languages, request.language)
        return MockAsrStream(self._settings, request, next(self._utterances))

    def close(self) -> None:
        """Nothing to free."""


class MockAsrStream:
    """One utterance."""

    def __init__(self, settings: MockAsrSettings, request: HearingRequest, utterance: int) -> None:
        self._settings = settings
        self._request = request
        self._utterance = utterance
        self._heard_samples = 0
        self._calls = 0
        self._cancelled = threading.Event()

    def push(self, samples: Samples) -> None:
        """Only counted."""
        self._heard_samples += len(samples)

    def partial(self) -> Hypothesis:
        """The first words, as many as the audio heard is long."""
        words = re.findall(r"\S+", self._text())
        return self._hear(" ".join(words[: int(self._heard_ms // self._settings.ms_per_word)]))

    def final(self) -> Hypothesis:
        """The whole text, its words spread evenly over the audio."""
        return self._hear(self._text())

    def cancel(self) -> None:
        """End a delay at once; what the call returns then is empty."""
        self._cancelled.set()

    def close(self) -> None:
        """The same as `cancel`."""
        self._cancelled.set()

    @property
    def _heard_ms(self) -> float:
        return self._heard_samples * 1000 / self._settings.sample_rate_hz

    def _text(self) -> str:
        if self._settings.by_duration:
            reached = [script for script in self._settings.by_duration if script.at_least_ms <= self._heard_ms]
            return max(reached, key=lambda script: script.at_least_ms).text if reached else ""
        texts = self._settings.texts
        return texts[min(self._utterance, len(texts) - 1)] if texts else ""

    def _hear(self, text: str) -> Hypothesis:
        spent_ms = self._settings.latency_ms + self._settings.real_time_factor * self._heard_ms
        if self._cancelled.wait(spent_ms / 1000) if spent_ms else self._cancelled.is_set():
            return Hypothesis("")
        self._fail_when_due()
        return Hypothesis(
            text if self._heard_samples else "",
            (self._request.language or next(iter(self._settings.languages), "")),
            self._words(text) if self._request.word_times and self._heard_samples else (),
            self._settings.mean_log_probability,
            self._settings.no_speech_probability,
        )

    def _fail_when_due(self) -> None:
        limit = self._settings.fail_after_calls
        if limit is not None and self._calls >= limit:
            raise AntiphonError(Reason.ENGINE_FAULT, f"The mock recogniser fails after {limit} calls, as it was told.")
        every = self._settings.fail_every
        if every is not None and self._utterance and self._utterance % every == 0:
            raise AntiphonError(Reason.ENGINE_FAULT, "The mock recogniser fails in this utterance, as it was told.")
        self._calls += 1

    def _words(self, text: str) -> tuple[WordTime, ...]:
        matches = list(re.finditer(r"\S+", text))
        borders = [self._heard_samples * index // max(1, len(matches)) for index in range(len(matches) + 1)]
        return tuple(
            WordTime(match.start(), match.end(), borders[index], borders[index + 1], 1.0)
            for index, match in enumerate(matches)
        )
