"""Who answers in a session: one owner at a time, decided by a compare-and-set.

A session's key is a hash of `owner`, `epoch` and `record`. Whoever takes a session over raises its epoch; a write under
a lower epoch, or under the same one by somebody else, is refused, so an owner that was replaced learns it at its next
write at the latest, and nothing that it says afterwards becomes part of the conversation. So that it does not say
anything afterwards, either: an owner answers only while it was confirmed within `OWNED_S`, and a new one waits for so
long, unless the one before left word that it has stopped.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from antiphon.registry.client import after_silence, last_position, read_streams
from antiphon.registry.keys import BEAT_S, STREAM_ENTRIES, Keys
from antiphon.registry.records import RecordReader, SessionRecord

CONFIRM_S = BEAT_S / 4
"""How often an owner asks whether a session is still its own."""
OWNED_S = 1.5 * BEAT_S
"""How long an owner answers after it asked last with success, and how long a new one waits for it: time to ask, for the
connection and the command to time out (0.5 s each), and to be late by 0.25 s."""

# KEYS: session, claims. ARGV: session id, owner, TTL in ms, entries to keep.
# Returns the new epoch, the record, and whether the owner before has let go.
_CLAIM = """
local record = redis.call('HGET', KEYS[1], 'record')
if not record then return false end
local before = redis.call('HGET', KEYS[1], 'epoch') or '0'
local released = redis.call('HGET', KEYS[1], 'released') == before and 1 or 0
local epoch = string.format('%.0f', (tonumber(before) or 0) + 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'epoch', epoch)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '0-*', 'session', ARGV[1], 'owner', ARGV[2], 'epoch', epoch)
return {epoch, record, released}
"""

# KEYS: session. ARGV: owner, epoch, record, TTL in ms, 1 when nobody answers under this epoch. 0: somebody else's.
_SAVE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0
local owner = redis.call('HGET', KEYS[1], 'owner')
if epoch > tonumber(ARGV[2]) or (epoch == tonumber(ARGV[2]) and owner ~= ARGV[1]) then return 0 end
local released = ARGV[5] == '1' and ARGV[2] or ''
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', ARGV[2], 'record', ARGV[3], 'released', released)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# KEYS: session. ARGV: owner, epoch.
_FORGET = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return 0 end
return redis.call('DEL', KEYS[1])
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A session that was taken over."""

    record: SessionRecord
    released: bool
    """Nobody answers in it: its owner before let go of it. Else that one may for another `OWNED_S`."""


@dataclass(frozen=True, slots=True)
class Save:
    """What is to be written of a session."""

    record: SessionRecord
    ttl_s: float
    released: bool = False
    """Its owner does not answer in it any more, and nobody before it does."""


