"""What every engine must do, as pytest classes: subclass one, say which engine, and run pytest.

    class TestBeep(TtsConformance):
        engine = BeepTts
        settings = {"pitchHz": 440}

Bounds on time are generous: they tell streaming from not streaming, not a fast machine from a slow one.
"""

import re
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from antiphon.contracts.adapters import (
    AsrEngine,
    AsrStream,
    Capabilities,
    HearingRequest,
    Samples,
    SpeechChunk,
    SpeechRequest,
    TtsEngine,
    TtsStream,
    WordTime,
)
from antiphon.contracts.errors import AntiphonError, Reason

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

_CANCEL_S = 2.0
_JOIN_S = 60.0
_CYCLES = 3
_BAD_VOICE = "no-such-voice"
_BAD_LANGUAGE = "tlh"


class _EngineConformance:
    """What holds for speaking and hearing alike."""

    engine: ClassVar[type[Any]]
    settings: ClassVar[Mapping[str, Any]] = {}

    files: ClassVar[Path | None]
    capabilities: ClassVar[Capabilities]
    loaded: ClassVar[Any]

    @classmethod
    def weights(cls) -> Path | None:
        """Where the weights are; override for an engine that needs some."""
        return None

    @classmethod
    def setup_class(cls) -> None:
        """One engine for all tests of the class; described before it is loaded."""
        cls.files = cls.weights()
        cls.capabilities = cls.engine.describe(cls.files, cls.settings)
        cls.loaded = cls.engine()
        cls.loaded.load(cls.files, cls.settings)

    @classmethod
    def teardown_class(cls) -> None:
        """Closes it."""
        cls.loaded.close()

    def test_it_describes_itself(self) -> None:
        """Sensibly, and the same once it is loaded."""
        assert 8_000 <= self.capabilities.sample_rate_hz <= 48_000
        assert self.capabilities.memory_mib >= 0
        assert self.engine.describe(self.files, self.settings) == self.capabilities

    def test_unknown_settings_are_refused(self) -> None:
        """By name: nothing is accepted and ignored."""
        with pytest.raises(AntiphonError, match="noSuchSetting") as error:
            self.engine.describe(self.files, {**self.settings, "noSuchSetting": 1})
        assert error.value.reason is Reason.INVALID_REQUEST

    def test_weights_that_are_not_there_are_an_error(self, tmp_path: Path) -> None:
        """Not a crash, and not silence later."""
        if self.files is None:
            pytest.skip("this engine needs no weights")
        with pytest.raises(AntiphonError) as error:
            self.engine().load(tmp_path, self.settings)
        assert error.value.reason is Reason.LOAD_FAILED

    def test_a_language_that_it_has_not_is_refused(self) -> None:
        """At `open`, before anything is computed."""
        if not self.capabilities.languages:
            pytest.skip("this model takes any language")
        request = (
            SpeechRequest(language=_BAD_LANGUAGE) if self.capabilities.task == "tts" else HearingRequest(_BAD_LANGUAGE)
        )
        with pytest.raises(AntiphonError) as error:
            self.loaded.open(request)
        assert error.value.reason is Reason.INVALID_REQUEST

    def test_closing_frees_and_can_be_repeated(self) -> None:
        """Loaded, used and closed again and again, it leaves no thread and no memory behind."""
        marks = []
        for _ in range(_CYCLES):
            engine = self.engine()
            engine.load(self.files, self.settings)
            self.use(engine)
            engine.close()
            engine.close()
            marks.append((_threads(), _resident_mib()))
        assert marks[-1][0] <= marks[0][0], f"threads grew: {marks}"
        allowed = max(32, self.capabilities.memory_mib // 2)
        assert marks[-1][1] - marks[0][1] <= allowed, f"memory grew beyond {allowed} MiB: {marks}"

    def use(self, engine: Any) -> None:
        """Do once what the engine is for."""
        raise NotImplementedError


class TtsConformance(_EngineConformance):
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
            assert begun.wait(_JOIN_S)
            asked = time.perf_counter()
            stream.cancel()
            spoken.result(_JOIN_S)
        assert time.perf_counter() - asked < _CANCEL_S
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
            stopped.result(_JOIN_S)
            assert len(_sound(whole.result(_JOIN_S))) > 0.7 * alone

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
        _check_words(words, self.text, len(_sound(chunks)))

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


class AsrConformance(_EngineConformance):
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
        _check_words(heard.words, heard.text, len(noise))

    def test_words_come_when_they_are_asked_for(self) -> None:
        """In order, within the audio, and slices of the transcript."""
        assert _hear(self.loaded, self.utterance).final().words == ()
        if not self.capabilities.word_times:
            pytest.skip("this recogniser says that it has no word times")
        heard = _hear(self.loaded, self.utterance, word_times=True).final()
        assert len(heard.words) == len(heard.text.split())
        _check_words(heard.words, heard.text, len(self.utterance))

    def test_two_streams_do_not_disturb_each_other(self) -> None:
        """One is cancelled, the other hears it all."""
        alone = _hear(self.loaded, self.utterance).final().text
        one, other = _hear(self.loaded, self.utterance), _hear(self.loaded, self.utterance)
        with ThreadPoolExecutor(2) as pool:
            stopped, whole = pool.submit(one.final), pool.submit(other.final)
            one.cancel()
            stopped.result(_JOIN_S)
            assert whole.result(_JOIN_S).text == alone or not self.expected

    def test_a_cancel_ends_it_soon(self) -> None:
        """Before and within a call, without an error."""
        stream = _hear(self.loaded, np.tile(self.utterance, 4))
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(stream.final)
            time.sleep(0.02)
            asked = time.perf_counter()
            stream.cancel()
            call.result(_JOIN_S)
        assert time.perf_counter() - asked < _CANCEL_S
        stream.cancel()
        stream.final()
        stream.close()


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


def _hear(engine: AsrEngine, samples: Samples, *, word_times: bool = False) -> AsrStream:
    stream = engine.open(HearingRequest(word_times=word_times))
    stream.push(samples)
    return stream


def _tone(seconds: float, rate_hz: int) -> Samples:
    return (0.2 * np.sin(2 * np.pi * 300 * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def _check_words(words: "list[WordTime] | tuple[WordTime, ...]", text: str, samples: int) -> None:
    assert all(0 <= word.start_samples <= word.end_samples <= samples for word in words), "a word beyond the audio"
    assert all(0 <= word.probability <= 1 for word in words)
    for word in words:
        assert text[word.text_start : word.text_end].strip(), "a word without text"
    for before, after in zip(words, words[1:], strict=False):
        assert before.text_end <= after.text_start, "words overlap in the text, or are not in its order"
        assert before.start_samples <= after.start_samples, "times go back"


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


def _threads() -> int:
    """Threads of this process, those of libraries too where the system tells."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()


def _resident_mib() -> int:
    """Memory in use; 0 where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 // 2**20
