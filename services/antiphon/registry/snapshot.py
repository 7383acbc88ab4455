"""What is known of the cluster now, in memory: read in full, then told of every change."""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import redis.asyncio as redis
from redis.exceptions import RedisError

from antiphon.contracts.adapters import Task
from antiphon.registry.catalogue import KINDS, Catalogue
from antiphon.registry.client import (
    TIMEOUT_S,
    Connect,
    Entry,
    last_position,
    open_client,
    read_streams,
    sequence_number,
)
from antiphon.registry.keys import BEAT_S, LEASE_S, Keys
from antiphon.registry.records import FORMAT, Lease, ModelRecord, PoolRecord, RecordReader
from antiphon.registry.roster import Index, Roster, Worker

__all__ = ["RegistryReader", "Snapshot", "Worker"]

FULL_READ_S = 5.0
"""How often everything is read again, so that nothing that was missed stays missed."""
EMPTY_S = 120.0
"""An emptied registry that nobody writes anew for so long is believed: there is nothing."""
RETRY_S = 0.2
_OF_WORKERS = ("workers", "want")
"""Kinds of the catalogue whose names are workers'."""
_BATCH = 100
"""Entries, or leases, that are read at once: the event loop is held for a few milliseconds at most."""
_QUIET_S = BEAT_S + TIMEOUT_S
"""No answer for longer than this: Redis, or this process, was away."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was known at one moment. Immutable: read as often as you like, no I/O."""

    version: int = 0
    """Rises with every change; 0: nothing was read yet."""
    epoch: int = 0
    models: Mapping[str, ModelRecord] = field(default_factory=dict)
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """The members."""
    stale: bool = True
    """Redis is out of reach, or empty: this is what was known before."""
    aliases: Mapping[tuple[Task, str], str] = field(default_factory=dict)
    pools: Mapping[str, PoolRecord] = field(default_factory=dict)
    index: Index = None  # type: ignore[assignment]
    """Of the workers; made here when it is not given."""

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", Index.of(self.workers.values()))

    def model(self, task: Task, name: str) -> ModelRecord | None:
        """The catalogue's model of that name or alias; None when it has none for this task."""
        record = self.models.get(name)
        if record is None or record.task != task:
            record = self.models.get(self.aliases.get((task, name), ""))
        return record

    def models_of(self, task: Task) -> list[ModelRecord]:
        """The catalogue's models for a task, by name."""
        return sorted((model for model in self.models.values() if model.task == task), key=lambda model: model.name)

    def is_awaited(self, pool: str) -> bool:
        """Whether this pool should have workers and none of them can be called: the next one is on its way."""
        record = self.pools.get(pool)
        return bool(record and record.workers) and not any(
            worker.record.pool == pool and worker.lease and not (worker.record.draining or worker.lease.draining)
            for worker in self.workers.values()
        )