@dataclass(frozen=True, slots=True)
class SessionStore:
    """The sessions of one namespace. Every method raises `RedisError` or `OSError` when Redis does not answer.

    Args:
        client: Somebody else closes it.
        keys: Of the namespace.
        records: Counts what cannot be read.
    """

    client: "redis.Redis"
    keys: Keys
    records: RecordReader

    async def read(self, session_id: str) -> SessionRecord | None:
        """The session as it was saved last; None when there is none, or none that can be read."""
        answer: Any = await self.client.hmget(self.keys.session(session_id), ["owner", "epoch", "record"])
        owner, epoch, record = answer
        return self._record(session_id, owner, epoch, record) if owner and epoch and record else None

    async def claim(self, session_id: str, owner: str, ttl_s: float) -> Claim | None:
        """Take a session over: it is `owner`'s from now on, under a new epoch. None when there is none.

        Every claim is told on the stream `Keys.claims`, so that the owner before learns of it.
        """
        keys = (self.keys.session(session_id), self.keys.claims)
        arguments = (session_id, owner, _ms(ttl_s), STREAM_ENTRIES)
        answer = await self.client.eval(_CLAIM, len(keys), *keys, *arguments)
        if not answer:
            return None
        record = self._record(session_id, owner.encode(), answer[0], answer[1])
        return None if record is None else Claim(record, bool(answer[2]))

    async def save(self, record: SessionRecord, ttl_s: float) -> bool:
        """Write what the session has become; False when it is somebody else's: stop answering, tell the client.

        Where there is none (a new one, or an emptied Redis) it is written.
        """
        return (await self.save_all([Save(record, ttl_s)]))[0]

    async def save_all(self, saves: Sequence[Save]) -> list[bool]:
        """`save` for several in one round trip."""
        async with self.client.pipeline(transaction=False) as pipe:
            for save in saves:
                record, key = save.record, self.keys.session(save.record.session_id)
                arguments = (record.owner, record.epoch, record.model_dump_json(), _ms(save.ttl_s), int(save.released))
                pipe.eval(_SAVE, 1, key, *arguments)
            return [bool(answer) for answer in await pipe.execute()]

    async def tell_stopped(self, record: SessionRecord) -> None:
        """Tell whoever took it over that this owner has stopped answering, and nobody before it answers."""
        fields: dict[Any, Any] = {"session": record.session_id, "owner": record.owner, "epoch": record.epoch}
        await self.client.xadd(
            self.keys.claims, fields | {"stopped": 1}, id="0-*", maxlen=STREAM_ENTRIES, approximate=True
        )

    async def renew(self, sessions: Sequence[tuple[str, float]]) -> list[tuple[str, int] | None]:
        """Let sessions (id, TTL) live on as they lie there; owner and epoch of each, None where there is none."""
        async with self.client.pipeline(transaction=False) as pipe:
            for session_id, ttl_s in sessions:
                pipe.hmget(self.keys.session(session_id), ["owner", "epoch"])
                pipe.pexpire(self.keys.session(session_id), _ms(ttl_s))
            answers: list[Any] = await pipe.execute()
        return [
            (owner.decode(errors="replace"), int(epoch)) if owner and epoch and epoch.isdigit() else None
            for owner, epoch in answers[::2]
        ]

    async def forget(self, record: SessionRecord) -> bool:
        """Delete a session that has ended; False when it is not that owner's."""
        key = self.keys.session(record.session_id)
        return bool(await self.client.eval(_FORGET, 1, key, record.owner, record.epoch))

    def _record(self, session_id: str, owner: bytes, epoch: bytes, value: bytes) -> SessionRecord | None:
        record = self.records.read(SessionRecord, session_id, value)
        if record is None or not epoch.isdigit():
            return None
        return record.model_copy(update={"owner": owner.decode(errors="replace"), "epoch": int(epoch)})


@dataclass(frozen=True, slots=True)
class ClaimTail:
    """Tells of every session that changes hands, as it does, and of every owner that has stopped.

    Args:
        client: For this alone, since it blocks for a beat; somebody else closes it.
        keys: Of the namespace.
    """

    client: "redis.Redis"
    keys: Keys

    async def run(self, claimed: Callable[[str, str, int], None], stopped: Callable[[str, int], None]) -> None:
        """Until cancelled, call `claimed` with session, new owner and epoch, `stopped` with session and epoch.

        Never raises for want of Redis.
        """
        position = ""
        while True:
            try:
                position = await self._follow(position, claimed, stopped)
            except (RedisError, OSError):
                await asyncio.sleep(BEAT_S / 4)

    async def _follow(
        self, position: str, claimed: Callable[[str, str, int], None], stopped: Callable[[str, int], None]
    ) -> str:
        position = position or last_position(await self.client.xrevrange(self.keys.claims, count=1))
        entries = await read_streams(self.client, {self.keys.claims: position}, block_s=BEAT_S)
        for entry in entries:
            session_id, owner, epoch = (entry.fields.get(name, b"") for name in (b"session", b"owner", b"epoch"))
            if not epoch.isdigit():
                continue
            if b"stopped" in entry.fields:
                stopped(session_id.decode(errors="replace"), int(epoch))
            else:
                claimed(session_id.decode(errors="replace"), owner.decode(errors="replace"), int(epoch))
        return entries[-1].position if entries else await after_silence(self.client, self.keys.claims, position)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
