"""The sessions of this orchestrator, kept in the registry so that any orchestrator can go on with them.

Everything is written behind the conversations: they say that something changed and never wait. Without Redis a session
lives on here, can be resumed here, and is written as soon as Redis is back, whether it came back full or empty.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any, Self

from redis.exceptions import RedisError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.config import AssistantConfig, OrchestratorConfig
from antiphon.registry.client import open_client
from antiphon.registry.keys import BEAT_S, Keys
from antiphon.registry.records import RECORD_LIMIT_BYTES, RecordReader, SessionRecord
from antiphon.registry.sessions import ClaimTail, SessionStore

SAVE_S = 1.0
"""A reply that is being heard is written at most so often."""
SETTLED_S = 0.1
"""And what is settled (an item, a turn, a setting): a kill takes with it no more than this."""
RELEASE_S = 1.0
"""How long the last word of a session may take to be written before its client is let go."""
HAND_OVER_S = 3.0
"""How long a connection may take to end when a newer one asks for its session."""
PARKED = 1000
"""Sessions without a client that are kept in memory; the oldest are then left to the registry alone."""
_LOOK_S = BEAT_S / 4
_BATCH = 20
_ID = re.compile(r"sess_[A-Za-z0-9_-]{10,60}")

logger = logging.getLogger(__name__)

Content = tuple[dict[str, Any], tuple[dict[str, Any], ...]]
"""A session's settings and its history, as JSON."""


def new_session_id() -> str:
    """A fresh session id: 32 characters, 160 bits of them random. Who holds it may go on with the session."""
    return f"sess_{secrets.token_urlsafe(20)}"


class Hold:
    """One session in this orchestrator's hands: with a client, or parked until one comes back.

    Made by `SessionKeeper`. The connection attaches itself, says what changes, and releases it at the end.
    """

    def __init__(self, keeper: "SessionKeeper", record: SessionRecord, resume_s: float) -> None:
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
        self._expires_s = float("inf")
        self._gone = False
        self._fits = True

    @property
    def resumed(self) -> bool:
        """Whether somebody had it before."""
        return self.record.epoch > 1

    @property
    def live(self) -> bool:
        """Whether a client has it."""
        return not self._released.is_set()

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
        fits = len(self.record.model_dump_json().encode()) <= RECORD_LIMIT_BYTES
        if not fits and self._fits:
            logger.warning("a session is too long to be kept", extra={"session_id": self.record.session_id})
        if not fits:
            self._tried.set()
        self._fits = fits
        return fits

    def tried(self, *, saved: bool) -> None:
        """An attempt to write it is over."""
        if not saved:
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
        if self._describe is not None:
            settings, history = self._describe()
            self.record = self.record.model_copy(update={"settings": settings, "history": history})


