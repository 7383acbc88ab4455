"""What holds for every engine that speaks."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from antiphon.contracts.adapters import Samples, SpeechChunk, SpeechRequest, TtsEngine, TtsStream
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.testing.conformance.engine import CANCEL_S, JOIN_S, EngineConformance, check_words

ODD_TEXTS = (
    "",
    "   ",
    "\n",
    "...",
    "—",
    "?!",
    "\0",
    "a\0b",
    "\ud800",
    "👋🏽",
    "<speak>hi</speak>",
    "[[hi]]",
    "[[",
    "& % $ # @",
    "שלום, 你好, привет.",
    "1,234,567.89",
    "x" * 120,
)
"""What a caller may send."""

_BAD_VOICE = "no-such-voice"


class TtsConformance(EngineConformance):
    """What holds for every engine that speaks."""

    text: ClassVar[str] = (
        "This sentence is long enough to be spoken in several pieces, so that a listener who has heard enough of it "
        "can stop it in the middle, and nothing that nobody hears is computed."
    )
    short_text: ClassVar[str] = "Nice to meet you."

    def use(self, engine: Any) -> None:
        """Speak."""
        _speak(engine, self.short_text)

    def test_it_is_a_voice(self) -> None:
        """By its class and by its word."""
        assert isinstance(self.loaded, TtsEngine)
        assert self.capabilities.task == "tts"
        assert self.capabilities.voices, "a voice has at least one name"

    def test_it_speaks(self) -> None:
        """Mono float32 samples within full scale, for about as long as people would."""
        chunks = _speak(self.loaded, self.text)
        samples = _sound(chunks)
        assert all(chunk.samples.dtype == np.float32 and chunk.samples.ndim == 1 for chunk in chunks)
        assert np.isfinite(samples).all()
        assert 0.005 < float(np.abs(samples).max()) <= 1.0
        seconds_a_word = len(samples) / self.capabilities.sample_rate_hz / len(self.text.split())
        assert 0.05 < seconds_a_word < 2.0

    def test_the_first_chunk_does_not_wait_for_the_last(self) -> None:
        """Each `next` computes its own chunk, and the first is a small part of the whole."""
        if not self.capabilities.streaming_output:
            pytest.skip("this voice says that it does not stream")
        _speak(self.loaded, self.text)  # warm
        moments, sizes = [time.perf_counter()], []
        for chunk in self.loaded.open(SpeechRequest()).synthesize(self.text):
            moments.append(time.perf_counter())
            sizes.append(len(chunk.samples))
        assert sizes[0] <= sum(sizes) / 4, "the first chunk holds most of the clause"
        total_s = moments[-1] - moments[0]
        if total_s > 0.1:
            assert moments[1] - moments[0] < total_s * 0.6, "the first chunk waited for the others"

    def test_a_cancel_ends_it_within_a_chunk(self) -> None:
        """Between two chunks."""
        stream: TtsStream = self.loaded.open(SpeechRequest())
        spoken = stream.synthesize(self.text)
        next(spoken)
        stream.cancel()
        stream.cancel()
        assert len(list(spoken)) <= 1
        stream.close()

    def test_a_cancel_from_another_thread_ends_it_soon(self) -> None:
        """While a chunk is computed."""
        stream: TtsStream = self.loaded.open(SpeechRequest())
        begun = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            spoken = pool.submit(_speak_aloud, stream, " ".join([self.text] * 10), begun)
            assert begun.wait(JOIN_S)
            asked = time.perf_counter()
            stream.cancel()
            spoken.result(JOIN_S)
        assert time.perf_counter() - asked < CANCEL_S
        stream.close()

    def test_a_cancel_before_the_start_holds(self) -> None:
        """A stop may overtake the text."""
        stream: TtsStream = self.loaded.open(SpeechRequest())
        stream.cancel()
        assert len(list(stream.synthesize(self.short_text))) <= 1

    def test_two_streams_do_not_disturb_each_other(self) -> None:
        """One is cancelled, the other speaks to its end."""
        alone = len(_sound(_speak(self.loaded, self.text)))
        one, other = self.loaded.open(SpeechRequest()), self.loaded.open(SpeechRequest())
        with ThreadPoolExecutor(2) as pool:
            stopped = pool.submit(_first_then_cancel, one, self.text)
            whole = pool.submit(lambda: list(other.synthesize(self.text)))
            stopped.result(JOIN_S)
            assert len(_sound(whole.result(JOIN_S))) > 0.7 * alone

    def test_a_stream_speaks_clause_after_clause(self) -> None:
        """State is kept between clauses, errors are not."""
        stream = self.loaded.open(SpeechRequest())
        for _ in range(3):
            assert len(_sound(list(stream.synthesize(self.short_text)))) > 0
        stream.close()
        stream.close()

    def test_speed_changes_the_pace(self) -> None:
        """Twice as fast takes clearly less time."""
        usual = len(_sound(_speak(self.loaded, self.text)))
        fast = len(_sound(list(self.loaded.open(SpeechRequest(speed=2.0)).synthesize(self.text))))
        assert fast < 0.75 * usual

    def test_every_voice_speaks(self) -> None:
        """By its own name (the first three)."""
        for voice in self.capabilities.voices[:3]:
            assert len(_sound(list(self.loaded.open(SpeechRequest(voice=voice)).synthesize(self.short_text)))) > 0

    def test_a_voice_that_it_has_not_is_refused(self) -> None:
        """At `open`, and never replaced by another."""
        with pytest.raises(AntiphonError) as error:
            self.loaded.open(SpeechRequest(voice=_BAD_VOICE))
        assert error.value.reason is Reason.INVALID_REQUEST

    def test_odd_text_is_survived(self) -> None:
        """Spoken, or passed over; the stream goes on."""
        for text in ODD_TEXTS:
            stream = self.loaded.open(SpeechRequest())
            assert np.isfinite(_sound(list(stream.synthesize(text)))).all(), ascii(text)
            assert len(_sound(list(stream.synthesize(self.short_text)))) > 0, f"mute after {text!a}"

    def test_word_times_are_in_order_and_in_the_audio(self) -> None:
        """Each word of the text once; or none at all, where the engine says that it has no times."""
        chunks = _speak(self.loaded, self.text)
        words = [word for chunk in chunks for word in chunk.words]
        if not self.capabilities.word_times:
            assert not words
            return
        assert len(words) >= 0.9 * len(self.text.split())
        check_words(words, self.text, len(_sound(chunks)))

    def test_words_are_known_before_they_are_heard_out(self) -> None:
        """So that a reply that is stopped can be cut at what was heard."""
        if not self.capabilities.word_times or not self.capabilities.streaming_output:
            pytest.skip("this voice says that it has no word times, or does not stream")
        given = 0
        for index, chunk in enumerate(self.loaded.open(SpeechRequest()).synthesize(self.text)):
            # The first chunk may go out alone, to go out at once.
            late = [word for word in chunk.words if index > 1 and word.end_samples < given - 1]
            assert not late, f"{len(late)} words came after their audio"
            given += len(chunk.samples)


def _speak(engine: TtsEngine, text: str) -> list[SpeechChunk]:
    stream = engine.open(SpeechRequest())
    try:
        return list(stream.synthesize(text))
    finally:
        stream.close()


def _sound(chunks: list[SpeechChunk]) -> Samples:
    return np.concatenate([np.zeros(0, dtype=np.float32), *(chunk.samples for chunk in chunks)])


def _first_then_cancel(stream: TtsStream, text: str) -> None:
    for _ in stream.synthesize(text):
        stream.cancel()


def _speak_aloud(stream: TtsStream, text: str, begun: threading.Event) -> None:
    for _ in stream.synthesize(text):
        begun.set()
