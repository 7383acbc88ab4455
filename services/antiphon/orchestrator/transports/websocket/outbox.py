"""What waits to be sent to one client: bounded, in order, and without audio that has become void."""

import asyncio
from collections import deque
from dataclasses import dataclass

from antiphon.orchestrator.metrics import OrchestratorMetrics


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message: text or binary."""

    payload: str | bytes
    generation: int | None = None
    """Of reply audio: the reply's."""


class Outbox:
    """A queue between a conversation, which never waits, and a socket, which may.

    Policy when full: nothing more is taken and `overflowed` says so; the client is too slow and has to go.
    """

    def __init__(self, limit: int, metrics: OrchestratorMetrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._queue: deque[Outgoing] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._void_generation = -1
        self.overflowed = False

    def put(self, message: Outgoing) -> bool:
        """Queue a message; False: the queue is full, now or before."""
        if self.overflowed or len(self._queue) >= self._limit:
            self.overflowed = True
            return False
        self._queue.append(message)
        self._changed.set()
        return True

    def void(self, generation: int) -> None:
        """Drop reply audio of this generation and older ones that has not left yet."""
        self._void_generation = max(self._void_generation, generation)

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._changed.set()

    async def get(self) -> Outgoing | None:
        """The next message that is worth sending; None after the last one."""
        while True:
            while self._queue:
                message = self._queue.popleft()
                if message.generation is None or message.generation > self._void_generation:
                    return message
                self._metrics.dropped_frames.inc()
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
