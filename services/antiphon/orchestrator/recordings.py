"""A recording cut at its pauses, so that no recogniser is sent more at once than it hears well."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from antiphon.audio.pcm import float_to_pcm
from antiphon.contracts.adapters import Samples, VadStream
from antiphon.conversation.activity import HYSTERESIS

PIECE_S = 25.0
"""The longest piece: Whisper hears 30 s at once, and wants room around the words."""
_BREAK_S = 2.0
"""A pause this long ends a piece, and most of it is not sent at all: recognisers invent words in long silence."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of speech with a little silence around it."""

    start_s: float
    pcm: bytes
    """Mono s16le at the VAD's rate."""
    duration_s: float

    @property
    def end_s(self) -> float:
        """Where it ends in the recording."""
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class SplitSettings:
    """Where a recording may be cut."""

    threshold: float = 0.5
    """VAD probability above which a window is voiced."""
    silence_ms: int = 300
    """A shorter pause is no good place to cut."""
    padding_ms: int = 300
    """Silence kept before and after the speech of a piece."""


@dataclass(frozen=True, slots=True)
class _Window:
    samples: Samples
    probability: float
    voiced: bool


class Splitter:
    """Cuts a recording, piece by piece, while it is decoded. Blocking: 0.1 ms and more for each window of the VAD.

    A piece holds speech up to `PIECE_S`, cut in the middle of its last pause, or, where the speaker makes none, at the
    window that is least like speech. Silence between pieces belongs to none of them. Nothing voiced is left out.
    """

    def __init__(self, vad: VadStream, settings: SplitSettings) -> None:
        self._vad, self._settings = vad, settings
        self._windows: deque[_Window] = deque()
        self._first_window = 0
        self._rest: Samples = np.zeros(0, np.float32)
        self._voiced = False
        self._speech = False
        self._silent_windows = 0
        self._padding = self._count(settings.padding_ms / 1000)
        self._samples = 0

    @property
    def heard_s(self) -> float:
        """How much of the recording was pushed, silence and all."""
        return self._samples / self._vad.rate_hz

    def push(self, samples: Samples) -> Iterator[Piece]:
        """Take more of the recording (float32, mono, at the VAD's rate); gives the pieces that are complete with it."""
        self._samples += len(samples)
        waiting = np.concatenate((self._rest, samples))
        size = self._vad.window_samples
        whole = len(waiting) // size * size
        for start in range(0, whole, size):
            yield from self._take(np.ascontiguousarray(waiting[start : start + size]))
        self._rest = waiting[whole:]

    def finish(self) -> Iterator[Piece]:
        """The last piece, if there is one. Push nothing after it."""
        if len(self._rest):
            padding = np.zeros(self._vad.window_samples - len(self._rest), np.float32)
            yield from self._take(np.concatenate((self._rest, padding)))
        if self._speech:
            yield self._cut(len(self._windows) - max(0, self._silent_windows - self._padding))

    def _take(self, samples: Samples) -> Iterator[Piece]:
        probability = self._vad.probability(samples)
        self._voiced = probability >= self._settings.threshold - (HYSTERESIS if self._voiced else 0.0)
        self._windows.append(_Window(samples, probability, self._voiced))
        self._silent_windows = 0 if self._voiced else self._silent_windows + 1
        self._speech = self._speech or self._voiced
        if not self._speech:
            self._drop(len(self._windows) - self._padding)
        elif self._silent_windows >= self._count(_BREAK_S) + self._padding:
            yield self._cut(len(self._windows) - self._silent_windows + self._padding)
            self._drop(len(self._windows) - self._padding)
        elif len(self._windows) >= self._count(PIECE_S):
            yield self._cut(self._best_cut())

    def _best_cut(self) -> int:
        """The middle of the last pause; without one, the least voiced window of the last third."""
        pause = self._count(self._settings.silence_ms / 1000)
        run_end = len(self._windows)
        for index in range(len(self._windows) - 1, 0, -1):
            if self._windows[index].voiced:
                if run_end - index - 1 >= pause:
                    return index + 1 + (run_end - index - 1) // 2
                run_end = index
        last_third = range(len(self._windows) * 2 // 3, len(self._windows))
        return min(last_third, key=lambda index: self._windows[index].probability)

    def _cut(self, count: int) -> Piece:
        start_s = self._first_window * self._vad.window_samples / self._vad.rate_hz
        samples = np.concatenate([window.samples for window in self._drop(count)])
        self._speech = any(window.voiced for window in self._windows)
        return Piece(start_s, float_to_pcm(samples), len(samples) / self._vad.rate_hz)

    def _drop(self, count: int) -> list[_Window]:
        dropped = [self._windows.popleft() for _ in range(count)]
        self._first_window += len(dropped)
        return dropped

    def _count(self, seconds: float) -> int:
        return round(seconds * self._vad.rate_hz / self._vad.window_samples)


def pieces_of(recording: Iterable[Samples], splitter: Splitter) -> Iterator[Piece]:
    """Every piece of a recording, in order. Blocking, as the decoder behind `recording` is."""
    for samples in recording:
        yield from splitter.push(samples)
    yield from splitter.finish()
