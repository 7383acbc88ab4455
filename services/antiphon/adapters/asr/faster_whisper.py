"""Whisper by CTranslate2, for short utterances: 3 s of speech do not pay for a 30 s window.

Whisper was trained on windows of 30 s. Its encoder takes shorter ones, but then its decoder tends to say things twice,
the more the shorter they are; so an utterance is padded to one of a few fixed lengths, with silence before it and at
least a second after it. What is said over and over faster than people speak is decoded again, with repetition made
dear; what still repeats itself, or comes to no end, is heard again in the next longer window, where people who did
repeat themselves are believed. A longer utterance than one window holds is cut at its quietest place, and what was cut
off is not heard again.

Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision"; the lengths are measured.
"""

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from antiphon.adapters.settings import EngineSettings, check_language, primary_language
from antiphon.contracts.adapters import Capabilities, HearingRequest, Hypothesis, Samples, WordTime
from antiphon.contracts.errors import AntiphonError, Reason

_RATE_HZ = 16_000
_HOP_SAMPLES = 160
_CONTEXTS = (500, 750, 1000, 1500, 3000)  # mel frames of 10 ms
_LEAST_FINAL_CONTEXT = 750  # of 84 prompts of 1 to 8 s, 12 were said twice in 500 frames, none in 750
_REPETITION_PENALTY = 1.05  # more spoils what people do say twice, like digits
_FIRM_PENALTY = (
    1.3  # ends every loop of one word among 264 prompts of one or two; without it, 21 are said 2 to 10 times
)
_MOST_WORDS_PER_S = 5.0  # nobody says one thing over and over faster than that
_BEFORE_SAMPLES = _RATE_HZ // 2
_AFTER_SAMPLES = _RATE_HZ
_LONGEST_SAMPLES = _CONTEXTS[-1] * _HOP_SAMPLES - _BEFORE_SAMPLES - _AFTER_SAMPLES
_CUT_FROM_SAMPLES, _CUT_TO_SAMPLES = 18 * _RATE_HZ, 28 * _RATE_HZ
_SHORTEST_SAMPLES = _RATE_HZ // 10
# More tokens than people can say: what stops a decoder that repeats itself.
_TOKENS_PER_S, _TOKENS_MORE = 8, 4
_MOST_TOKENS = 224  # half of the decoder's positions; Whisper's own bound
# Whisper's own rule for a window in which nobody speaks.
_NO_SPEECH, _NO_SPEECH_LOG_PROBABILITY = 0.6, -1.0
_MULTILINGUAL_VOCABULARY = 51_865
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
_RUNTIME_MIB = 80  # scratch memory of the workers beside the weights, measured with tiny.en


class FasterWhisperSettings(EngineSettings):
    """What can be set of a Whisper model."""

    device: Literal["cpu", "cuda", "auto"] = "cpu"
    compute_type: str = "int8"
    """CTranslate2's; int8 on CPUs, float16 or int8_float16 on GPUs."""
    threads: int = Field(default=1, ge=1, le=64)
    """Of each call."""
    workers: int = Field(default=0, ge=0, le=64)
    """Calls at once; 0: one for each core, at most 4. More workers of one thread serve callers better than fewer of
    more."""
    beam_size: int = Field(default=1, ge=1, le=10)
    """Of finals; partials are always greedy."""