class SessionKeeper:
    """Writes this orchestrator's sessions behind them, and takes over those of others.

    Args:
        store: Where they lie.
        owner: This process: another incarnation under the same name is another owner.
        claims: Tells which sessions changed hands.
        assistant: The configuration of an assistant of this name. Raises `AntiphonError` when there is none.
    """

    def __init__(
        self,
        store: SessionStore,
        owner: str,
        claims: ClaimTail,
        assistant: Callable[[str], AssistantConfig],
    ) -> None:
        self.owner = owner
        self._store = store
        self._assistant = assistant
        self._claims = claims
        self._holds: dict[str, Hold] = {}
        self._nudged = asyncio.Event()
        self._away = False

    @classmethod
    def of(cls, config: OrchestratorConfig) -> Self:
        """A keeper with clients of its own to the configured registry; `aclose` closes them."""
        url, keys = config.registry.url, Keys(config.registry.namespace)
        client = open_client(url, namespace=keys.namespace)
        tail = open_client(url, namespace=keys.namespace, block_s=BEAT_S)
        owner = f"{config.server.id or socket.gethostname()}/{secrets.token_hex(4)}"
        store = SessionStore(client, keys, RecordReader())
        return cls(store, owner, ClaimTail(tail, keys), lambda name: config.assistant(name)[1])

    async def aclose(self) -> None:
        """Close its clients, once `run` has ended."""
        await self._store.client.aclose()
        await self._claims.client.aclose()

    def open(self, session_id: str, caller: str, assistant: str) -> Hold:
        """A new session. Asks nobody: it is written behind the conversation."""
        return self._keep(
            SessionRecord(session_id=session_id, owner=self.owner, epoch=1, assistant=assistant, caller=caller)
        )

    def has(self, session_id: str) -> bool:
        """Whether a client of this orchestrator has that session now."""
        return session_id in self._holds and self._holds[session_id].live

    async def resume(self, session_id: str, caller: str) -> Hold:
        """Take over a session of this caller, from here or elsewhere; who had it is told.

        Raises:
            AntiphonError: `SESSION_UNKNOWN` when there is none, or none of this caller; `NO_WORKER` when that cannot
                be known because Redis is out of reach.
        """
        here = self._holds.get(session_id)
        if here is not None and here.record.caller != caller:
            raise _unknown()
        if here is not None:
            await here.hand_over()
        try:
            record = await self._claim(session_id, caller)
        except (RedisError, OSError) as error:
            if here is None:
                message = "The registry is out of reach, so this session cannot be found now."
                raise AntiphonError(Reason.NO_WORKER, message, retry_after_ms=1000) from error
            record = None
        if here is not None and here.left_s(_now()) > 0 and (record is None or record.epoch == here.record.epoch + 1):
            record = here.record.model_copy(update={"owner": self.owner, "epoch": here.record.epoch + 1})
        if record is None:
            raise _unknown()
        return self._keep(record)

    async def _claim(self, session_id: str, caller: str) -> SessionRecord | None:
        if not _ID.fullmatch(session_id):
            return None
        record = await self._store.read(session_id)
        if record is None:
            return None
        if record.caller != caller:
            raise _unknown()
        return await self._store.claim(session_id, self.owner, self._assistant(record.assistant).resume_s)

    def _keep(self, record: SessionRecord) -> Hold:
        assistant = self._assistant(record.assistant)
        record = record.model_copy(update={"transcripts_kept": assistant.keep_transcripts})
        hold, before = Hold(self, record, assistant.resume_s), self._holds.pop(record.session_id, None)
        if before is not None:
            before.take()
        if hold.resume_s:
            self._holds[record.session_id] = hold
        return hold

    # --- behind the conversations -------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """Look at once. Never blocks."""
        self._nudged.set()

    async def run(self) -> None:
        """Write what changed, keep the rest alive, and notice who was taken over, until cancelled.

        Never raises for want of Redis.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_behind(), name="sessions-write")
            tasks.create_task(self._claims.run(self._claimed), name="sessions-claims")

    async def _write_behind(self) -> None:
        beat_s = _now()
        while True:
            self._nudged.clear()
            now = _now()
            self._drop_expired(now)
            await self._save([hold for hold in self._holds.values() if hold.due_s <= now])
            if now >= beat_s:
                beat_s = now + BEAT_S
                await self._renew()
            due_s = min((hold.due_s for hold in self._holds.values()), default=float("inf"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(due_s, now + _LOOK_S)):
                    await self._nudged.wait()

    async def _save(self, holds: Sequence[Hold]) -> None:
        """Write these sessions; those that cannot be written now are written later.

        Only one task does this: of two writes at once the older might come last.
        """
        for start in range(0, len(holds), _BATCH):
            fits = {hold: hold.fits() for hold in holds[start : start + _BATCH]}
            batch, now = [hold for hold in fits if fits[hold]], _now()
            try:
                for hold in fits.keys() - set(batch):
                    await self._store.forget(hold.record)  # an older form of it would be worse than none
                saved = await self._store.save_all([(hold.record, hold.left_s(now)) for hold in batch])
                self._reached(True)
            except (RedisError, OSError) as error:
                self._reached(False, type(error).__name__)
                for hold in batch:
                    hold.tried(saved=False)
                continue
            for hold, ours in zip(batch, saved, strict=True):
                hold.tried(saved=True)
                if not ours:
                    self._lose(hold)

    async def forget(self, hold: Hold) -> None:
        """Delete a session that is over; without Redis it expires by itself."""
        if self._holds.get(hold.record.session_id) is hold:
            del self._holds[hold.record.session_id]
        if hold.resume_s:
            with contextlib.suppress(RedisError, OSError):
                await self._store.forget(hold.record)

    async def _renew(self) -> None:
        """Keep alive what lies there, and find what is missing there: Redis came back empty."""
        holds, now = list(self._holds.values()), _now()
        for start in range(0, len(holds), 10 * _BATCH):
            batch = holds[start : start + 10 * _BATCH]
            try:
                owners = await self._store.renew([(hold.record.session_id, hold.left_s(now)) for hold in batch])
                self._reached(True)
            except (RedisError, OSError) as error:
                self._reached(False, type(error).__name__)
                return
            for hold, found in zip(batch, owners, strict=True):
                if found is None:
                    hold.changed(settled=True)
                elif found[1] > hold.record.epoch or (found[1] == hold.record.epoch and found[0] != self.owner):
                    self._lose(hold)

    def _claimed(self, session_id: str, owner: str, epoch: int) -> None:
        hold = self._holds.get(session_id)
        if hold is not None and owner != self.owner and epoch > hold.record.epoch:
            self._lose(hold)

    def _lose(self, hold: Hold) -> None:
        if self._holds.get(hold.record.session_id) is hold:
            del self._holds[hold.record.session_id]
        hold.take()

    def _drop_expired(self, now: float) -> None:
        parked = [session_id for session_id, hold in self._holds.items() if not hold.live]
        for number, session_id in enumerate(parked):
            if len(parked) - number > PARKED or not self._holds[session_id].left_s(now):
                del self._holds[session_id]

    def _reached(self, reached: bool, cause: str = "") -> None:
        if self._away is reached:
            self._away = not reached
            message = "sessions are written again" if reached else "sessions cannot be written: kept in memory"
            logger.warning(message, extra={"sessions": len(self._holds), "cause": cause})


def _unknown() -> AntiphonError:
    return AntiphonError(
        Reason.SESSION_UNKNOWN, "There is no such session to resume, or not any more: connect without session_id."
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
