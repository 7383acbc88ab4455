"""The operator's part of the registry: catalogue, membership and placement, kept true."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.registry.catalogue import KINDS
from antiphon.registry.client import Connect, after_silence, open_client, read_streams
from antiphon.registry.keys import BEAT_S, STREAM_ENTRIES, Keys
from antiphon.registry.records import FORMAT, Lease, ModelRecord, PoolRecord, Record, RecordReader, Want, WorkerRecord

FORGET_S = 60.0
"""An adopted worker that was silent for so long is no member any more."""
COMPARE_S = 30.0
"""How often what stands in the registry is compared with what should: another hand may have changed it."""

logger = logging.getLogger(__name__)

_HASHES = "local hashes = {" + ", ".join(f"{kind} = KEYS[{at}]" for at, kind in enumerate(KINDS, 3)) + "}\n"

# KEYS: meta, changes, then one hash a kind.
# ARGV: nonce, floor, format, entries to keep, sequence, the epoch that was seen, then (kind, name, value)s.
# Claims the registry under a new epoch, and replaces all that stood there. Returns the epoch; 'changed' when another
# claim came first. Each claim has a nonce of its own: one that comes late, into a registry that was emptied meanwhile,
# is not taken for what its writer has said since. They begin alike: over a claim of its own the epoch stays.
_CLAIM = (
    _HASHES
    + """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0
if epoch ~= tonumber(ARGV[6]) then return 'changed' end
local nonce = redis.call('HGET', KEYS[1], 'nonce')
local own = nonce and string.sub(nonce, 1, 32) == string.sub(ARGV[1], 1, 32)
epoch = math.max(epoch + (own and 0 or 1), tonumber(ARGV[2]) + 1)
for _, key in pairs(hashes) do redis.call('DEL', key) end
redis.call('HSET', KEYS[1], 'nonce', ARGV[1], 'epoch', string.format('%.0f', epoch), 'format', ARGV[3],
  'sequence', ARGV[5])
for i = 7, #ARGV, 3 do redis.call('HSET', hashes[ARGV[i]], ARGV[i + 1], ARGV[i + 2]) end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '0-*', 'nonce', ARGV[1], 'kind', 'reset', 'name', '', 'value', '')
return string.format('%.0f', epoch)
"""
)

# As above, with our epoch in place of the floor and of the one that was seen. Returns 'deposed', 'lost' (it came back
# empty), 'late' or 'written'.
_WRITE = (
    _HASHES
    + """
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0
if epoch > tonumber(ARGV[2]) then return 'deposed' end
if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[1] then return 'lost' end
if tonumber(redis.call('HGET', KEYS[1], 'sequence')) >= tonumber(ARGV[5]) then return 'late' end
redis.call('HSET', KEYS[1], 'sequence', ARGV[5])
for i = 7, #ARGV, 3 do
  local key = hashes[ARGV[i]]
  if ARGV[i + 2] == '' then redis.call('HDEL', key, ARGV[i + 1])
  else redis.call('HSET', key, ARGV[i + 1], ARGV[i + 2]) end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '0-*',
    'nonce', ARGV[1], 'kind', ARGV[i], 'name', ARGV[i + 1], 'value', ARGV[i + 2])
