"""The conformance suite fails engines that break its rules, each by the test that is named for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from antiphon.adapters.asr.mock import MockAsr, MockAsrStream
from antiphon.adapters.tts.mock import MockTts, MockTtsStream
from antiphon.contracts.adapters import Hypothesis, SpeechChunk, SpeechRequest
from antiphon.testing.conformance import AsrConformance, TtsConformance

pytestmark = pytest.mark.contract

Speak = Callable[[Any, str], Iterator[SpeechChunk]]
honest = MockTtsStream.synthesize


def everything_at_once(stream: Any, clause: str) -> Iterator[SpeechChunk]:
    chunks = list(honest(stream, clause))
    yield SpeechChunk(np.concatenate([chunk.samples for chunk in chunks]), sum((chunk.words for chunk in chunks), ()))


def never_stopping(stream: Any, clause: str) -> Iterator[SpeechChunk]:
    for _ in range(3):
        yield from honest(MockTtsStream(stream._settings, 1.0), clause)


def too_loud(stream: Any, clause: str) -> Iterator[SpeechChunk]:
    for chunk in honest(stream, clause):
        yield replace(chunk, samples=chunk.samples * np.float32(10))


def mute_after_an_oddity(stream: Any, clause: str) -> Iterator[SpeechChunk]:
    if not clause.isprintable():
        stream.cancel()
    return honest(stream, clause)


def backwards(stream: Any, clause: str) -> Iterator[SpeechChunk]:
    for chunk in honest(stream, clause):
        yield replace(chunk, words=tuple(replace(word, start_samples=0, end_samples=10**9) for word in chunk.words))


def words_at_the_end(stream: Any, clause: str) -> Iterator[SpeechChunk]:
    chunks = list(honest(stream, clause))
    for chunk in chunks[:-1]:
        yield replace(chunk, words=())
    yield replace(chunks[-1], words=sum((chunk.words for chunk in chunks), ()))


@pytest.mark.parametrize(
    ("speak", "test"),
    [
        (everything_at_once, "test_the_first_chunk_does_not_wait_for_the_last"),
        (never_stopping, "test_a_cancel_ends_it_within_a_chunk"),
        (never_stopping, "test_a_cancel_before_the_start_holds"),
        (too_loud, "test_it_speaks"),
        (mute_after_an_oddity, "test_odd_text_is_survived"),
        (backwards, "test_word_times_are_in_order_and_in_the_audio"),
        (words_at_the_end, "test_words_are_known_before_they_are_heard_out"),
    ],
)
def test_a_voice_that_breaks_a_rule_fails(speak: Speak, test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Case(TtsConformance):
        engine = MockTts

    Case.setup_class()
    getattr(Case(), test)()
    monkeypatch.setattr(MockTtsStream, "synthesize", speak)
    with pytest.raises(AssertionError):
        getattr(Case(), test)()


def test_a_voice_that_takes_any_name_fails() -> None:
    class Obliging(MockTts):
        def open(self, request: SpeechRequest) -> MockTtsStream:
            return super().open(replace(request, voice=""))

    class Case(TtsConformance):
        engine = Obliging

    Case.setup_class()
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        Case().test_a_voice_that_it_has_not_is_refused()


def test_a_recogniser_that_hears_words_in_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Case(AsrConformance):
        engine = MockAsr

    Case.setup_class()
    Case().test_nothing_said_is_nothing_heard()
    monkeypatch.setattr(MockAsrStream, "final", lambda _: Hypothesis("You"))
    with pytest.raises(AssertionError):
        Case().test_nothing_said_is_nothing_heard()
