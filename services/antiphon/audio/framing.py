"""Samples cut into the frames of the wire."""

from antiphon.audio.pcm import Samples, float_to_pcm
from antiphon.contracts.frames import frame_bytes


class Framer:
    """Keeps what is not yet a whole 20 ms frame."""

    def __init__(self, rate_hz: int) -> None:
        self._frame_bytes = frame_bytes(rate_hz)
        self._pending = bytearray()

    def push(self, samples: Samples) -> bytes:
        """The whole frames that are complete by now (s16le, perhaps none)."""
        self._pending += float_to_pcm(samples)
        whole = len(self._pending) - len(self._pending) % self._frame_bytes
        frames = bytes(self._pending[:whole])
        del self._pending[:whole]
        return frames

    def flush(self) -> bytes:
        """The last frame, filled up with silence; nothing when none is begun."""
        if not self._pending:
            return b""
        frame = bytes(self._pending).ljust(self._frame_bytes, b"\0")
        self._pending.clear()
        return frame