end
return 'written'
"""
)

_Contents = dict[tuple[str, str], str]
Place = Callable[[Lease], Want]
"""What a worker that says this of itself should hold."""


class RegistryWriter:
    """Says what is in the catalogue, who is a member and what each should hold; `run` keeps the registry in agreement.

    Args:
        redis_url: The registry.
        namespace: Of its keys.
        adopt: Makes every worker that announces itself a member of a pool of this name: for a registry without an
            operator, where nobody else knows the workers. None: only `put_worker` makes members.
        place: What an adopted worker should hold; asked at each of its beats. None: nothing is said of it.
        epoch_floor: The epoch is higher than this and than any that stands in the registry. None: the wall clock's
            seconds, so that a writer that starts beside a registry that was emptied is still believed.
        connect: Opens its clients.
    """

    def __init__(
        self,
        redis_url: str,
        namespace: str,
        *,
        adopt: str | None = None,
        place: Place | None = None,
        epoch_floor: int | None = None,
        connect: Connect = open_client,
    ) -> None:
        self._client: redis.Redis = connect(redis_url, namespace=namespace)
        self._tail: redis.Redis = connect(redis_url, namespace=namespace, block_s=BEAT_S)
        self._keys = Keys(namespace)
        self._floor = int(time.time()) if epoch_floor is None else epoch_floor
        self._id = uuid.uuid4().hex
        self._claims = 0
        self._nonce = ""
        self._sequence = 0
        self._restoring = False
        self._epoch = 0
        self._desired: _Contents = {}
        self._written: _Contents = {}
        self._changed = asyncio.Event()
        self._compared_s = 0.0
        self._reach = ""
        self._adopt = adopt
        self._place = place
        self._heard_s: dict[str, float] = {}
        self._reader = RecordReader(remembered=0)

    @property
    def epoch(self) -> int:
        """The epoch under which it writes; 0 before it has claimed the registry."""
        return self._epoch

    @property
    def trouble(self) -> str:
        """Why the registry is not what it should be; empty: Redis took the last word."""
        return self._reach if self._epoch or self._reach else "not claimed yet"

    @property
    def settled(self) -> bool:
        """Whether all that was asked for was written."""
        return bool(self._epoch) and self._written == self._desired

    def set_models(self, models: Iterable[ModelRecord]) -> None:
        """Make these the whole catalogue. Never blocks."""
        self._replace("models", {model.name: model for model in models})

    def set_pools(self, pools: Mapping[str, PoolRecord]) -> None:
        """Make these all of the pools. Never blocks."""
        self._replace("pools", pools)

    def set_workers(self, workers: Mapping[str, WorkerRecord]) -> None:
        """Make these all of the members. Never blocks."""
        self._replace("workers", workers)

    def set_want(self, want: Mapping[str, Want]) -> None:
        """Make this all that any worker should hold. Never blocks."""
        self._replace("want", want)

    def put_worker(self, worker: str, record: WorkerRecord) -> None:
        """Make it a member, or change what is said of it. Never blocks."""
        self._put("workers", worker, record)

    def remove_worker(self, worker: str) -> None:
        """Make it no member any more, and forget what it should hold. Never blocks."""
        for kind in ("workers", "want"):
            self._desired.pop((kind, worker), None)
        self._changed.set()

    def put_want(self, worker: str, want: Want) -> None:
        """Say what it should hold. Never blocks."""
        self._put("want", worker, want)

    def _replace(self, kind: str, records: Mapping[str, Record]) -> None:
        for key in [key for key in self._desired if key[0] == kind and key[1] not in records]:
            del self._desired[key]
            self._changed.set()
        for name, record in records.items():
            self._put(kind, name, record)

    def _put(self, kind: str, name: str, record: Record) -> None:
        value = record.model_dump_json()
        if self._desired.get((kind, name)) != value:
            self._desired[kind, name] = value
            self._changed.set()

    async def run(self) -> None:
        """Keep the registry true until cancelled; what stands there then stays.

        Never raises for want of Redis: it tries again every second, and writes everything anew when Redis came back
        empty.

        Raises:
            AntiphonError: `EPOCH_STALE` when another writer has claimed this namespace.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_true(), name="registry-write")
                if self._adopt is not None:
                    tasks.create_task(self._adopt_workers(self._adopt), name="registry-adopt")
        except* AntiphonError as group:
            raise group.exceptions[0] from None
        finally:
            await self._client.aclose()
            await self._tail.aclose()

    async def _keep_true(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._ensure()
                self._reachable("")
            except (RedisError, OSError) as error:
                self._reachable(type(error).__name__)
                await asyncio.sleep(BEAT_S / 4)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._changed.wait()

    async def _ensure(self) -> None:
        desired = dict(self._desired)
        if not self._epoch:
            await self._claim(desired)
            return
        await self._compare()
        answer = await self._script(_WRITE, self._epoch, self._epoch, _difference(self._written, desired))
        if answer == b"deposed":
            raise self._deposed()
        if answer == b"lost":
            logger.warning("registry came back empty: writing all of it again", extra={"epoch": self._epoch})
            self._floor, self._restoring, self._epoch = self._epoch - 1, True, 0
            await self._claim(desired)
        elif answer == b"written":
            self._written = desired

    async def _compare(self) -> None:
        """Find out, from time to time, what stands in the registry in truth."""
        now = asyncio.get_running_loop().time()
        if now - self._compared_s < COMPARE_S:
            return
        async with self._client.pipeline(transaction=True) as pipe:
            for key in (self._keys.meta, *map(self._keys.hash, KINDS)):
                pipe.hgetall(key)
            meta, *tables = await pipe.execute()
        self._compared_s = now
        if meta.get(b"nonce") == self._nonce.encode():
            self._written = {
                (kind, name.decode(errors="replace")): value.decode(errors="replace")
                for kind, table in zip(KINDS, tables, strict=True)
                for name, value in table.items()
            }

    async def _claim(self, desired: _Contents) -> None:
        """Make the registry ours; what is not done when this returns is done at the next beat."""
        meta: list[Any] = await self._client.hmget(self._keys.meta, ["nonce", "epoch"])
        nonce, seen = meta
        stands = int(seen) if seen and seen.isdigit() else 0
        is_own = nonce is not None and nonce.startswith(self._id.encode())
        if self._restoring and not is_own and stands > self._floor + 1:
            raise self._deposed()
        self._claims += 1
        self._nonce = f"{self._id}-{self._claims}"
        if not self._restoring:  # what stood once must be exceeded, though it is gone when this is tried again
            self._floor = max(self._floor, stands - is_own)
        answer = await self._script(_CLAIM, self._floor, stands, desired)
        if answer == b"changed":
            self._changed.set()
            return
        self._epoch, self._restoring = int(answer), False
        self._compared_s = asyncio.get_running_loop().time()
        self._written = desired
        logger.info("registry claimed", extra={"epoch": self._epoch, "records": len(desired)})

    def _deposed(self) -> AntiphonError:
        message = f"Another `antiphon up` or operator has claimed the registry's namespace ({self._keys.namespace})."
        return AntiphonError(Reason.EPOCH_STALE, message)

    async def _script(self, script: str, epoch: int, seen: int, contents: Mapping[tuple[str, str], str]) -> bytes:
        keys = (self._keys.meta, self._keys.changes, *map(self._keys.hash, KINDS))
        records = [part for (kind, name), value in contents.items() for part in (kind, name, value)]
        self._sequence += 1
        settings = (self._nonce, epoch, FORMAT, STREAM_ENTRIES, self._sequence, seen)
        answer: bytes = await self._client.eval(script, len(keys), *keys, *map(str, settings), *records)
        return answer

    def _reachable(self, cause: str) -> None:
        if bool(cause) != bool(self._reach):
            message = "registry out of reach: trying again" if cause else "registry in reach again"
            logger.warning(message, extra={"cause": cause or self._reach})
        self._reach = cause

    # --- adoption -----------------------------------------------------------------------------------------------------

    async def _adopt_workers(self, pool: str) -> None:
        leases, position = self._keys.leases, "0-0"
        while True:
            try:
                entries = await read_streams(self._tail, {leases: position}, block_s=BEAT_S)
                position = entries[-1].position if entries else await after_silence(self._tail, leases, position)
            except (RedisError, OSError):
                await asyncio.sleep(BEAT_S / 4)
                continue
            for entry in entries:
                self._hear(pool, entry.fields)
            self._forget()

    def _hear(self, pool: str, fields: Mapping[bytes, bytes]) -> None:
        worker = fields.get(b"worker", b"").decode(errors="replace")
        value = fields.get(b"lease", b"")
        if not value:
            self._heard_s.pop(worker, None)
            self.remove_worker(worker)
            return
        lease = self._reader.read(Lease, worker, value)
        if lease is None or not lease.address:
            return
        self._heard_s[worker] = asyncio.get_running_loop().time()
        self.put_worker(worker, WorkerRecord(address=lease.address, pool=pool))
        if self._place is not None:
            self.put_want(worker, self._place(lease))

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        for worker in [worker for worker, heard_s in self._heard_s.items() if now - heard_s > FORGET_S]:
            del self._heard_s[worker]
            self.remove_worker(worker)


def _difference(old: _Contents, new: _Contents) -> _Contents:
    """What must be written to get from one to the other; an empty value removes."""
    gone = {key: "" for key in old if key not in new}
    return gone | {key: value for key, value in new.items() if old.get(key) != value}