class FasterWhisperAsr:
    """A Whisper model in CTranslate2's format."""

    REQUIRES: ClassVar[tuple[str, ...]] = ("faster-whisper", "ctranslate2")
    EXTRA: ClassVar[str] = "whisper"

    def __init__(self) -> None:
        self._model: _Model | None = None

    @classmethod
    def describe(cls, files: Path | None, settings: Mapping[str, Any]) -> Capabilities:
        """What the model's vocabulary says."""
        FasterWhisperSettings.parse(settings)
        folder = _folder(files)
        return Capabilities(
            task="asr",
            sample_rate_hz=_RATE_HZ,
            languages=_languages(folder),
            streaming_input=True,
            streaming_output=True,
            word_times=True,
            licence="MIT",
            memory_mib=(folder / "model.bin").stat().st_size // 2**20 + _RUNTIME_MIB,
        )

    def load(self, files: Path | None, settings: Mapping[str, Any]) -> None:
        """Load the model and start its workers."""
        chosen = FasterWhisperSettings.parse(settings)
        folder = _folder(files)
        try:
            self._model = _Model(folder, chosen)
        except Exception as error:  # whatever ctranslate2 and tokenizers raise on a broken or strange file
            raise AntiphonError(Reason.LOAD_FAILED, f"{folder} is not a Whisper model: {error}.") from error

    def open(self, request: HearingRequest) -> "FasterWhisperStream":
        """A stream for one utterance."""
        if self._model is None:
            raise AntiphonError(Reason.ENGINE_FAULT, "The model is not loaded.")
        self._model.check_language(request.language)
        return FasterWhisperStream(self._model, request)

    def close(self) -> None:
        """Free the model and stop its workers."""
        self._model = None


class FasterWhisperStream:
    """One utterance, of any length. A cancel cannot stop CTranslate2 within a step: it ends between two of them."""

    def __init__(self, model: "_Model", request: HearingRequest) -> None:
        self._model = model
        self._request = request
        self._language = primary_language(request.language)
        self._pieces: list[Samples] = []
        self._done: list[_Heard] = []
        self._done_samples = 0
        self._cancelled = threading.Event()

    def push(self, samples: Samples) -> None:
        """Kept as it is."""
        self._pieces.append(samples)

    def partial(self) -> Hypothesis:
        """What was heard up to now, greedily, in the shortest window, without words."""
        return self._hear(_Effort(1, _CONTEXTS[0]), words=False)

    def final(self) -> Hypothesis:
        """What was heard, with words if they were asked for."""
        return self._hear(self._model.best, self._request.word_times)

    def cancel(self) -> None:
        """Let a running call end at its next step; its result is then empty."""
        self._cancelled.set()

    def close(self) -> None:
        """Let go of the audio."""
        self._cancelled.set()
        self._pieces.clear()

    def _hear(self, effort: "_Effort", words: bool) -> Hypothesis:
        samples = np.concatenate(self._pieces) if self._pieces else np.zeros(0, dtype=np.float32)
        while len(samples) > _LONGEST_SAMPLES:
            cut = _quietest(samples)
            heard = self._model.hear(
                samples[:cut], self._language, self._model.best, self._request.word_times, self._cancelled
            )
            if self._cancelled.is_set():
                return Hypothesis("")
            self._done.append(heard.later(self._done_samples))
            self._language = heard.language
            self._done_samples += cut
            samples = samples[cut:]
        self._pieces = [samples]
        heard = self._model.hear(samples, self._language, effort, words, self._cancelled)
        if self._cancelled.is_set():
            return Hypothesis("")
        return _joined([*self._done, heard.later(self._done_samples)])


