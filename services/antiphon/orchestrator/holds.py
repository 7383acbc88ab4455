"""A session in an orchestrator's hands: what it is now, when that is written, and whether it may answer in it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from antiphon.registry.records import RECORD_LIMIT_BYTES, SessionRecord
from antiphon.registry.sessions import OWNED_S

SAVE_S = 1.0
"""A reply that is being heard is written at most so often."""
SETTLED_S = 0.1
"""And what is settled (an item, a turn, a setting): a kill takes with it no more than this."""
RELEASE_S = 1.0
"""How long the last word of a session may take to be written before its client is let go."""
HAND_OVER_S = 3.0
"""How long a connection may take to end when a newer one asks for its session."""

logger = logging.getLogger(__name__)

Content = tuple[dict[str, Any], tuple[dict[str, Any], ...]]
"""A session's settings and its history, as JSON."""


class Keeper(Protocol):
    """What a session needs of the one that keeps it."""

    @property
    def out_of_reach_s(self) -> float:
        """When Redis was found out of reach; long ago when it answers."""
        ...

    def nudge(self) -> None:
        """Look at once whether something is to be written. Never blocks."""
        ...

    async def forget(self, hold: "Hold") -> None:
        """Delete a session that is over."""
        ...


class Hold:
    """One session in this orchestrator's hands: with a client, or parked until one comes back.

    Made by `SessionKeeper`. The connection attaches itself, says what changes, and releases it at the end.
    """

    def __init__(
        self, keeper: Keeper, record: SessionRecord, resume_s: float, *, asked_s: float, alone_s: float
    ) -> None:
        """`asked_s`: when it was asked for. `alone_s`: from when on nobody who had it before can answer in it."""
        self.record = record
        """As it was when it was described last."""
        self.resume_s = resume_s
        """How long it can be resumed; 0: nothing of it is kept."""
        self._keeper = keeper
        self._describe: Callable[[], Content] | None = None
        self._on_taken: Callable[[], None] | None = None
        self._released = asyncio.Event()
        self._tried = asyncio.Event()
        """What it is now was written, or could not be."""
        self._saved_s = float("-inf")
        self._due_s: float | None = None
        self.written = record.epoch > 1
        """Whether it should lie in the registry."""
        self._expires_s = float("inf")
        self._alone_s = alone_s
        self._confirmed_s = asked_s
        self._news = asyncio.Event()
        """Whether it may answer is to be looked at again."""
        self._gone = False
        self._fits = True

    @property
    def resumed(self) -> bool:
        """Whether somebody had it before."""
        return self.record.epoch > 1

    @property
    def epoch(self) -> int:
        """Of this owner."""
        return self.record.epoch

    @property
    def live(self) -> bool:
        """Whether a client has it."""
        return not self._released.is_set()

    @property
    def confirmed(self) -> bool:
        """Whether it may answer: it alone has the session, as far as can be known.

        It was told so within `OWNED_S`, or found within that time that Redis is out of reach: calls survive Redis.
        """
        if self._gone or not self.resume_s:
            return not self._gone
        return self.alone and _now() - max(self._confirmed_s, self._keeper.out_of_reach_s) <= OWNED_S

    async def wait_confirmed(self) -> None:
        """Wait until it may answer; for ever when it was taken."""
        while not self.confirmed:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._alone_s if not self.alone else None):
                    await self._news.wait()

    def attach(self, describe: Callable[[], Content], on_taken: Callable[[], None]) -> None:
        """A connection goes on with it.

        Args:
            describe: Gives what the session is now; called on the loop whenever it is written.
            on_taken: Called once when a newer connection, here or elsewhere, has the session: stop answering.
        """
        self._describe, self._on_taken = describe, on_taken
        self.changed(settled=True)
        if self._gone:
            on_taken()

    def changed(self, *, settled: bool = False) -> None:
        """Have it written within a second, or, when what changed is settled, at once. Never blocks."""
        if not self.resume_s or self._gone:
            return
        due_s = self._saved_s + (SETTLED_S if settled else SAVE_S)
        self._tried.clear()
        self._due_s = due_s if self._due_s is None else min(self._due_s, due_s)
        if settled:
            self._keeper.nudge()

    async def release(self) -> None:
        """Its client is gone: it waits for another, here or elsewhere. What it is now is written first, if it can be.

        Idempotent. Cancelling ends the wait, not the writing.
        """
        if not self.live:
            return
        if self._describe is None and not self.record.settings:
            return await self.end()  # it never began
        self._refresh()
        self._describe = self._on_taken = None
        self._expires_s = _now() + self.resume_s
        self._saved_s = float("-inf")
        self.changed(settled=True)
        self._released.set()
        if self.resume_s and not self._gone:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELEASE_S):
                    await self._tried.wait()

    async def end(self) -> None:
        """It is over: nobody may resume it. Idempotent."""
        self._released.set()
        await self._keeper.forget(self)

    # --- for the keeper -----------------------------------------------------------------------------------------------

    @property
    def alone(self) -> bool:
        """Whether nobody who had it before can answer in it any more."""
        return _now() >= self._alone_s

    @property
    def alone_s(self) -> float:
        """From when on that is so."""
        return self._alone_s

    @property
    def quiet(self) -> bool:
        """Whether nobody answers in it: who takes it over need not wait."""
        return not self.live and self.alone

    def leave_alone(self) -> None:
        """Who had it before has stopped."""
        self._alone_s = float("-inf")
        self._news.set()

    def contend(self) -> None:
        """Somebody who had it before takes it for theirs: they are told, and have their time to stop."""
        if self.alone:
            self._alone_s = _now() + OWNED_S

    def confirm(self, asked_s: float) -> None:
        """It was ours at that moment or later."""
        self._confirmed_s = max(self._confirmed_s, asked_s)
        self._news.set()

    def look_again(self) -> None:
        """Redis is out of reach: that counts as well."""
        self._news.set()

    @property
    def due_s(self) -> float:
        """When it should be written."""
        return float("inf") if self._due_s is None else self._due_s

    def left_s(self, now: float) -> float:
        """How long it can still be resumed if nothing more happens."""
        return self.resume_s if self.live else max(0.0, self._expires_s - now)

    def fits(self) -> bool:
        """Describe it anew; whether it can be written. It counts as written until `changed` says otherwise."""
        self._refresh()
        self._saved_s, self._due_s = _now(), None
        if not self._fits:
            self.written = False
            self._tried.set()
        return self._fits

    def tried(self, *, saved: bool) -> None:
        """An attempt to write it is over."""
        if saved:
            self.written = True
        else:
            self.changed()
        if not saved or self._due_s is None:  # else it changed meanwhile: the next attempt counts
            self._tried.set()

    def take(self) -> None:
        """A newer connection has it. Idempotent."""
        if not self._gone:
            self._gone, self._due_s = True, None
            self._tried.set()
            if self._on_taken is not None:
                self._on_taken()

    async def hand_over(self) -> None:
        """Have this connection end for a newer one, and wait until it has."""
        if self.live and self._on_taken is not None:
            self._on_taken()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HAND_OVER_S):
                    await self._released.wait()

    def _refresh(self) -> None:
        """Take in what it is now, and whether that can be written; what is wrong with one session harms no other."""
        cause = ""
        try:
            if self._describe is not None:
                settings, history = self._describe()
                self.record = self.record.model_copy(update={"settings": settings, "history": history})
            if len(self.record.model_dump_json().encode()) > RECORD_LIMIT_BYTES:
                cause = "it is too long"
        except Exception as error:
            cause = type(error).__name__  # its message may hold what was said
        if cause and self._fits:
            logger.warning("a session cannot be kept", extra={"session_id": self.record.session_id, "cause": cause})
        self._fits = not cause


def _now() -> float:
    return asyncio.get_running_loop().time()
