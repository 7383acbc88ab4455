"""What holds for every engine that hears."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from antiphon.contracts.adapters import AsrEngine, AsrStream, HearingRequest, Samples
from antiphon.testing.conformance.engine import CANCEL_S, JOIN_S, EngineConformance, check_words


class AsrConformance(EngineConformance):
    """What holds for every engine that hears."""

    rate_hz: ClassVar[int] = 16_000
    expected: ClassVar[str] = ""
    """What `utterance` says, if the engine is to be held to it: lower case, without punctuation."""

    utterance: ClassVar[Samples]

    @classmethod
    def speech(cls) -> Samples:
        """A few seconds of speech at `rate_hz`; override for an engine that really listens."""
        return _tone(2.0, cls.rate_hz)

    @classmethod
    def setup_class(cls) -> None:
        """Also finds the speech."""
        cls.utterance = cls.speech()
        super().setup_class()

    def use(self, engine: Any) -> None:
        """Hear a second of a tone."""
        _hear(engine, _tone(1.0, self.rate_hz))

    def test_it_is_a_recogniser(self) -> None:
        """By its class and by its word."""
        assert isinstance(self.loaded, AsrEngine)
        assert self.capabilities.task == "asr"
        assert self.capabilities.sample_rate_hz == self.rate_hz

    def test_it_hears(self) -> None:
        """What was said, with sane probabilities."""
        heard = _hear(self.loaded, self.utterance).final()
        assert heard.text.strip() == heard.text
        assert heard.mean_log_probability <= 0
        assert 0 <= heard.no_speech_probability <= 1
        if self.expected:
            assert _plain(heard.text) == self.expected

    def test_the_size_of_pushes_does_not_matter(self) -> None:
        """Twenty milliseconds at a time or all at once."""
        scripted, stream = _hear(self.loaded, self.utterance), self.loaded.open(HearingRequest())
        for start in range(0, len(self.utterance), self.rate_hz // 50):
            stream.push(self.utterance[start : start + self.rate_hz // 50])
        assert stream.final().text == scripted.final().text

    def test_a_partial_comes_while_it_is_said(self) -> None:
        """And the utterance goes on after partials and finals."""
        stream = self.loaded.open(HearingRequest())
        half = len(self.utterance) // 2
        stream.push(self.utterance[:half])
        partial, early = stream.partial(), stream.final()
        stream.push(self.utterance[half:])
        assert len(stream.final().text) >= max(1, min(len(partial.text), len(early.text)) // 2)
        stream.close()
        stream.close()

    def test_nothing_said_is_nothing_heard(self) -> None:
        """No audio, or hardly any."""
        stream = self.loaded.open(HearingRequest(word_times=True))
        assert stream.partial().text == ""
        assert stream.final().text == ""
        stream.push(np.zeros(0, dtype=np.float32))
        assert stream.final().words == ()

    @pytest.mark.parametrize("seconds", [0.01, 0.3, 4.0])
    @pytest.mark.parametrize("level", [0.0, 1.0])
    def test_odd_audio_is_survived(self, seconds: float, level: float) -> None:
        """Silence and full-scale noise, short and long."""
        noise = np.random.default_rng(1).uniform(-level, level, int(seconds * self.rate_hz)).astype(np.float32)
        stream = self.loaded.open(HearingRequest(word_times=True))
        stream.push(noise)
        heard = stream.final()
        check_words(heard.words, heard.text, len(noise))

    def test_words_come_when_they_are_asked_for(self) -> None:
        """In order, within the audio, and slices of the transcript."""
        assert _hear(self.loaded, self.utterance).final().words == ()
        if not self.capabilities.word_times:
            pytest.skip("this recogniser says that it has no word times")
        heard = _hear(self.loaded, self.utterance, word_times=True).final()
        assert len(heard.words) == len(heard.text.split())
        check_words(heard.words, heard.text, len(self.utterance))

    def test_two_streams_do_not_disturb_each_other(self) -> None:
        """One is cancelled, the other hears it all."""
        alone = _hear(self.loaded, self.utterance).final().text
        one, other = _hear(self.loaded, self.utterance), _hear(self.loaded, self.utterance)
        with ThreadPoolExecutor(2) as pool:
            stopped, whole = pool.submit(one.final), pool.submit(other.final)
            one.cancel()
            stopped.result(JOIN_S)
            assert whole.result(JOIN_S).text == alone or not self.expected

    def test_a_cancel_ends_it_soon(self) -> None:
        """Before and within a call, without an error."""
        stream = _hear(self.loaded, np.tile(self.utterance, 4))
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(stream.final)
            time.sleep(0.02)
            asked = time.perf_counter()
            stream.cancel()
            call.result(JOIN_S)
        assert time.perf_counter() - asked < CANCEL_S
        stream.cancel()
        stream.final()
        stream.close()


def _hear(engine: AsrEngine, samples: Samples, *, word_times: bool = False) -> AsrStream:
    stream = engine.open(HearingRequest(word_times=word_times))
    stream.push(samples)
    return stream


def _tone(seconds: float, rate_hz: int) -> Samples:
    return (0.2 * np.sin(2 * np.pi * 300 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))