@dataclass(frozen=True, slots=True)
class _Effort:
    """How much is spent on a window."""

    beam_size: int
    least_context: int


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was heard in one window."""

    text: str
    language: str
    tokens: int = 0
    log_probability: float = 0.0
    """Of all tokens together."""
    no_speech: float = 1.0
    words: tuple[WordTime, ...] = ()

    def later(self, samples: int) -> "_Heard":
        """The same, of a window that begins `samples` after the utterance."""
        return replace(self, words=tuple(_moved(word, 0, samples) for word in self.words))


class _Model:
    """The network, its tokens and its features; stateless, for any number of threads."""

    def __init__(self, folder: Path, settings: FasterWhisperSettings) -> None:
        from faster_whisper import WhisperModel

        self._whisper = WhisperModel(
            str(folder),
            device=settings.device,
            compute_type=settings.compute_type,
            cpu_threads=settings.threads,
            num_workers=settings.workers or min(4, os.cpu_count() or 1),
            local_files_only=True,
        )
        self.best = _Effort(settings.beam_size, _LEAST_FINAL_CONTEXT)
        self._multilingual: bool = self._whisper.model.is_multilingual
        self._tokenizers = {"en": self._tokenizer("en")}

    def check_language(self, language: str) -> None:
        """Refuse a language that the model has no token for."""
        check_language(self._whisper.supported_languages, language)

    def hear(self, samples: Samples, language: str, effort: _Effort, words: bool, cancelled: threading.Event) -> _Heard:
        """What is said in one window of audio; `language` empty: detected. Empty when cancelled."""
        nothing = _Heard("", language)
        if len(samples) < _SHORTEST_SAMPLES:
            return nothing
        try:
            for context in _contexts(len(samples), effort.least_context):
                if cancelled.is_set():
                    return nothing
                encoded = self._whisper.encode(self._features(samples, context))
                if cancelled.is_set():
                    return nothing
                tokenizer = self._tokenizer(language or self._detect(encoded))
                heard, tokens, ended = self._decode(encoded, tokenizer, len(samples), effort.beam_size)
                repeated = repeated_words(heard.text)
                if repeated * _RATE_HZ > _MOST_WORDS_PER_S * len(samples) and not cancelled.is_set():
                    heard, tokens, ended = self._decode(
                        encoded, tokenizer, len(samples), effort.beam_size, _FIRM_PENALTY
                    )
                    repeated = repeated_words(heard.text)
                if ended and not repeated:
                    break
            if not words or not heard.text or cancelled.is_set():
                return heard
            return replace(heard, words=self._words(encoded, tokenizer, tokens, len(samples)))
        except RuntimeError as error:  # ctranslate2's one exception
            raise AntiphonError(Reason.ENGINE_FAULT, "The model failed on this audio.") from error

    def _features(self, samples: Samples, context: int) -> Any:
        padded = np.zeros(context * _HOP_SAMPLES, dtype=np.float32)
        padded[_BEFORE_SAMPLES : _BEFORE_SAMPLES + len(samples)] = samples
        return self._whisper.feature_extractor(padded)[:, :context]

    def _tokenizer(self, language: str) -> Any:
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._whisper.hf_tokenizer, self._multilingual, task="transcribe", language=language)

    def _detect(self, encoded: Any) -> str:
        if not self._multilingual:
            return "en"
        token: str = self._whisper.model.detect_language(encoded)[0][0][0]
        return token.strip("<|>")

    def _decode(
        self,
        encoded: Any,
        tokenizer: Any,
        samples: int,
        beam_size: int,
        repetition_penalty: float = _REPETITION_PENALTY,
    ) -> tuple[_Heard, list[int], bool]:
        """What is said, its tokens, and whether they come to an end."""
        prompt = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        most = min(_MOST_TOKENS, _TOKENS_MORE + _TOKENS_PER_S * samples // _RATE_HZ)
        result = self._whisper.model.generate(
            encoded,
            [prompt],
            beam_size=beam_size,
            repetition_penalty=repetition_penalty,
            max_length=2 * most,  # CTranslate2 keeps one half of it for a prompt, used or not
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        tokens = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
        text = tokenizer.decode(tokens).strip()
        score = min(0.0, result.scores[0] * len(result.sequences_ids[0]))  # the score is a mean
        if result.no_speech_prob > _NO_SPEECH and score / (len(tokens) + 1) < _NO_SPEECH_LOG_PROBABILITY:
            text = ""
        heard = _Heard(text, tokenizer.language_code, len(tokens) + 1, score, result.no_speech_prob)
        return heard, tokens, len(tokens) < most

    def _words(self, encoded: Any, tokenizer: Any, tokens: list[int], samples: int) -> tuple[WordTime, ...]:
        frames = (_BEFORE_SAMPLES + samples) // _HOP_SAMPLES
        found = self._whisper.find_alignment(tokenizer, [tokens], encoded, frames)[0]
        spoken = "".join(word["word"] for word in found)
        position = len(spoken.lstrip()) - len(spoken)
        times: list[WordTime] = []
        for word in found:
            start = position + len(word["word"]) - len(word["word"].lstrip())
            position += len(word["word"])
            text = word["word"].strip()
            begins, ends = (
                min(samples, max(0, round(word[side] * _RATE_HZ) - _BEFORE_SAMPLES)) for side in ("start", "end")
            )
            times.append(WordTime(max(0, start), max(0, start) + len(text), begins, ends, float(word["probability"])))
            if not any(map(str.isalnum, text)) and len(times) > 1:
                times[-2:] = [_with_mark(times[-2], times[-1])]
        return tuple(time for time in times if time.text_end > time.text_start)


def repeated_words(text: str) -> int:
    """How many words the text ends with that are one word, or a run of words, said at least twice; 0: none."""
    words = re.findall(r"\w+(?:'\w+)*", text.lower())
    most = 0
    for period in range(1, len(words) // 2 + 1):
        length = period
        while length < len(words) and words[-length - 1] == words[-length - 1 + period]:
            length += 1
        if length >= 2 * period:
            most = max(most, length)
    return most


def _contexts(samples: int, least: int) -> tuple[int, ...]:
    """The shortest window of at least `least` frames that holds so much audio, and the next longer one."""
    needed = _BEFORE_SAMPLES + samples + _AFTER_SAMPLES
    return tuple(frames for frames in _CONTEXTS if frames >= least and frames * _HOP_SAMPLES >= needed)[:2]


def _moved(word: WordTime, characters: int, samples: int) -> WordTime:
    return WordTime(
        word.text_start + characters,
        word.text_end + characters,
        word.start_samples + samples,
        word.end_samples + samples,
        word.probability,
    )


def _with_mark(word: WordTime, mark: WordTime) -> WordTime:
    """A word with the punctuation after it, which takes no time."""
    return WordTime(word.text_start, mark.text_end, word.start_samples, word.end_samples, word.probability)


def _joined(windows: Sequence[_Heard]) -> Hypothesis:
    blank = "" if windows[-1].language in _UNSPACED else " "
    text, words = "", []
    for window in windows:
        text += blank if text and window.text else ""
        words += [_moved(word, len(text), 0) for word in window.words]
        text += window.text
    tokens = sum(window.tokens for window in windows)
    return Hypothesis(
        text,
        windows[-1].language,
        tuple(words),
        sum(window.log_probability for window in windows) / tokens if tokens else 0.0,
        min(window.no_speech for window in windows),
    )


def _quietest(samples: Samples) -> int:
    """Where to cut: the middle of the quietest 200 ms in what a window's last third would hold."""
    frame = _RATE_HZ // 50
    power = np.square(samples[_CUT_FROM_SAMPLES:_CUT_TO_SAMPLES]).reshape(-1, frame).mean(axis=1)
    smooth = np.convolve(power, np.ones(10) / 10, mode="valid")
    return _CUT_FROM_SAMPLES + (int(smooth.argmin()) + 5) * frame


def _folder(files: Path | None) -> Path:
    if files is None:
        raise AntiphonError(Reason.INVALID_REQUEST, "A Whisper model needs weights: give the model an artifact.")
    missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (files / name).is_file()]
    if missing:
        message = f"{files} is not a CTranslate2 Whisper model: it has no {', '.join(missing)}."
        raise AntiphonError(Reason.LOAD_FAILED, message)
    return files


def _languages(folder: Path) -> tuple[str, ...]:
    """`en` alone, or any: a multilingual vocabulary is the larger one."""
    words = folder / "vocabulary.json"
    if words.is_file():
        size = len(json.loads(words.read_text("utf-8")))
    else:
        size = (folder / "vocabulary.txt").read_bytes().rstrip(b"\n").count(b"\n") + 1
    return () if size >= _MULTILINGUAL_VOCABULARY else ("en",)
