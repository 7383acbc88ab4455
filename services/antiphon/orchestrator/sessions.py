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
from typing import Self

from redis.exceptions import RedisError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.config import AssistantConfig, OrchestratorConfig
from antiphon.orchestrator.holds import Hold
from antiphon.registry.client import open_client
from antiphon.registry.keys import BEAT_S, Keys
from antiphon.registry.records import RecordReader, SessionRecord
from antiphon.registry.sessions import CONFIRM_S, OWNED_S, Claim, ClaimTail, Save, SessionStore

PARKED = 1000
"""Sessions without a client that are kept in memory; the oldest are then left to the registry alone."""
_LOOK_S = BEAT_S / 4
_BATCH = 20
_CLAIMS = 50
"""So many sessions are taken over at once, and others wait: where an orchestrator died, all of its clients come at the
same moment, and a client of Redis has a hundred connections at most."""
_ID = re.compile(r"sess_[A-Za-z0-9_-]{10,60}")

logger = logging.getLogger(__name__)


def new_session_id() -> str:
    """A fresh session id: 32 characters, 160 bits of them random. Who holds it may go on with the session."""
    return f"sess_{secrets.token_urlsafe(20)}"


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
        self._writing = asyncio.Lock()
        self._claiming = asyncio.Semaphore(_CLAIMS)
        self._stopped: list[SessionRecord] = []
        """Taken over by others, who wait to be told that nobody answers here any more."""
        self._away = False
        self._out_of_reach_s = float("-inf")

    @classmethod
    def of(cls, config: OrchestratorConfig) -> Self:
        """A keeper with clients of its own to the configured registry; `aclose` closes them."""
        url, keys = config.registry.url, Keys(config.registry.namespace)
        client = open_client(url, namespace=keys.namespace)
        tail = open_client(url, namespace=keys.namespace, block_s=BEAT_S)
        owner = f"{config.server.id or socket.gethostname()}/{secrets.token_hex(4)}"
        store = SessionStore(client, keys, RecordReader(remembered=0))  # else what was said would stay in memory
        return cls(store, owner, ClaimTail(tail, keys), lambda name: config.assistant(name)[1])

    async def aclose(self) -> None:
        """Close its clients, once `run` has ended."""
        await self._store.client.aclose()
        await self._claims.client.aclose()

    def open(self, session_id: str, caller: str, assistant: str) -> Hold:
        """A new session. Asks nobody: it is written behind the conversation."""
        record = SessionRecord(session_id=session_id, owner=self.owner, epoch=1, assistant=assistant, caller=caller)
        return self._keep(record, asked_s=_now(), alone_s=float("-inf"))

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
            async with self._claiming:
                asked_s = _now()
                claim = await self._claim(session_id, caller)
        except (RedisError, OSError) as error:
            if here is None:
                message = "The registry is out of reach, so this session cannot be found now."
                raise AntiphonError(Reason.NO_WORKER, message, retry_after_ms=1000) from error
            self._is_out_of_reach(asked_s, error)
            claim, asked_s = None, float("-inf")
        alone_s = float("-inf") if claim is None or claim.released else _now() + OWNED_S
        # Redis may know less than is known here: it was away, or came back as it had been before.
        is_latest = here is not None and (claim is None or claim.record.epoch <= here.epoch + 1)
        if here is not None and is_latest and here.left_s(_now()) > 0:
            if claim is None or claim.record.epoch == here.epoch + 1:
                alone_s = here.alone_s  # nobody had it in between
            record = here.record.model_copy(update={"owner": self.owner, "epoch": here.epoch + 1})
            return self._keep(record, asked_s=asked_s, alone_s=alone_s)
        if claim is None:
            raise _unknown()
        return self._keep(claim.record, asked_s=asked_s, alone_s=alone_s)

    async def _claim(self, session_id: str, caller: str) -> Claim | None:
        if not _ID.fullmatch(session_id):
            return None
        record = await self._store.read(session_id)
        if record is None:
            return None
        if record.caller != caller:
            raise _unknown()
        return await self._store.claim(session_id, self.owner, self._assistant(record.assistant).resume_s)

    def _keep(self, record: SessionRecord, *, asked_s: float, alone_s: float) -> Hold:
        assistant = self._assistant(record.assistant)
        record = record.model_copy(update={"transcripts_kept": assistant.keep_transcripts})
        hold = Hold(self, record, assistant.resume_s, asked_s=asked_s, alone_s=alone_s)
        before = self._holds.get(record.session_id)
        if before is not None and before.epoch > hold.epoch:
            hold.take()  # who asked later was answered first
            return hold
        if before is not None:
            del self._holds[record.session_id]
            before.take()
        if hold.resume_s:
            self._holds[record.session_id] = hold
        return hold

    def _keeps(self, hold: Hold) -> bool:
        """Whether it is this one that has its session here."""
        return self._holds.get(hold.record.session_id) is hold

    @property
    def out_of_reach_s(self) -> float:
        """When Redis was found out of reach; long ago when it answers."""
        return self._out_of_reach_s

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
            tasks.create_task(self._confirm(), name="sessions-confirm")
            tasks.create_task(self._claims.run(self._claimed, self._has_stopped), name="sessions-claims")

    async def _write_behind(self) -> None:
        while True:
            self._nudged.clear()
            await self._tell_stopped()
            now = _now()
            self._drop_expired(now)
            await self._save([hold for hold in self._holds.values() if hold.due_s <= now])
            due_s = min((hold.due_s for hold in self._holds.values()), default=float("inf"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(due_s, now + _LOOK_S)):
                    await self._nudged.wait()

    async def _confirm(self) -> None:
        while True:
            next_s = _now() + CONFIRM_S
            await self._renew()
            await asyncio.sleep(max(0.0, next_s - _now()))

    async def _save(self, holds: Sequence[Hold]) -> None:
        """Write these sessions; those that cannot be written now are written later.

        Only one task does this: of two writes at once the older might come last.
        """
        for start in range(0, len(holds), _BATCH):
            async with self._writing:
                await self._save_some([hold for hold in holds[start : start + _BATCH] if self._keeps(hold)])

    async def _save_some(self, holds: Sequence[Hold]) -> None:
        fits = {hold: hold.fits() for hold in holds}
        batch, now = [hold for hold in holds if fits[hold]], _now()
        try:
            for hold in fits.keys() - set(batch):
                await self._store.forget(hold.record)  # an older form of it would be worse than none
            saved = await self._store.save_all([Save(hold.record, hold.left_s(now), hold.quiet) for hold in batch])
            self._reached(True)
        except (RedisError, OSError) as error:
            self._reached(False, type(error).__name__)
            for hold in batch:
                hold.tried(saved=False)
            return
        for hold, ours in zip(batch, saved, strict=True):
            hold.tried(saved=True)
            if ours:
                hold.confirm(now)
            else:
                self._lose(hold)

    async def forget(self, hold: Hold) -> None:
        """Delete a session that is over; without Redis it expires by itself."""
        if self._keeps(hold):
            del self._holds[hold.record.session_id]
        if hold.resume_s:
            with contextlib.suppress(RedisError, OSError):
                async with self._writing:  # what is being written of it would come after its end
                    await self._store.forget(hold.record)

    async def _renew(self) -> None:
        """Ask whose the sessions are, keep them alive, and find what is missing there: Redis came back empty."""
        holds, size = list(self._holds.values()), 10 * _BATCH
        # All at once: one after the other, they would take longer than an owner may answer unasked.
        parts = [holds[start : start + size] for start in range(0, len(holds), size)]
        answered = await asyncio.gather(*map(self._renew_some, parts))
        if parts and all(answered):
            self._out_of_reach_s = float("-inf")
            self._reached(True)

    async def _renew_some(self, holds: Sequence[Hold]) -> bool:
        """The same for some of them; whether Redis answered."""
        now = _now()
        try:
            owners = await self._store.renew([(hold.record.session_id, hold.left_s(now)) for hold in holds])
        except (RedisError, OSError) as error:
            self._is_out_of_reach(now, error)
            return False
        for hold, found in zip(holds, owners, strict=True):
            self._found(hold, found, now)
        return True

    def _found(self, hold: Hold, found: tuple[str, int] | None, asked_s: float) -> None:
        """Take in whose a session is."""
        if found is not None and (found[1] > hold.epoch or (found[1] == hold.epoch and found[0] != self.owner)):
            return self._lose(hold)
        if found is not None and found[0] != self.owner:  # an older owner wrote first after Redis was emptied
            hold.contend()
        hold.confirm(asked_s)
        if hold.written and (found is None or found[1] < hold.epoch):
            hold.changed(settled=True)

    def _claimed(self, session_id: str, owner: str, epoch: int) -> None:
        hold = self._holds.get(session_id)
        if hold is not None and owner != self.owner and epoch > hold.epoch:
            self._lose(hold)

    def _has_stopped(self, session_id: str, epoch: int) -> None:
        hold = self._holds.get(session_id)
        if hold is not None and epoch == hold.epoch - 1:
            hold.leave_alone()

    def _lose(self, hold: Hold) -> None:
        if self._keeps(hold):
            del self._holds[hold.record.session_id]
            if hold.alone:
                self._stopped.append(hold.record)
                self.nudge()
        hold.take()

    async def _tell_stopped(self) -> None:
        stopped, self._stopped = self._stopped, []
        with contextlib.suppress(RedisError, OSError):  # unheard, the new owner waits its time
            for record in stopped:
                await self._store.tell_stopped(record)

    def _drop_expired(self, now: float) -> None:
        parked = [session_id for session_id, hold in self._holds.items() if not hold.live]
        for number, session_id in enumerate(parked):
            if len(parked) - number > PARKED or not self._holds[session_id].left_s(now):
                del self._holds[session_id]

    def _is_out_of_reach(self, asked_s: float, error: Exception) -> None:
        """It did not answer what it was asked then. That it was known later says less: this process may have stood."""
        self._out_of_reach_s = asked_s
        self._reached(False, type(error).__name__)
        for hold in self._holds.values():
            hold.look_again()

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
