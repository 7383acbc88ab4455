"""What an engine is: the Protocols behind which every model is served.

An engine file says what it can do (`describe`), loads (`load`), opens streams (`open`) and lets go (`close`). All of
its methods block and run in the worker's executor threads, never on the event loop; `cancel` alone may be called from
any thread at any time. State belongs to the stream, never to the engine: two streams of one engine run at once.

The worker owns resampling, loudness, framing, clause cutting, word-time estimates, retries and metrics.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Task = Literal["tts", "asr"]
Samples = NDArray[np.float32]
"""float32, shape (samples,), mono, -1 to 1."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do, as data; the registry and the router read it."""

    task: Task
    sample_rate_hz: int
    """TTS: the rate it speaks at. ASR: the rate it hears at."""
    languages: tuple[str, ...] = ()
    """BCP 47; empty: any."""
    voices: tuple[str, ...] = ()
    streaming_input: bool = False
    streaming_output: bool = False
    word_times: bool = False
    cloning: bool = False
    emotion: bool = False
    licence: str = ""
    memory_mib: int = 0
    """Weights when loaded: an estimate until they are."""


@dataclass(frozen=True, slots=True)
class WordTime:
    """One word and when it sounds, in samples of the chunk's or utterance's rate from the start of its clause."""

    text_start: int
    """Code points from the start of the clause (TTS) or transcript (ASR)."""
    text_end: int
    start_samples: int
    end_samples: int
    probability: float = 0.0


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    """A piece of a clause, as soon as it is computed."""

    samples: Samples
    """At the engine's own rate."""
    words: tuple[WordTime, ...] = ()
    """Words whose times are known by now; each word once per clause. Empty throughout: the worker estimates them."""


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """How one stream wants to be spoken."""

    voice: str = ""
    """Empty: the model's first voice."""
    language: str = ""
    speed: float = 1.0
    style: str = ""


class TtsStream(Protocol):
    """One caller's voice."""

    def synthesize(self, clause: str) -> Iterator[SpeechChunk]:
        """Speak one clause, chunk by chunk; each `next` is one hop of the executor.

        Ends early, without an error, after `cancel`. Raises `AntiphonError(ENGINE_FAULT)` when it cannot speak.
        """
        ...

    def cancel(self) -> None:
        """Make a running `synthesize` end within one chunk. Thread-safe, idempotent."""
        ...

    def close(self) -> None:
        """Let go of what the stream holds. Idempotent."""
        ...


@runtime_checkable
class TtsEngine(Protocol):
    """A model that speaks."""

    @classmethod
    def describe(cls, files: Path | None, settings: Mapping[str, Any]) -> Capabilities:
        """What it can do, without loading weights. Raises `AntiphonError(INVALID_REQUEST)` for bad settings."""
        ...

    def load(self, files: Path | None, settings: Mapping[str, Any]) -> None:
        """Load the weights under `files` (None: the engine needs none). Raises `AntiphonError(LOAD_FAILED)`."""
        ...

    def open(self, request: SpeechRequest) -> TtsStream:
        """A stream for one caller. Raises `AntiphonError(INVALID_REQUEST)` for a voice that it has not."""
        ...

    def close(self) -> None:
        """Free the weights. Called with no stream open. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was heard."""

    text: str
    language: str = ""
    words: tuple[WordTime, ...] = ()
    mean_log_probability: float = 0.0
    no_speech_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class HearingRequest:
    """How one utterance wants to be heard."""

    language: str = ""
    """Empty: detected, or the model's own."""
    word_times: bool = False


class AsrStream(Protocol):
    """One utterance."""

    def push(self, samples: Samples) -> None:
        """More audio at the engine's rate. Cheap: only keeps it. The worker never calls it beside another method."""
        ...

    def partial(self) -> Hypothesis:
        """What was heard up to now, quickly."""
        ...

    def final(self) -> Hypothesis:
        """What was heard, at best quality, with words if asked for. More audio may be pushed after it."""
        ...

    def cancel(self) -> None:
        """Make a running call end soon. Thread-safe, idempotent."""
        ...

    def close(self) -> None:
        """Let go of what the stream holds. Idempotent."""
        ...


@runtime_checkable
class AsrEngine(Protocol):
    """A model that hears."""

    @classmethod
    def describe(cls, files: Path | None, settings: Mapping[str, Any]) -> Capabilities:
        """What it can do, without loading weights. Raises `AntiphonError(INVALID_REQUEST)` for bad settings."""
        ...

    def load(self, files: Path | None, settings: Mapping[str, Any]) -> None:
        """Load the weights under `files` (None: the engine needs none). Raises `AntiphonError(LOAD_FAILED)`."""
        ...

    def open(self, request: HearingRequest) -> AsrStream:
        """A stream for one utterance. Raises `AntiphonError(INVALID_REQUEST)` for a language that it has not."""
        ...

    def close(self) -> None:
        """Free the weights. Called with no stream open. Idempotent."""
        ...


class VadStream(Protocol):
    """One speaker's voice activity; keeps its own state."""

    rate_hz: int
    window_samples: int

    def probability(self, window: Samples) -> float:
        """That this window, of exactly `window_samples`, holds speech. 0.2 ms or less: it runs on the event loop."""
        ...

    def reset(self) -> None:
        """Forget what was heard."""
        ...


class VadEngine(Protocol):
    """Opens a `VadStream` for each speaker."""

    def open(self) -> VadStream:
        """A fresh stream."""
        ...


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """An engine that is installed here."""

    name: str
    task: Task
    factory: type[TtsEngine] | type[AsrEngine]
    version: str = ""
    extra: Sequence[str] = field(default=())