class RegistryReader:
    """Keeps `snapshot` true for as long as `run` does.

    A lease ages by the time of its receipt here, and only while Redis answers: who cannot hear has no right to
    declare anyone dead. While `meta` is missing (an emptied Redis) the catalogue and the members stay as they were.
    """

    def __init__(self, redis_url: str, namespace: str, *, connect: Connect = open_client) -> None:
        self._client: redis.Redis = connect(redis_url, namespace=namespace)
        self._tail: redis.Redis = connect(redis_url, namespace=namespace, block_s=BEAT_S)
        self._keys = Keys(namespace)
        self._snapshot = Snapshot()
        self._newer = asyncio.Event()
        self._records = RecordReader()
        self._nonce = b""
        self._epoch = 0
        self._catalogue = Catalogue(self._records)
        self._leases: dict[str, tuple[Lease, float]] = {}
        self._roster = Roster()
        self._touched: set[str] = set()
        self._believed_s = 0.0
        self._true_s: float | None = None
        self._positions: dict[str, str] = {}
        self._contact_s: float | None = None
        self._trouble = ""

    @property
    def snapshot(self) -> Snapshot:
        """What is known now."""
        return self._snapshot

    @property
    def age_s(self) -> float:
        """How long ago the snapshot was known to be true: under 2 s, unless it is stale; infinite at first."""
        return math.inf if self._true_s is None else asyncio.get_running_loop().time() - self._true_s

    @property
    def malformed(self) -> Mapping[str, int]:
        """How many records could not be read, by kind."""
        return self._records.malformed

    async def changed(self, version: int) -> Snapshot:
        """The first snapshot newer than `version`; waits for it. Cancelling it is safe."""
        while self._snapshot.version <= version:
            await self._newer.wait()
        return self._snapshot

    async def run(self) -> None:
        """Follow the registry until cancelled.

        Never raises for want of Redis: it keeps what it knew and tries again.
        """
        try:
            while True:
                try:
                    await self._read_all()
                    await self._follow()
                except (RedisError, OSError) as error:
                    self._say(f"registry out of reach: {type(error).__name__}")
                    if not self._snapshot.stale:
                        self._publish(replace(self._snapshot, stale=True))
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._client.aclose()
            await self._tail.aclose()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read_all(self) -> None:
        keys = self._keys
        async with self._client.pipeline(transaction=True) as pipe:
            for key in (keys.meta, *map(keys.hash, KINDS)):
                pipe.hgetall(key)
            for key in (keys.changes, keys.leases):
                pipe.xrevrange(key, count=1)
            meta, *tables, change, lease = await pipe.execute()
        # Positions first, leases after: what the tail then tells a second time changes nothing.
        self._positions = {keys.changes: last_position(change), keys.leases: last_position(lease)}
        now = self._touch()
        believed = self._believes(meta)
        if believed:
            self._believed_s = now
            self._take(tables)
        elif not meta and now - self._believed_s > EMPTY_S:
            self._take({} for _ in KINDS)
        await self._read_leases()
        self._renew(stale=not believed)

    def _believes(self, meta: Mapping[bytes, bytes]) -> bool:
        """Whether the operator's part may be taken as it stands; says why not."""
        if not meta:
            self._say("registry is empty: keeping what was known")
            return False
        try:
            epoch, form = int(meta[b"epoch"]), int(meta[b"format"])
        except (KeyError, ValueError):
            self._say("registry's meta is malformed: keeping what was known")
            return False
        if form > FORMAT:
            self._say("registry's format is newer than this reader: keeping what was known")
            return False
        if epoch < self._epoch:
            self._say("registry's epoch is older than one seen before: keeping what was known")
            return False
        self._epoch, self._nonce = epoch, meta.get(b"nonce", b"")
        self._say("")
        return True

    def _take(self, tables: Iterable[Mapping[bytes, bytes]]) -> None:
        for kind, fields in zip(KINDS, tables, strict=True):
            changed = self._catalogue.replace(kind, fields)
            if kind in _OF_WORKERS:
                self._touched |= changed

    async def _read_leases(self) -> None:
        names = list(self._catalogue.workers)
        for first in range(0, len(names), _BATCH):
            await self._read_some_leases(names[first : first + _BATCH])

    async def _read_some_leases(self, names: list[str]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.get(self._keys.lease(name))
                pipe.pttl(self._keys.lease(name))
            answers = await pipe.execute()
        now = self._touch()
        for name, value, left_ms in zip(names, answers[::2], answers[1::2], strict=True):
            lease = self._records.read(Lease, name, value) if value else None
            if lease is not None:
                self._hear(name, lease, now - max(0.0, LEASE_S - left_ms / 1000))

    def _hear(self, name: str, lease: Lease, heard_s: float) -> None:
        known = self._leases.get(name)
        if known is not None and known[0].incarnation == lease.incarnation:
            heard_s = max(heard_s, known[1])
        self._leases[name] = (lease, heard_s)
        self._touched.add(name)

    # --- following ----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Apply changes until everything should be read again: after a while, a gap, a reset or an odd silence."""
        until = asyncio.get_running_loop().time() + FULL_READ_S
        while True:
            entries = await read_streams(self._tail, self._positions, block_s=BEAT_S, count=_BATCH)
            now = self._touch()
            in_order = all(self._apply(entry, now) for entry in entries)
            self._renew(stale=self._snapshot.stale)
            # Silence: no worker lives, or the streams began anew below our positions.
            if not entries or not in_order or now >= until:
                return

    def _apply(self, entry: Entry, now: float) -> bool:
        """Take one entry; False when one before it is missing, or all is new."""
        if sequence_number(entry.position) != sequence_number(self._positions[entry.stream]) + 1:
            return False
        self._positions[entry.stream] = entry.position
        if entry.stream == self._keys.leases:
            self._apply_lease(entry.fields, now)
            return True
        return self._apply_change(entry.fields)

    def _apply_lease(self, fields: Mapping[bytes, bytes], now: float) -> None:
        name = fields.get(b"worker", b"").decode(errors="replace")
        value = fields.get(b"lease", b"")
        self._touched.add(name)
        if not value:
            self._end_lease(name)
        elif (lease := self._records.read(Lease, name, value)) is not None:
            self._leases[name] = (lease, now)

    def _end_lease(self, name: str) -> None:
        self._leases.pop(name, None)
        self._records.forget(Lease, name)

    def _apply_change(self, fields: Mapping[bytes, bytes]) -> bool:
        kind = fields.get(b"kind", b"").decode(errors="replace")
        if fields.get(b"nonce") != self._nonce or kind == "reset":
            return False
        name = fields.get(b"name", b"").decode(errors="replace")
        self._catalogue.update(kind, name, fields.get(b"value", b""))
        if kind in _OF_WORKERS:
            self._touched.add(name)
        return True

    # --- telling ------------------------------------------------------------------------------------------------------

    def _touch(self) -> float:
        """Note that Redis answered; time in which it did not makes no lease older. Returns the present moment."""
        now = asyncio.get_running_loop().time()
        away_s = now - self._contact_s if self._contact_s is not None else 0.0
        if away_s > _QUIET_S:
            self._leases = {name: (lease, heard_s + away_s) for name, (lease, heard_s) in self._leases.items()}
            self._believed_s += away_s
            self._touched |= self._leases.keys()
        self._contact_s = now
        return now

    def _renew(self, *, stale: bool) -> None:
        now = self._contact_s or 0.0
        self._true_s = self._true_s if stale else now
        for name in [name for name, (_, heard_s) in self._leases.items() if now - heard_s > LEASE_S]:
            self._end_lease(name)
            self._touched.add(name)
        for name in self._touched:
            self._enter(name)
        self._touched = set()
        workers, index = self._roster.freeze()
        catalogue = self._catalogue
        self._publish(
            Snapshot(
                epoch=self._epoch,
                models=catalogue.models,
                workers=workers,
                stale=stale,
                aliases=catalogue.aliases,
                pools=catalogue.pools,
                index=index,
            )
        )

    def _enter(self, name: str) -> None:
        record = self._catalogue.workers.get(name)
        if record is None:
            self._roster.remove(name)
        else:
            lease, heard_s = self._leases.get(name, (None, 0.0))
            self._roster.put(Worker(name, record, lease, heard_s, self._catalogue.want.get(name)))

    def _publish(self, snapshot: Snapshot) -> None:
        self._snapshot = replace(snapshot, version=self._snapshot.version + 1)
        self._newer.set()
        self._newer = asyncio.Event()

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            if trouble:
                logger.warning("registry snapshot is stale", extra={"cause": trouble})
            else:
                logger.info("registry snapshot is fresh")
        self._trouble = trouble
