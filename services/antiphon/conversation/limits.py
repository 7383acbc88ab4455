"""The bounds of a session: each is announced before it acts."""

from collections.abc import Callable
from typing import Literal

from antiphon.conversation.events import Event, LimitNear
from antiphon.conversation.ports import Clock
from antiphon.conversation.settings import Limits

SessionLimit = Literal["idle", "session"]

_LOOK_S = 1.0
"""How often the bounds are looked at; they are minutes long."""


class LimitWatch:
    """Watches how long a session lasts, and how long nobody has said anything."""

    def __init__(self, clock: Clock, limits: Callable[[], Limits], emit: Callable[[Event], None]) -> None:
        self._clock = clock
        self._limits = limits
        self._emit = emit
        self._start = self._active_at = clock.now()
        self._warned: set[SessionLimit] = set()

    def touch(self) -> None:
        """Somebody has said or asked for something."""
        self._active_at = self._clock.now()

    async def run(self, busy: Callable[[], bool]) -> SessionLimit:
        """The limit that was reached, when it is reached. While `busy`, the session is not idle."""
        while True:
            if busy():
                self.touch()
            limits = self._limits()
            if self._reached("idle", self._active_at, limits.idle_s):
                return "idle"
            if self._reached("session", self._start, limits.session_s):
                return "session"
            await self._clock.sleep_until(self._clock.now() + _LOOK_S)

    def _reached(self, limit: SessionLimit, since: float, length_s: float) -> bool:
        if not length_s:
            return False
        left_s = since + length_s - self._clock.now()
        if left_s > self._limits().warning_s:
            self._warned.discard(limit)
        elif limit not in self._warned:
            self._warned.add(limit)
            self._emit(LimitNear(limit, left_s))
        return left_s <= 0
