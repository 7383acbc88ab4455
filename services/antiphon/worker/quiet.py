"""Whether a speaker seems to have fallen silent, told from the audio's level: cheap, and early."""

import numpy as np

from antiphon.audio.pcm import pcm_to_float
from antiphon.contracts.frames import frame_bytes

QUIET_DB = -20.0
"""Below the loudest frame by more than this, the newest one is quiet: vowels lie above, breath and rooms below."""


class Quiet:
    """Compares the newest frame of an utterance with the loudest that was newest before.

    Args:
        rate_hz: Of the audio.
    """

    def __init__(self, rate_hz: int) -> None:
        self._frame_bytes = frame_bytes(rate_hz)
        self._loudest = 0.0
        self._newest = 0.0

    def hear(self, pcm: bytes) -> None:
        """More of the utterance: mono s16le, whole samples; its last 20 ms are looked at."""
        if pcm:
            self._newest = float(np.square(pcm_to_float(pcm[-self._frame_bytes :])).mean())
            self._loudest = max(self._loudest, self._newest)

    @property
    def now(self) -> bool:
        """Whether the newest frame is quiet; never before something was loud."""
        return self._newest < self._loudest * 10 ** (QUIET_DB / 10)
