"""From the user's audio to voiced and silent windows, counted in samples, never on the wall clock."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from antiphon.audio.pcm import float_to_pcm, pcm_to_float
from antiphon.audio.resample import Resampler
from antiphon.contracts.adapters import VadStream
from antiphon.contracts.frames import SAMPLE_BYTES

HEARING_RATE_HZ = 16_000
"""What the recogniser is sent: speech recognisers are trained at 16 kHz."""

HYSTERESIS = 0.15
"""A voiced stretch goes on until the probability falls this far below the threshold (Silero's own recommendation)."""


@dataclass(frozen=True, slots=True)
class Window:
    """One VAD window; positions are samples at `HEARING_RATE_HZ` from the session's start."""

    start_samples: int
    end_samples: int
    voiced: bool
    pcm: bytes
    """What became audible to the recogniser since the window before: s16le at `HEARING_RATE_HZ`."""

    @property
    def duration_ms(self) -> float:
        """Its length in milliseconds."""
        return (self.end_samples - self.start_samples) * 1000 / HEARING_RATE_HZ


class Ear:
    """Cuts the user's audio into windows that are voiced or not, and keeps the last of it as pre-roll.

    Two resamplers run side by side: one without delay for the VAD, whose every millisecond is waited for, and one of
    high quality for the recogniser.
    """

    def __init__(self, vad: VadStream, rate_hz: int, *, threshold: float, preroll_ms: int) -> None:
        self._vad = vad
        self._voiced = False
        self._position_samples = 0
        self._pending = np.zeros(0, np.float32)
        self._heard = bytearray()
        self._preroll = bytearray()
        self.configure(rate_hz, threshold=threshold, preroll_ms=preroll_ms)

    def configure(self, rate_hz: int, *, threshold: float, preroll_ms: int) -> None:
        """Take audio of another rate, or judge it by another threshold, from here on."""
        self._for_vad = Resampler(rate_hz, self._vad.rate_hz, quality="QQ")
        self._for_recogniser = Resampler(rate_hz, HEARING_RATE_HZ, quality="HQ")
        self._threshold = threshold
        self._preroll_bytes = preroll_ms * HEARING_RATE_HZ // 1000 * SAMPLE_BYTES
        self._step_samples = self._vad.window_samples * rate_hz // self._vad.rate_hz

    @property
    def position_ms(self) -> int:
        """How much was heard since the session began."""
        return self._position_samples * 1000 // HEARING_RATE_HZ

    def push(self, pcm: bytes) -> Iterator[Window]:
        """Windows that are complete with this audio; a step at a time, so that each window's `pcm` is its own."""
        samples = pcm_to_float(pcm)
        for start in range(0, len(samples), self._step_samples):
            step = samples[start : start + self._step_samples]
            self._heard += float_to_pcm(self._for_recogniser.push(step))
            self._pending = np.concatenate((self._pending, self._for_vad.push(step)))
            yield from self._windows()

    def preroll(self) -> bytes:
        """The audio just before, and with, the last window: as much as was configured."""
        return bytes(self._preroll)

    def forget(self) -> None:
        """Drop the pre-roll and the VAD's memory."""
        self._heard.clear()
        self._preroll.clear()
        self._vad.reset()
        self._voiced = False

    def _windows(self) -> Iterator[Window]:
        size = self._vad.window_samples
        while len(self._pending) >= size:
            window, self._pending = self._pending[:size], self._pending[size:]
            probability = self._vad.probability(np.ascontiguousarray(window))
            self._voiced = probability >= self._threshold - (HYSTERESIS if self._voiced else 0.0)
            start = self._position_samples
            self._position_samples += size * HEARING_RATE_HZ // self._vad.rate_hz
            heard, self._heard = bytes(self._heard), bytearray()
            self._keep(heard)
            yield Window(start, self._position_samples, self._voiced, heard)

    def _keep(self, heard: bytes) -> None:
        self._preroll += heard
        # The window in which speech begins belongs to the pre-roll, too.
        window_bytes = self._vad.window_samples * HEARING_RATE_HZ // self._vad.rate_hz * SAMPLE_BYTES
        excess = len(self._preroll) - self._preroll_bytes - 2 * window_bytes
        if excess > 0:
            del self._preroll[:excess]
