"""What a listener would measure on sound and on a list of events; all of it pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from antiphon.audio.pcm import Samples
from antiphon.cli.playout import Played
from antiphon.cli.realtime import Received

AUDIBLE_DBFS = -40.0
"""A window of 10 ms with an RMS above this is sound: the definition by which other systems were measured, too."""
_WINDOW_MS = 10
_LOWERED = 0.5
"""6 dB: half of a duck of 12 dB, and more than a tone's fade takes from a frame of 20 ms."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in seconds."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Its length."""
        return self.end_s - self.start_s


def sounding(samples: Samples, rate_hz: int) -> Span | None:
    """From the first to the last audible window, on the recording's own clock; None: it is silent."""
    loud = np.flatnonzero(_audible(samples, rate_hz))
    if not loud.size:
        return None
    return Span(float(loud[0]) * _WINDOW_MS / 1000, float(loud[-1] + 1) * _WINDOW_MS / 1000)


def longest_pause_ms(samples: Samples, rate_hz: int) -> int:
    """The longest silence between two audible windows."""
    loud = np.flatnonzero(_audible(samples, rate_hz))
    return int((np.diff(loud) - 1).max(initial=0)) * _WINDOW_MS


def trimmed(samples: Samples, rate_hz: int) -> Samples:
    """The recording from its first to its last audible window."""
    span = sounding(samples, rate_hz)
    return samples[:0] if span is None else samples[round(span.start_s * rate_hz) : round(span.end_s * rate_hz)]


def first(events: Iterable[Received], type_: str, *, after_s: float = 0.0) -> Received | None:
    """The first event of a type that came at or after a moment."""
    return next((event for event in events if event.type == type_ and event.at_s >= after_s), None)


def last(events: Sequence[Received], type_: str) -> Received | None:
    """The last event of a type."""
    return next((event for event in reversed(events) if event.type == type_), None)


def since_ms(start_s: float, event: Received | None) -> float | None:
    """From a moment to an event, in milliseconds; None: it did not come."""
    return None if event is None else (event.at_s - start_s) * 1000


def lowered_s(played: Sequence[Played], after_s: float) -> float | None:
    """When a tone that was playing at one level was first heard lower, or silent; None: it never was."""
    before = [_peak(piece) for piece in played if piece.start_s < after_s]
    if not before:
        return None
    usual = float(np.median(before))
    low = (piece for piece in played if piece.start_s >= after_s and _peak(piece) < usual * _LOWERED)
    return next((piece.start_s for piece in low), None)


def deviations_ms(arrivals_s: Sequence[float], positions_s: Sequence[float]) -> list[float]:
    """How far each frame came from its absolute deadline, early or late.

    The deadlines are those of a clock that runs with the frames' positions; its start is where half of the frames are
    early and half are late, so that a constant delay or lead counts for nothing.
    """
    offsets = np.asarray(arrivals_s, dtype=np.float64) - np.asarray(positions_s, dtype=np.float64)
    deviations: list[float] = (np.abs(offsets - np.median(offsets)) * 1000).tolist() if offsets.size else []
    return deviations


def _audible(samples: Samples, rate_hz: int) -> NDArray[np.bool_]:
    window = rate_hz * _WINDOW_MS // 1000
    whole = samples[: len(samples) // window * window].reshape(-1, window)
    level = np.sqrt(np.mean(np.square(whole, dtype=np.float64), axis=1))
    return np.asarray(level > 10 ** (AUDIBLE_DBFS / 20))


def _peak(piece: Played) -> float:
    return float(np.abs(piece.samples).max(initial=0.0))
