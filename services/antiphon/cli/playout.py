"""A client's two sides of sound on the session's clock: a microphone that never stops, a speaker that can yield."""

from dataclasses import dataclass

import numpy as np

from antiphon.audio.pcm import SILENCE, Samples
from antiphon.contracts.frames import FRAME_MS

_AUDIBLE_DB = -40.0
"""Below a recording's own peak by more than this, a 10 ms window counts as silent."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something said into the microphone: seconds on the session's clock, from its first to its last audible window."""

    start_s: float
    end_s: float


class Microphone:
    """Speech on a running tape: what is said goes out in the next frames, silence otherwise."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.start_s = 0.0
        """When the tape began, on the session's clock."""
        self.frame_samples = rate_hz * FRAME_MS // 1000
        self._pending: Samples = SILENCE
        self._frames: list[Samples] = []

    @property
    def position_s(self) -> float:
        """When the next frame begins, on the session's clock."""
        return self.start_s + len(self._frames) * FRAME_MS / 1000

    @property
    def speaking(self) -> bool:
        """Whether something is still to be said."""
        return len(self._pending) > 0

    def say(self, samples: Samples) -> Line:
        """Say it after what is still pending. Samples: float32, mono, at `rate_hz`."""
        begins_s = self.position_s + len(self._pending) / self.rate_hz
        self._pending = np.concatenate((self._pending, samples))
        first, last = audible(samples, self.rate_hz)
        return Line(begins_s + first, begins_s + last)

    def frame(self) -> Samples:
        """The next 20 ms."""
        head, self._pending = self._pending[: self.frame_samples], self._pending[self.frame_samples :]
        frame = np.concatenate((head, np.zeros(self.frame_samples - len(head), dtype=np.float32)))
        self._frames.append(frame)
        return frame

    def recording(self) -> Samples:
        """All that went out, from the session's start."""
        return np.concatenate((np.zeros(round(self.start_s * self.rate_hz), dtype=np.float32), *self._frames))


@dataclass(frozen=True, slots=True)
class Played:
    """A stretch of reply audio and when it sounded."""

    item_id: str
    start_s: float
    samples: Samples


class Speaker:
    """Plays a reply as it comes, each piece after the last; `drop` throws away what has not sounded.

    Args:
        rate_hz: Of the samples.
        keeps: Whether all that sounded is kept, for `recording`; else the last two items.
    """

    def __init__(self, rate_hz: int, *, keeps: bool = True) -> None:
        self.rate_hz = rate_hz
        self._keeps = keeps
        self._played: list[Played] = []

    @property
    def end_s(self) -> float:
        """When it falls silent, as things stand."""
        return self._end(self._played[-1]) if self._played else 0.0

    def play(self, item_id: str, samples: Samples, now_s: float) -> None:
        """Queue a piece that came at `now_s`: it sounds at once, or after what is queued."""
        if not self._keeps and self._played and self._played[-1].item_id != item_id:
            last = self._played[-1].item_id
            self._played = [piece for piece in self._played if piece.item_id == last]
        if len(samples):
            self._played.append(Played(item_id, max(now_s, self.end_s), samples))

    def drop(self, now_s: float) -> tuple[str, int] | None:
        """Fall silent at `now_s`; the item that was sounding and how much of it sounded, in ms. None: was silent."""
        if self.end_s <= now_s:
            return None
        sounding = next(piece for piece in self._played if self._end(piece) > now_s)
        kept = [piece for piece in self._played if piece.start_s < now_s]
        if kept and self._end(kept[-1]) > now_s:
            last = kept.pop()
            samples = last.samples[: round((now_s - last.start_s) * self.rate_hz)]
            kept.append(Played(last.item_id, last.start_s, samples))
        self._played = kept
        return sounding.item_id, self.heard_ms(sounding.item_id)

    def heard_ms(self, item_id: str) -> int:
        """How much of an item has been played or is queued, in milliseconds."""
        return sum(len(piece.samples) for piece in self._played if piece.item_id == item_id) * 1000 // self.rate_hz

    def pieces(self, item_id: str | None = None) -> list[Played]:
        """What was played, in order: all of it, or one item's."""
        return [piece for piece in self._played if item_id in (None, piece.item_id)]

    def recording(self) -> Samples:
        """All that was kept, from the session's start, with its silences."""
        tape = np.zeros(round(self.end_s * self.rate_hz) + 1, dtype=np.float32)
        for piece in self._played:
            start = round(piece.start_s * self.rate_hz)
            tape[start : start + len(piece.samples)] = piece.samples[: len(tape) - start]
        return tape

    def _end(self, piece: Played) -> float:
        return piece.start_s + len(piece.samples) / self.rate_hz


def audible(samples: Samples, rate_hz: int) -> tuple[float, float]:
    """When the first audible 10 ms window of a recording begins and the last one ends, in seconds; 0, 0: silent."""
    window = rate_hz // 100
    level = np.abs(samples[: len(samples) // window * window].reshape(-1, window)).max(axis=1, initial=0.0)
    loud = np.flatnonzero(level > level.max(initial=0.0) * 10 ** (_AUDIBLE_DB / 20))
    return (float(loud[0]) / 100, float(loud[-1] + 1) / 100) if loud.size else (0.0, 0.0)


def stereo(left: Samples, right: Samples) -> Samples:
    """Two tapes side by side: float32, shape (samples, 2), as long as the longer one."""
    both = np.zeros((max(len(left), len(right)), 2), dtype=np.float32)
    both[: len(left), 0] = left
    both[: len(right), 1] = right
    return both
