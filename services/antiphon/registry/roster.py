"""The members, and who of them holds what: kept up to date one worker at a time, read as a whole.

A change touches only what it changes: copies are made of the tables that it is in, when they are asked for next. So a
snapshot of a thousand workers costs well under a millisecond, however often it is taken.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

from antiphon.registry.records import WIRE_VERSION, Lease, Want, WorkerRecord
from antiphon.registry.rooms import NO_ROOM, Room, Rooms, RoomTable

_HELD = ("warm", "in_use")


@dataclass(frozen=True, slots=True)
class Worker:
    """A member: what the operator says of it, and what it says of itself."""

    name: str
    record: WorkerRecord
    lease: Lease | None = None
    """None: it is not alive."""
    heard_s: float = 0.0
    """When its lease was heard last, on the reader's clock."""
    want: Want | None = None
    """What placement says that it should hold; None: nothing, and it decides by itself."""

    @property
    def serving(self) -> bool:
        """Whether it is alive, speaks our wire and takes new streams, as far as it has room."""
        lease = self.lease
        return (
            lease is not None and not lease.draining and not self.record.draining and lease.wire_version == WIRE_VERSION
        )

    @property
    def full(self) -> bool:
        """Whether all of its streams are in use."""
        lease = self.lease
        return lease is not None and 0 < lease.max_streams <= lease.streams

    @property
    def room(self) -> Room:
        """What it has to offer to a model that it does not hold, and to that one's first stream."""
        return NO_ROOM if self.lease is None or self.full else Room.of(self.lease, self.want)


@dataclass(frozen=True, slots=True)
class Index:
    """Names of the workers that serve, by what routing looks for. Immutable."""

    warm: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> who holds it."""
    loading: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> who is about to hold it, and does not yet."""
    rooms: Mapping[str, Rooms] = field(default_factory=dict)
    """Engine -> who has it, and what room for a model that it does not hold."""

    @classmethod
    def of(cls, workers: Iterable[Worker]) -> Self:
        """The index of these."""
        roster = Roster()
        for worker in workers:
            roster.put(worker)
        _, index = roster.freeze()
        return cls(index.warm, index.loading, index.rooms)


class _Table:
    """Names under keys; knows which of its rows have changed since it was frozen."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, None]] = {}
        self._frozen: dict[str, tuple[str, ...]] = {}
        self._touched: set[str] = set()

    def move(self, name: str, before: frozenset[str], after: frozenset[str]) -> None:
        """Take a name out of the rows that it was in, into those that it is in now."""
        for key in before - after:
            del self._rows[key][name]
        for key in after - before:
            self._rows.setdefault(key, {})[name] = None
        self._touched |= before ^ after

    def freeze(self) -> Mapping[str, tuple[str, ...]]:
        """The table as it stands; what changes later does not change it."""
        if self._touched:
            self._frozen = dict(self._frozen)
            for key in self._touched:
                if self._rows[key]:
                    self._frozen[key] = tuple(self._rows[key])
                else:
                    self._frozen.pop(key, None)
                    del self._rows[key]
            self._touched = set()
        return MappingProxyType(self._frozen)


@dataclass(frozen=True, slots=True)
class _Places:
    """In which rows of which table a worker is."""

    warm: frozenset[str] = frozenset()
    loading: frozenset[str] = frozenset()
    engines: frozenset[str] = frozenset()

    @classmethod
    def of(cls, worker: Worker) -> "_Places":
        lease = worker.lease
        if lease is None or not worker.serving:
            return _NOWHERE
        warm = frozenset(model.name for model in lease.models if model.state in _HELD)
        loading = frozenset(model.name for model in lease.models if model.state == "loading")
        return cls(warm, loading - warm, frozenset(lease.engines))


_NOWHERE = _Places()


class Roster:
    """The members of one reader."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._frozen: Mapping[str, Worker] | None = None
        self._places: dict[str, _Places] = {}
        self._warm, self._loading = _Table(), _Table()
        self._rooms: dict[str, RoomTable] = {}

    def get(self, name: str) -> Worker | None:
        """The member of that name."""
        return self._workers.get(name)

    def put(self, worker: Worker) -> None:
        """Add it, or replace what was known of it."""
        self._workers[worker.name] = worker
        places = _Places.of(worker)
        self._move(worker.name, places)
        room = worker.room
        for engine in places.engines:
            self._rooms.setdefault(engine, RoomTable()).put(worker.name, room)

    def remove(self, name: str) -> None:
        """Leave it out from now on. Idempotent."""
        if self._workers.pop(name, None) is not None:
            self._move(name, _NOWHERE)
            del self._places[name]

    def freeze(self) -> tuple[Mapping[str, Worker], Index]:
        """The members and their index; what changes later does not change these."""
        if self._frozen is None:
            self._frozen = MappingProxyType(self._workers.copy())
        rooms = {engine: table.freeze() for engine, table in self._rooms.items()}
        return self._frozen, Index(self._warm.freeze(), self._loading.freeze(), MappingProxyType(rooms))

    def _move(self, name: str, after: _Places) -> None:
        self._frozen = None
        before = self._places.get(name, _NOWHERE)
        self._places[name] = after
        if before != after:
            self._warm.move(name, before.warm, after.warm)
            self._loading.move(name, before.loading, after.loading)
            for engine in before.engines - after.engines:
                self._rooms[engine].remove(name)
                if not self._rooms[engine]:
                    del self._rooms[engine]
