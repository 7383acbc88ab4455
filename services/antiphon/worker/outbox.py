"""What a synthesis has computed and not yet sent: the one place where pacing, pausing and stopping take hold."""

import asyncio
from collections import deque
from dataclasses import dataclass

from antiphon.contracts.frames import FRAME_MS, frame_bytes, frame_samples
from antiphon.contracts.v1 import synthesis_pb2 as pb

MESSAGE_FRAMES = 10
"""At most 200 ms in a message: what was sent cannot be paused any more."""
READY_MS = 400
"""How much may be computed before it may leave."""


@dataclass(slots=True)
class _Speech:
    """Whole frames; `clause` is set when they are the first of it."""

    pcm: bytearray
    clause: pb.ClauseStart | None = None


class Outbox:
    """Responses in order; audio leaves when the stream is not paused and the lead allows it.

    One writer of `put_*`, one reader of `get`; the rest may be called from any task of the loop.

    Args:
        rate_hz: Of the audio.
        max_lead_ms: How far what is sent may be ahead of what was played.
        generation: Comes back in every `Audio`.
    """

    def __init__(self, rate_hz: int, max_lead_ms: int, generation: int = 0) -> None:
        self._frame_bytes = frame_bytes(rate_hz)
        self._frame_samples = frame_samples(rate_hz)
        self._lead_samples = max(max_lead_ms, FRAME_MS) * rate_hz // 1000
        self._ready_bytes = READY_MS // FRAME_MS * self._frame_bytes
        self._generation = generation
        self._items: deque[_Speech | pb.WordTimes] = deque()
        self._held_bytes = 0
        self._played_samples = 0
        self._paused = self._finished = False
        self._changed = asyncio.Event()
        self.position_samples = 0
        """The next sample that would leave."""

    @property
    def paused(self) -> bool:
        """Whether audio is held back."""
        return self._paused

    def pause(self) -> None:
        """Let no frame leave from now on. Idempotent."""
        self._paused = True

    def resume(self) -> None:
        """Go on at the next sample. Idempotent."""
        self._paused = False
        self._changed.set()

    def played(self, position_samples: int) -> None:
        """Move the caller's playout position forward; it never goes back, nor beyond what was sent."""
        self._played_samples = max(self._played_samples, min(position_samples, self.position_samples))
        self._changed.set()

    def put_audio(self, pcm: bytes, clause: pb.ClauseStart | None = None) -> None:
        """Add whole frames; await `room` before computing more.

        Args:
            pcm: Whole frames at the stream's rate.
            clause: Given with the first frames of a clause.
        """
        self._items.append(_Speech(bytearray(pcm), clause))
        self._held_bytes += len(pcm)
        self._changed.set()

    def put_words(self, words: pb.WordTimes) -> None:
        """Add word times; they leave after the audio that was put before."""
        self._items.append(words)
        self._changed.set()

    async def room(self) -> None:
        """Return when little enough is held; at once when nothing is to be sent any more."""
        while self._held_bytes > self._ready_bytes and not self._finished:
            await self._change()

    def finish(self) -> None:
        """Say that nothing more will be put."""
        self._finished = True
        self._changed.set()

    def clear(self) -> None:
        """Throw away what is held, and finish."""
        self._items.clear()
        self._held_bytes = 0
        self.finish()

    async def get(self) -> pb.SynthesizeResponse | None:
        """The next response, as soon as it may leave; None after the last one."""
        while (response := self._next()) is None:
            if self._finished and not self._items:
                return None
            await self._change()
        return response

    def _next(self) -> pb.SynthesizeResponse | None:
        if not self._items:
            return None
        head = self._items[0]
        if isinstance(head, pb.WordTimes):
            self._items.popleft()
            return pb.SynthesizeResponse(words=head)
        taken_bytes = min(len(head.pcm), self._allowed_frames() * self._frame_bytes)
        if not taken_bytes:
            return None
        return pb.SynthesizeResponse(audio=self._take(head, taken_bytes))

    def _allowed_frames(self) -> int:
        if self._paused:
            return 0
        room_samples = self._played_samples + self._lead_samples - self.position_samples
        most = MESSAGE_FRAMES if self.position_samples else 1
        return max(0, min(room_samples // self._frame_samples, most))

    def _take(self, head: _Speech, taken_bytes: int) -> pb.Audio:
        audio = pb.Audio(
            pcm=bytes(head.pcm[:taken_bytes]),
            position_samples=self.position_samples,
            generation=self._generation,
            clause=head.clause,
        )
        del head.pcm[:taken_bytes]
        head.clause = None
        if not head.pcm:
            self._items.popleft()
        self._held_bytes -= taken_bytes
        self.position_samples += taken_bytes // self._frame_bytes * self._frame_samples
        self._changed.set()
        return audio

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
