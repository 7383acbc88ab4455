"""The pace of a reply: frames leave on absolute deadlines, a little ahead of the moment in which they sound."""

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np

from antiphon.contracts.frames import FRAME_MS, frame_bytes, frame_samples
from antiphon.conversation.ports import Clock, Ownership

_FRAME_S = FRAME_MS / 1000


class Playout:
    """A queue of frames and the clock by which they leave.

    What was sent is modelled as a listener that plays without gaps while it has frames: `heard_samples` is what this
    listener has played. A frame leaves when the listener has at most `lead_ms` left; after a pause, or when frames
    came too late, the listener starts anew. Nothing is ever sent that could have been taken back earlier.
    """

    def __init__(
        self, clock: Clock, ownership: Ownership, rate_hz: int, lead_ms: int, send: Callable[[bytes, int], None]
    ) -> None:
        """`send` is called with a frame and the position, in samples, of its first sample; it must not block."""
        self._clock = clock
        self._ownership = ownership
        self._rate_hz = rate_hz
        self._lead_s = lead_ms / 1000
        self._send = send
        self._frame_bytes = frame_bytes(rate_hz)
        self._frame_samples = frame_samples(rate_hz)
        self._queue: deque[bytes] = deque()
        self._finished = False
        self._paused = False
        self._changed = asyncio.Event()
        self._listener_end = 0.0
        self._gain = self._target_gain = 1.0
        self.sent_samples = 0
        self.dropped_samples = 0

    @property
    def queued_end_samples(self) -> int:
        """Where the next audio to be appended will begin."""
        return self.sent_samples + len(self._queue) * self._frame_samples

    @property
    def heard_samples(self) -> int:
        """How much the listener has played by now."""
        ahead_s = max(0.0, self._listener_end - self._clock.now())
        return max(0, self.sent_samples - round(ahead_s * self._rate_hz))

    def append(self, pcm: bytes) -> None:
        """More frames. Raises `ValueError` unless they are whole."""
        if len(pcm) % self._frame_bytes:
            raise ValueError(f"{len(pcm)} bytes are not whole frames of {self._frame_bytes}")
        self._queue.extend(pcm[at : at + self._frame_bytes] for at in range(0, len(pcm), self._frame_bytes))
        self._changed.set()

    def drop_after(self, samples: int) -> None:
        """Forget queued frames that begin at or after a position; what was sent stays sent."""
        keep = max(0, -(-(samples - self.sent_samples) // self._frame_samples))
        while len(self._queue) > keep:
            self._queue.pop()
            self.dropped_samples += self._frame_samples

    def finish(self) -> None:
        """No more frames will come: `run` ends after the last."""
        self._finished = True
        self._changed.set()

    def pause(self) -> None:
        """Hold after the frame that just left."""
        self._paused = True
        self._gain = 0.0

    def resume(self) -> None:
        """Go on with the next frame, faded in over its 20 ms."""
        self._paused = False
        self._changed.set()

    def set_gain(self, gain: float) -> None:
        """Reach this gain over the next frame, without a click."""
        self._target_gain = gain

    async def run(self) -> None:
        """Send frames until finished. Cancelling it stops at once: no frame leaves after."""
        while True:
            await self._ready()
            if not self._queue:
                return
            self._listener_end = max(self._listener_end, self._clock.now())
            await self._clock.sleep_until(self._listener_end - self._lead_s)
            if self._paused or not self._queue or not self._ownership.confirmed:
                continue
            frame = self._shaped(self._queue.popleft())
            self._listener_end += _FRAME_S
            position = self.sent_samples
            self.sent_samples += self._frame_samples
            self._send(frame, position)

    async def _ready(self) -> None:
        while self._paused or not (self._queue or self._finished):
            self._changed.clear()
            await self._changed.wait()
        await self._ownership.wait_confirmed()

    def _shaped(self, frame: bytes) -> bytes:
        if self._gain == self._target_gain == 1.0:
            return frame
        samples = np.frombuffer(frame, "<i2").astype(np.float32)
        samples *= np.linspace(self._gain, self._target_gain, len(samples), dtype=np.float32)
        self._gain = self._target_gain
        return samples.round().astype("<i2").tobytes()
