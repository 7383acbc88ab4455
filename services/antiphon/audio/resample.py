"""Change of sample rate, piece by piece."""

from typing import Literal

import numpy as np
import soxr

from antiphon.audio.pcm import SILENCE, Samples

Quality = Literal["QQ", "LQ", "MQ", "HQ", "VHQ"]
"""soxr's recipes. QQ adds no delay at 20 ms pieces, LQ up to 20 ms (60 from 8 kHz), HQ up to 37 ms (114 from 8 kHz)."""


class Resampler:
    """One stream at another rate: identical to resampling it whole, whatever the pieces.

    Equal rates pass samples through untouched. Not for two threads at once.
    """

    def __init__(self, from_hz: int, to_hz: int, quality: Quality = "HQ") -> None:
        self.from_hz = from_hz
        self.to_hz = to_hz
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, "float32", quality) if from_hz != to_hz else None

    def push(self, samples: Samples) -> Samples:
        """What is ready at the new rate: later and, in pieces, less or more than what went in."""
        if self._stream is None:
            return samples
        return self._step(samples, last=False)

    def flush(self) -> Samples:
        """The rest of the stream; the resampler is then ready for another one."""
        if self._stream is None:
            return SILENCE
        rest = self._step(SILENCE, last=True)
        self._stream.clear()
        return rest

    def _step(self, samples: Samples, *, last: bool) -> Samples:
        assert self._stream is not None
        resampled: Samples = self._stream.resample_chunk(np.ascontiguousarray(samples, dtype=np.float32), last=last)
        return resampled


def resample(samples: Samples, from_hz: int, to_hz: int, quality: Quality = "HQ") -> Samples:
    """A whole recording at another rate."""
    resampler = Resampler(from_hz, to_hz, quality)
    return np.concatenate((resampler.push(samples), resampler.flush()))
