"""Where a model that nobody holds would be loaded: all workers weighed at once.

One number orders the workers for a model: what would have to leave, in MiB, and after the point a share that is this
worker's for this model. So the one that evicts least comes first, and of equals the same one in every process; among a
thousand workers that takes some tens of microseconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from antiphon.registry.fitness import preference
from antiphon.registry.records import Lease, ModelRecord, ResidentModel, Want

_MOST_MIB = 2**30
"""More than any worker has, and little enough for a double to keep the share after the point."""
_AT_FIRST = 64
"""So many are put in order at once; the others only when these do not do."""

_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker has to offer to a model that it does not hold."""

    free_mib: int
    """Without evicting anything; no end of it where sizes are not known."""
    reachable_mib: int
    """With everything gone that is neither in use nor held by placement; -1: there is no room for any model."""
    toll_mib: int = 0
    """What has to leave in any case, since it holds as many models as it may."""

    @classmethod
    def of(cls, lease: Lease, want: Want | None) -> Self:
        """The room of a worker that says this of itself, and of which placement says that."""
        idle = [each.memory_mib for each in lease.models if each.state == "warm" and not _is_held(each, want)]
        free_mib = _bounded(lease.memory_free_mib) if lease.memory_mib else _MOST_MIB
        reachable_mib = _bounded(free_mib + sum(idle))
        held = sum(each.state != "failed" for each in lease.models)
        if not lease.resident_cap or held < lease.resident_cap:
            return cls(free_mib, reachable_mib)
        if not idle:
            return cls(free_mib, -1)
        return cls(free_mib, reachable_mib, _bounded(max(1, min(idle))))

    def evicts_mib(self, model: ModelRecord) -> int | None:
        """What would have to leave for the model to come; None: not enough can. 0, too, where sizes are not known."""
        needed_mib = _needed_mib(model)
        return None if needed_mib > self.reachable_mib else max(0, needed_mib - self.free_mib, self.toll_mib)


NO_ROOM = Room(free_mib=0, reachable_mib=-1)


@dataclass(frozen=True, slots=True)
class Rooms:
    """Those workers that take streams, and the room of each. Immutable, but for the shares that it has worked out."""

    names: tuple[str, ...] = ()
    rooms: _Numbers = field(default_factory=lambda: np.zeros((3, 0)))
    """`Room` by `Room`, of these names: a row for each of its fields."""
    shares: dict[str, _Numbers] = field(default_factory=dict)
    """Model -> each name's share for it, as far as it was asked for."""

    def best(self, model: ModelRecord) -> Iterator[str]:
        """Those that have room for the model, the one that evicts least first; of equals the same for every caller."""
        needed_mib = _needed_mib(model)
        free_mib, reachable_mib, toll_mib = self.rooms
        evicts_mib = np.maximum(np.maximum(needed_mib - free_mib, toll_mib), 0.0)
        weights = np.where(reachable_mib >= needed_mib, evicts_mib + self._shares(model.name), np.inf)
        if len(weights) > _AT_FIRST:
            first = np.argpartition(weights, _AT_FIRST)[:_AT_FIRST]
            yield from self._finite(first[np.argsort(weights[first])], weights)
            yield from self._finite(np.argsort(weights)[_AT_FIRST:], weights)
        else:
            yield from self._finite(np.argsort(weights), weights)

    def _finite(self, order: npt.NDArray[np.intp], weights: _Numbers) -> Iterator[str]:
        return (self.names[at] for at in order[np.isfinite(weights[order])].tolist())

    def _shares(self, model: str) -> _Numbers:
        """Least for the worker that is the first choice. A millisecond for a thousand names, once."""
        shares = self.shares.get(model)
        if shares is None:
            shares = self.shares[model] = np.array([1.0 - preference(model, name) for name in self.names])
        return shares


class RoomTable:
    """The rooms of one reader's workers, changed one at a time."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._at: dict[str, int] = {}
        self._said: dict[str, Room] = {}
        self._rooms = np.zeros((3, 0))
        self._frozen = Rooms()
        self._named = self._changed = False

    def __len__(self) -> int:
        return len(self._names)

    def put(self, name: str, room: Room) -> None:
        """Say what room a worker has now; most often it is what it was."""
        if self._said.get(name) == room:
            return
        self._said[name] = room
        at = self._at.get(name)
        if at is None:
            at = self._at[name] = len(self._names)
            self._names.append(name)
            self._named = True
            if at == self._rooms.shape[1]:
                self._rooms = np.hstack((self._rooms, np.zeros((3, at + 1))))
        self._rooms[:, at] = room.free_mib, room.reachable_mib, room.toll_mib
        self._changed = True

    def remove(self, name: str) -> None:
        """Leave it out from now on; the last one takes its place. Idempotent."""
        at = self._at.pop(name, None)
        if at is None:
            return
        del self._said[name]
        last = self._names.pop()
        if last != name:
            self._names[at], self._at[last] = last, at
            self._rooms[:, at] = self._rooms[:, len(self._names)]
        self._named = self._changed = True

    def freeze(self) -> Rooms:
        """The table as it stands; what changes later does not change it."""
        if self._changed:
            known = Rooms(tuple(self._names)) if self._named else self._frozen
            self._frozen = Rooms(known.names, self._rooms[:, : len(known.names)].copy(), known.shares)
            self._named = self._changed = False
        return self._frozen


def _is_held(resident: ResidentModel, want: Want | None) -> bool:
    """Whether placement says that the worker keeps it."""
    names = resident.revision, resident.digest
    return want is not None and any(ref.means(resident.name, *names) for ref in want.hold)


def _needed_mib(model: ModelRecord) -> int:
    """What a model takes with its first stream."""
    return _bounded(model.memory_mib + model.memory_per_stream_mib)


def _bounded(mib: int) -> int:
    return max(-_MOST_MIB, min(mib, _MOST_MIB))
