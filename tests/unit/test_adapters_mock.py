"""The mock engines: exact word times, tones that can be read back, delays and faults to order."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from antiphon.adapters.asr.mock import MockAsr
from antiphon.adapters.tts.mock import TONES, MockTts, tone_hz
from antiphon.audio.pcm import Samples
from antiphon.audio.resample import resample
from antiphon.contracts.adapters import HearingRequest, Hypothesis, SpeechChunk, SpeechRequest
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.testing.tones import decode_tones, decode_words

pytestmark = pytest.mark.unit


def speak(text: str, speed: float = 1.0, **settings: object) -> list[SpeechChunk]:
    engine = MockTts()
    engine.load(None, settings)
    return list(engine.open(SpeechRequest(speed=speed)).synthesize(text))


def sound(chunks: list[SpeechChunk]) -> Samples:
    return np.concatenate([chunk.samples for chunk in chunks])


def hear(seconds: float, *, utterance: int = 0, words: bool = True, **settings: object) -> Hypothesis:
    engine = MockAsr()
    engine.load(None, settings)
    for _ in range(utterance):
        engine.open(HearingRequest())
    stream = engine.open(HearingRequest(word_times=words))
    stream.push(np.zeros(int(seconds * 16_000), dtype=np.float32))
    return stream.final()


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 48_000])
def test_words_are_read_back_from_the_sound_at_any_rate(rate_hz: int) -> None:
    samples = resample(sound(speak("one quick brown fox jumps over the lazy dog")), 24_000, rate_hz)
    assert decode_words(samples, rate_hz) == list(range(9))


def test_every_tone_is_read_back_ducked_too() -> None:
    text = " ".join(f"w{number}" for number in range(TONES))
    samples = sound(speak(text, ms_per_word=60)) * np.float32(0.25)
    assert decode_words(samples, 24_000) == list(range(TONES))
    assert tone_hz(TONES) == tone_hz(0)


def test_a_word_cut_short_is_heard_when_it_sounded_long_enough() -> None:
    samples = sound(speak("zero one two", ms_per_word=200))
    assert decode_words(samples[: int(0.25 * 24_000)], 24_000) == [0, 1]
    assert decode_words(samples[: int(0.21 * 24_000)], 24_000) == [0]
    assert decode_words(np.zeros(24_000, dtype=np.float32), 24_000) == []


def test_word_times_are_exact() -> None:
    chunks = speak("Hi there, you", ms_per_character=50)
    words = [word for chunk in chunks for word in chunk.words]
    assert [(word.text_start, word.text_end) for word in words] == [(0, 2), (3, 9), (10, 13)]
    assert [(word.start_samples, word.end_samples) for word in words] == [(0, 2400), (2400, 9600), (9600, 13200)]
    assert len(sound(chunks)) == 13200
    for word, tone in zip(words, decode_tones(sound(chunks), 24_000), strict=True):
        assert tone.start_s == pytest.approx(word.start_samples / 24_000, abs=0.025)
        assert tone.end_s == pytest.approx(word.end_samples / 24_000, abs=0.025)


def test_words_count_on_over_the_clauses_of_a_stream() -> None:
    engine = MockTts()
    engine.load(None, {})
    stream = engine.open(SpeechRequest())
    first, second = list(stream.synthesize("zero one")), list(stream.synthesize("two three"))
    assert decode_words(sound(first + second), 24_000) == [0, 1, 2, 3]
    assert second[0].words[0].start_samples == 0, "times count from the clause's start"


def test_speed_shortens() -> None:
    assert len(sound(speak("hello", speed=2.0))) * 2 == len(sound(speak("hello")))


def test_chunks_and_word_times_as_set() -> None:
    chunks = speak("hello", ms_per_word=250, chunk_ms=100, word_times=False)
    assert [len(chunk.samples) for chunk in chunks] == [2400, 2400, 1200]
    assert not any(chunk.words for chunk in chunks)


def test_a_cancel_ends_a_delay_at_once_and_holds() -> None:
    engine = MockTts()
    engine.load(None, {"latencyMs": 60_000})
    stream = engine.open(SpeechRequest())
    timer = threading.Timer(0.05, stream.cancel)
    timer.start()
    begun = time.monotonic()
    assert list(stream.synthesize("hello")) == []
    assert time.monotonic() - begun < 5
    timer.join()
    assert list(stream.synthesize("hello")) == []


def test_the_voice_fails_when_it_was_told_to() -> None:
    with pytest.raises(AntiphonError) as error:
        speak("hello there", fail_after_chunks=1)
    assert error.value.reason is Reason.ENGINE_FAULT
    with pytest.raises(AntiphonError, match="out of memory") as load_error:
        speak("hello", fail_load="The device is out of memory.")
    assert load_error.value.reason is Reason.LOAD_FAILED


def test_the_settings_are_checked() -> None:
    with pytest.raises(AntiphonError, match="pitch.*chunkMs") as error:
        MockTts.describe(None, {"pitch": 3})
    assert error.value.reason is Reason.INVALID_REQUEST
    assert MockTts.describe(None, {"voices": ["a", "b"], "sampleRateHz": 8000}).voices == ("a", "b")


def test_a_voice_or_language_that_it_has_not_is_refused() -> None:
    engine = MockTts()
    engine.load(None, {"languages": ["en-US"]})
    engine.open(SpeechRequest(voice="tone", language="en"))
    for request in (SpeechRequest(voice="alto"), SpeechRequest(language="de")):
        with pytest.raises(AntiphonError) as error:
            engine.open(request)
        assert error.value.reason is Reason.INVALID_REQUEST


def test_texts_come_in_the_order_of_utterances() -> None:
    texts = ["one", "two three"]
    assert [hear(1, utterance=index, texts=texts).text for index in range(4)] == ["one", "two three"] + [
        "two three"
    ] * 2


def test_texts_can_go_by_duration() -> None:
    script = [{"at_least_ms": 500, "text": "short"}, {"atLeastMs": 2000, "text": "rather longer"}]
    assert [hear(seconds, by_duration=script).text for seconds in (0.1, 0.5, 1.9, 2.0)] == [
        "", "short", "short", "rather longer"
    ]  # fmt: skip


def test_words_are_spread_over_the_audio() -> None:
    words = hear(1.0, texts=["a bc d e"]).words
    assert [(word.text_start, word.text_end) for word in words] == [(0, 1), (2, 4), (5, 6), (7, 8)]
    assert [word.end_samples for word in words] == [4000, 8000, 12000, 16000]
    assert hear(1.0, words=False).words == ()


def test_partials_grow_with_the_audio() -> None:
    engine = MockAsr()
    engine.load(None, {"texts": ["a b c"], "msPerWord": 100})
    stream = engine.open(HearingRequest())
    heard = []
    for _ in range(4):
        heard.append(stream.partial().text)
        stream.push(np.zeros(1600, dtype=np.float32))
    assert heard == ["", "a", "a b", "a b c"]


def test_the_recogniser_fails_when_it_was_told_to() -> None:
    with pytest.raises(AntiphonError) as error:
        hear(1.0, fail_after_calls=0)
    assert error.value.reason is Reason.ENGINE_FAULT


def test_streams_fail_in_turn_after_the_first() -> None:
    voice, ear = MockTts(), MockAsr()
    voice.load(None, {"failEvery": 2})
    ear.load(None, {"failEvery": 2})
    assert [number for number in range(5) if _fails(lambda: next(voice.open(SpeechRequest()).synthesize("one")))] == [
        2,
        4,
    ]
    assert [number for number in range(5) if _fails(ear.open(HearingRequest()).final)] == [2, 4]


def _fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except AntiphonError as error:
        assert error.reason is Reason.ENGINE_FAULT
        return True
    return False
