"""Each namespace's part of the registry, kept by the leader: what it writes there, and what the workers say."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from antiphon.contracts.errors import AntiphonError
from antiphon.contracts.resources import RevisionStatus, VoiceModel
from antiphon.registry.client import Connect, open_client
from antiphon.registry.placing import Plan
from antiphon.registry.records import Lease, ModelRecord, PoolRecord, Revision, Want, WorkerRecord
from antiphon.registry.snapshot import RegistryReader, Snapshot, Worker
from antiphon.registry.writer import RegistryWriter
from antiphon_operator.queueing import Key, WorkQueue
from antiphon_operator.reconcile.model import Report, reports_of

SETTLE_S = 5.0
"""So long after the registry was first read, a member that was not heard of is taken for dead."""
ANSWER_S = 2.0
"""A registry that has not answered by then is out of reach."""
ABSENT_S = 15.0
"""A worker that was silent for so long counts for nothing in placement: a container is started again within it."""
EPOCHS = 1000
"""To each term of leadership: a namespace that is left and taken up again needs one more each time, and where Redis was
emptied meanwhile, the next leader's must be higher all the same."""
STREAMS_S = 10.0
"""How late a status may be about the number of streams alone: calls come and go all the time."""

logger = logging.getLogger(__name__)


class RegistrySync:
    """One namespace's registry, for as long as `run` does.

    Args:
        redis_url: The registry.
        namespace: Of Kubernetes, and of the registry's keys.
        floor: The epoch is higher than this and than any that stands there.
        on_change: Called on the loop with what has changed of the workers.
        connect: Opens its clients.
    """

    def __init__(
        self,
        redis_url: str,
        namespace: str,
        floor: int,
        on_change: Callable[["Change"], None],
        connect: Connect = open_client,
    ) -> None:
        self.namespace = namespace
        self.plan = Plan({}, {}, {})
        """What was last decided on who holds what."""
        self.planned: Mapping[str, tuple[object, ...]] = {}
        """By name: at which stage the model was for which it was decided."""
        self.members: Mapping[str, WorkerRecord] = {}
        """Who was last said to be a member: newer than the snapshot, which hears it from Redis."""
        self.wanted: Mapping[str, Want] = {}
        """What each worker was last asked to hold."""
        self.said: Mapping[str, ModelRecord] = {}
        """What the catalogue was last made, by name."""
        self.lenders: Mapping[tuple[str, str], list[str]] = {}
        """By name and digest: workers that may hold a model, be it for a caller."""
        self.taken: Mapping[str, Mapping[str, str]] = {}
        """Model -> alias -> whose it is already."""
        self.leaving_s: dict[tuple[str, str], float] = {}
        """Since when a revision that nobody is to use any more is on its way out, by name and digest."""
        self.read_as: dict[str, tuple[str, VoiceModel | str]] = {}
        """By name: a model as it was read, of which version."""
        self.recorded: dict[str, tuple[VoiceModel, tuple[str, ...], list[Revision], ModelRecord]] = {}
        """By name: a model, aliases that it has not got and revisions that leave it; and the record made of them."""
        self.adopted: dict[str, RevisionStatus | None] = {}
        """By uid: the active revision of a model whose status said nothing."""
        self.shown: tuple[object, ...] = ()
        """How the registry stood when statuses were last touched for it."""
        self.not_before_s = 0.0
        """When it may be worked out again."""
        self._reader = RegistryReader(redis_url, namespace, connect=connect)
        self._writer = RegistryWriter(redis_url, namespace, epoch_floor=floor, connect=connect)
        self._on_change = on_change
        self._told = asyncio.Event()
        self._begun_s: float | None = None
        self._read_s: float | None = None
        self._last: dict[str, tuple[Lease, float]] = {}
        self._gone_s: dict[str, float] = {}
        self._reports: tuple[object, Mapping[str, list[Report]]] = None, {}

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """What is known of it now; `stale` while Redis is out of reach."""
        return self._reader.snapshot

    @property
    def has_read(self) -> bool:
        """Whether Redis has answered at all: before, what stood there is not known, and nothing may be written."""
        return self._read_s is not None

    @property
    def epoch(self) -> int:
        """Under which it writes; 0 before it has claimed the registry."""
        return self._writer.epoch

    @property
    def trouble(self) -> str:
        """Why the registry does not say what it should; empty: it does."""
        if not self.has_read:
            return "Redis does not answer"
        return self._writer.trouble if self._told.is_set() else ""

    def is_settled(self, now: float) -> bool:
        """Whether the workers that are alive had the time to be heard."""
        if self._read_s is None or self.trouble or self.snapshot.stale:
            return False
        if now - self._read_s >= SETTLE_S:
            return True
        workers = self.snapshot.workers
        return all((known := workers.get(name)) is not None and known.lease is not None for name in self.members)

    def is_patient(self, now: float) -> bool:
        """Whether it was waited long enough: what is not known by now is to be told as not known."""
        return self._begun_s is not None and now - self._begun_s >= (SETTLE_S if self.has_read else ANSWER_S)

    def worker(self, name: str) -> Worker | None:
        """A member with its lease, if it has one, and what it should hold; None for who is no member (any more)."""
        record = self.members.get(name)
        if record is None:
            return None
        known = self.snapshot.workers.get(name)
        if known is None or known.heard_s <= self._gone_s.get(name, -1.0):
            return Worker(name, record)  # what is known was said by a process that has ended since
        return Worker(name, record, known.lease, known.heard_s, self.wanted.get(name, known.want))

    def workers(self) -> list[Worker]:
        """All members with what is known of them."""
        return [worker for name in self.members if (worker := self.worker(name)) is not None]

    def reports(self) -> Mapping[str, list[Report]]:
        """What all members that are alive say, by the model's name; made once for each snapshot."""
        made_of = (self.snapshot.version, self.members)
        if self._reports[0] != made_of:
            self._reports = made_of, reports_of(self.workers())
        return self._reports[1]

    def last_lease(self, name: str, now: float) -> Lease | None:
        """What a worker says of itself, or said until a moment ago."""
        lease, heard_s = self._last.get(name, (None, 0.0))
        return lease if self.snapshot.stale or now - heard_s <= ABSENT_S else None

    def next_absence_s(self, now: float) -> float | None:
        """After how long the next of those who are silent counts as absent; None: nobody is about to."""
        workers = self.snapshot.workers
        silent = [
            heard_s + ABSENT_S - now
            for name, (_, heard_s) in self._last.items()
            if (known := workers.get(name)) is None or known.lease is None
        ]
        return min((left_s for left_s in silent if left_s >= 0), default=None)

    # --- what is said -------------------------------------------------------------------------------------------------

    def say_members(self, members: Mapping[str, WorkerRecord]) -> None:
        """Make these all of the members; the fastest part, for routing goes by it. Never blocks."""
        now = asyncio.get_running_loop().time()
        self._gone_s = {name: then for name, then in self._gone_s.items() if now - then < ABSENT_S}
        self._gone_s |= dict.fromkeys(self.members.keys() - members.keys(), now)
        self.members = dict(members)
        self._last = {name: known for name, known in self._last.items() if name in members}
        self._writer.set_workers(members)

    def say(self, models: list[ModelRecord], pools: Mapping[str, PoolRecord], want: Mapping[str, Want]) -> None:
        """Make this all of catalogue and placement. Never blocks. Nothing is written before the first call."""
        self.said, self.wanted = {model.name: model for model in models}, want
        self._writer.set_models(models)
        self._writer.set_pools(pools)
        self._writer.set_want(want)
        self._told.set()

    def keep(self, names: set[str]) -> None:
        """Forget what was worked out for models of other names: they are no more."""
        self.read_as = {name: made for name, made in self.read_as.items() if name in names}
        self.recorded = {name: made for name, made in self.recorded.items() if name in names}
        self.leaving_s = {key: since_s for key, since_s in self.leaving_s.items() if key[0] in names}

    def empty(self) -> bool:
        """Say that there is nothing any more; whether Redis has taken it. Never blocks."""
        self.say_members({})
        self.say([], {}, {})
        return self._writer.settled

    # --- keeping it ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow and write until cancelled; what stands in the registry then stays.

        Raises:
            AntiphonError: `EPOCH_STALE` when another writer has claimed this namespace.
        """
        self._begun_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._reader.run(), name=f"registry-read {self.namespace}")
                tasks.create_task(self._follow(), name=f"registry-follow {self.namespace}")
                tasks.create_task(self._write(), name=f"registry-write {self.namespace}")
        except* AntiphonError as group:
            raise group.exceptions[0] from None

    async def _write(self) -> None:
        await self._told.wait()
        await self._writer.run()

    async def _follow(self) -> None:
        known = self._reader.snapshot
        while True:
            snapshot = await self._reader.changed(known.version)
            now = asyncio.get_running_loop().time()
            first = self._read_s is None  # Nothing is told before the registry has answered.
            if first:
                self._read_s = now
            for worker in snapshot.workers.values():
                if worker.lease is not None:
                    self._last[worker.name] = (worker.lease, now)
            change = Change.between(known, snapshot)
            change.everything = change.everything or first
            known = snapshot
            if change:
                self._on_change(change)


@dataclass(slots=True)
class Change:
    """What is different between two snapshots, as far as the operator acts on it."""

    everything: bool = False
    """Redis came or went."""
    workers: bool = False
    """Some worker lives or does not, or can do other things than before."""
    pools: set[str] = field(default_factory=set)
    """Whose workers have changed."""
    models: set[str] = field(default_factory=set)
    """What some worker holds in another state than before."""
    counts: set[tuple[str, str]] = field(default_factory=set)
    """Pools (`pool`) and models (`model`) of which only the number of streams has changed."""

    def __bool__(self) -> bool:
        return bool(self.everything or self.workers or self.pools or self.models or self.counts)

    @classmethod
    def between(cls, old: Snapshot, new: Snapshot) -> Self:
        """What has changed from one to the other."""
        change = cls(everything=old.stale != new.stale)
        for name in old.workers.keys() | new.workers.keys():
            before, after = old.workers.get(name), new.workers.get(name)
            if before is not after:
                change._compare(before, after)
        return change

    def _compare(self, before: Worker | None, after: Worker | None) -> None:
        pool = (after or before).record.pool  # type: ignore[union-attr]
        old, new = _lease(before), _lease(after)
        if _abilities(before) != _abilities(after):
            self.workers = True
            self.pools.add(pool)
        held, holds = _states(old), _states(new)
        if held != holds:
            self.pools.add(pool)
            self.models |= {name for name, _ in held.items() ^ holds.items()}
        if old is not None and new is not None and old.streams != new.streams:
            self.counts.add(("pool", pool))
            ran, run = _streams(old), _streams(new)
            self.counts |= {("model", name) for name, _ in ran.items() ^ run.items()}


def _lease(worker: Worker | None) -> Lease | None:
    return worker.lease if worker is not None else None


def _abilities(worker: Worker | None) -> tuple[object, ...]:
    lease = _lease(worker)
    if worker is None or lease is None:
        return (worker is not None,)
    return worker.record, lease.draining, lease.engines, lease.memory_mib, lease.resident_cap, lease.max_streams


def _states(lease: Lease | None) -> dict[str, tuple[object, ...]]:
    states: dict[str, tuple[object, ...]] = {}
    for model in lease.models if lease is not None else ():
        state = "warm" if model.state == "in_use" else model.state
        said = (model.revision, model.digest, state, model.files, int(model.progress * 20), model.reason, model.message)
        states[model.name] = (*states.get(model.name, ()), said)
    return states


def _streams(lease: Lease) -> dict[str, int]:
    streams: dict[str, int] = {}
    for model in lease.models:
        streams[model.name] = streams.get(model.name, 0) + model.streams
    return streams


class Registries(Mapping[str, RegistrySync]):
    """The registries of all namespaces, while this process leads; an async context manager.

    Args:
        redis_url: Of the server that has them.
        term: How often the leadership changed hands: epochs are higher, so that a leader before is refused.
        queue: Told of what has to be looked at.
        connect: Opens clients.

    Leaving it raises `AntiphonError(EPOCH_STALE)`, in a group, when another writer has claimed a namespace: whoever
    leads is to stop then.
    """

    def __init__(self, redis_url: str, term: int, queue: WorkQueue, connect: Connect = open_client) -> None:
        self._url = redis_url
        self._term = term
        self._queue = queue
        self._connect = connect
        self._open: dict[str, RegistrySync] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._emptied: set[str] = set()
        self._tasks = asyncio.TaskGroup()

    def __getitem__(self, namespace: str) -> RegistrySync:
        return self._open[namespace]

    def __iter__(self) -> Iterator[str]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running.values():
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def is_known(self, namespace: str, now: float) -> bool:
        """Whether the workers of a namespace were heard, or waited for long enough."""
        sync = self._open.get(namespace)
        return sync is not None and (sync.is_settled(now) or sync.is_patient(now))

    def open(self, namespace: str) -> RegistrySync:
        """The registry of a namespace; begins to follow it where that is not yet so."""
        if namespace not in self._open:

            def changed(change: Change) -> None:
                self._touch(namespace, change)

            sync = RegistrySync(self._url, namespace, self._term * EPOCHS, changed, self._connect)
            self._open[namespace] = sync
            self._emptied.discard(namespace)
            self._running[namespace] = self._tasks.create_task(sync.run(), name=f"registry {namespace}")
        return self._open[namespace]

    def close(self, namespace: str) -> bool:
        """Empty the registry of a namespace, whoever filled it, and follow it no more; False: not yet, try again."""
        if namespace in self._emptied:
            return True
        if not self.open(namespace).empty():
            return False
        del self._open[namespace]
        self._running.pop(namespace).cancel()
        self._emptied.add(namespace)
        logger.info("registry emptied: nothing is left in the namespace", extra={"namespace": namespace})
        return True

    def _touch(self, namespace: str, change: Change) -> None:
        add = self._queue.add
        if change.everything or change.workers:
            add(Key("Registry", namespace))
        for pool in change.pools:
            add(Key("WorkerPool", namespace, pool))
        for model in change.models:
            add(Key("VoiceModel", namespace, model))
        for kind, name in change.counts:
            add(Key("WorkerPool" if kind == "pool" else "VoiceModel", namespace, name), STREAMS_S)
