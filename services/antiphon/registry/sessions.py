"""Who answers in a session: one owner at a time, decided by a compare-and-set.

A session's key is a hash of `owner`, `epoch` and `record`. Whoever takes a session over raises its epoch; a write under
a lower epoch, or under the same one by somebody else, is refused, so an owner that was replaced learns it at its next
write at the latest, and nothing that it says afterwards becomes part of the conversation.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from antiphon.registry.client import read_streams
from antiphon.registry.keys import BEAT_S, STREAM_ENTRIES, Keys
from antiphon.registry.records import RecordReader, SessionRecord

# KEYS: session, claims. ARGV: session id, owner, TTL in ms, entries to keep. Returns the new epoch and the record.
_CLAIM = """
local record = redis.call('HGET', KEYS[1], 'record')
if not record then return false end
local epoch = string.format('%.0f', (tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0) + 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'epoch', epoch)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '0-*', 'session', ARGV[1], 'owner', ARGV[2], 'epoch', epoch)
return {epoch, record}
"""

# KEYS: session. ARGV: owner, epoch, record, TTL in ms. 0: somebody else's.
_SAVE = """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0
local owner = redis.call('HGET', KEYS[1], 'owner')
if epoch > tonumber(ARGV[2]) or (epoch == tonumber(ARGV[2]) and owner ~= ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'epoch', ARGV[2], 'record', ARGV[3])
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

    async def claim(self, session_id: str, owner: str, ttl_s: float) -> SessionRecord | None:
        """Take a session over: it is `owner`'s from now on, under a new epoch. None when there is none.

        Every claim is told on the stream `Keys.claims`, so that the owner before learns of it.
        """
        keys = (self.keys.session(session_id), self.keys.claims)
        arguments = (session_id, owner, _ms(ttl_s), STREAM_ENTRIES)
        answer = await self.client.eval(_CLAIM, len(keys), *keys, *arguments)
        if not answer:
            return None
        return self._record(session_id, owner.encode(), answer[0], answer[1])

    async def save(self, record: SessionRecord, ttl_s: float) -> bool:
        """Write what the session has become; False when it is somebody else's: stop answering, tell the client.

        Where there is none (a new one, or an emptied Redis) it is written.
        """
        key, arguments = self.keys.session(record.session_id), (record.owner, record.epoch)
        answer = await self.client.eval(_SAVE, 1, key, *arguments, record.model_dump_json(), _ms(ttl_s))
        return bool(answer)

    async def save_all(self, records: Sequence[tuple[SessionRecord, float]]) -> list[bool]:
        """`save` for several, each with its TTL, in one round trip."""
        async with self.client.pipeline(transaction=False) as pipe:
            for record, ttl_s in records:
                key, arguments = self.keys.session(record.session_id), (record.owner, record.epoch)
                pipe.eval(_SAVE, 1, key, *arguments, record.model_dump_json(), _ms(ttl_s))
            return [bool(answer) for answer in await pipe.execute()]

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
    """Tells of every session that changes hands, as it does.

    Args:
        client: For this alone, since it blocks for a beat; somebody else closes it.
        keys: Of the namespace.
    """

    client: "redis.Redis"
    keys: Keys

    async def run(self, claimed: Callable[[str, str, int], None]) -> None:
        """Call `claimed` with session, new owner and epoch until cancelled. Never raises for want of Redis."""
        position = ""
        while True:
            try:
                position = await self._follow(position, claimed)
            except (RedisError, OSError):
                await asyncio.sleep(BEAT_S / 4)

    async def _follow(self, position: str, claimed: Callable[[str, str, int], None]) -> str:
        position = position or await self._last()
        entries = await read_streams(self.client, {self.keys.claims: position}, block_s=BEAT_S)
        for entry in entries:
            session_id, owner, epoch = (entry.fields.get(name, b"") for name in (b"session", b"owner", b"epoch"))
            if epoch.isdigit():
                claimed(session_id.decode(errors="replace"), owner.decode(errors="replace"), int(epoch))
        if entries:
            return entries[-1].position
        # Silence: perhaps the stream began anew below this position, after Redis was emptied.
        return position if _number(await self._last()) >= _number(position) else "0-0"

    async def _last(self) -> str:
        entries: Any = await self.client.xrevrange(self.keys.claims, count=1)
        return entries[0][0].decode() if entries else "0-0"


def _number(position: str) -> int:
    return int(position.partition("-")[2])


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
