"""Which worker to ask: a pure function of what is wanted and of what is known.

Workers that cannot take the call are left out; of the rest, first the one that served this session before, then those
that hold the model, then those that would have to load it. Among equals the less loaded of two random ones comes
first (Mitzenmacher, "The power of two choices", 2001): near even, and no stampede on the one that looks idlest.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

from antiphon.contracts.adapters import Task
from antiphon.registry.records import WIRE_VERSION, Lease
from antiphon.registry.snapshot import Snapshot, Worker

_RANKS = {"in_use": 0, "warm": 0, "loading": 1, "leaving": 2, "failed": 3}
_RANK_ABSENT = 2


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What is wanted."""

    task: Task
    model: str
    """The catalogue's own name."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that can be asked."""

    worker: str
    address: str
    resident: bool
    """Whether it holds the model: it need not load it first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was thought of one worker."""

    worker: str
    refusal: str
    """Why it was not considered; empty: it was."""


def route(
    request: RouteRequest,
    snapshot: Snapshot,
    *,
    exclude: Collection[str] = (),
    affinity: str | None = None,
    rng: random.Random,
) -> list[Candidate]:
    """The workers that can be asked, in order of preference; empty when there is none.

    Args:
        request: What is wanted.
        snapshot: What is known.
        exclude: Workers that are not to be asked now.
        affinity: The worker that served this session before; preferred as long as it holds the model.
        rng: Breaks the ties.
    """
    groups: dict[int, list[Worker]] = {}
    for worker in snapshot.workers.values():
        if not _refusal(request, snapshot, worker, exclude):
            rank = _rank(request, worker)
            groups.setdefault(-1 if worker.name == affinity and rank == 0 else rank, []).append(worker)
    return [
        Candidate(worker.name, worker.record.address, resident=rank <= 0)
        for rank in sorted(groups)
        for worker in _two_choices(groups[rank], rng)
    ]


def explain(request: RouteRequest, snapshot: Snapshot, *, exclude: Collection[str] = ()) -> list[Verdict]:
    """Why each worker was, or was not, considered."""
    return [Verdict(worker.name, _refusal(request, snapshot, worker, exclude)) for worker in snapshot.workers.values()]


def _refusal(request: RouteRequest, snapshot: Snapshot, worker: Worker, exclude: Collection[str]) -> str:
    model = snapshot.models.get(request.model)
    lease = worker.lease
    if model is None or model.task != request.task:
        return "the catalogue does not know the model"
    if lease is None:
        return "it is not alive"
    if worker.record.draining or lease.draining:
        return "it is draining"
    if lease.wire_version != WIRE_VERSION:
        return f"it speaks version {lease.wire_version} of the wire"
    if model.engine not in lease.engines:
        return f"it has no engine {model.engine}"
    if lease.max_streams and lease.streams >= lease.max_streams:
        return f"all of its {lease.max_streams} streams are in use"
    if worker.name in exclude:
        return "it failed or refused just now"
    return ""


def _rank(request: RouteRequest, worker: Worker) -> int:
    resident = worker.lease.resident(request.model) if worker.lease is not None else None
    return _RANK_ABSENT if resident is None else _RANKS[resident.state]


def _two_choices(workers: list[Worker], rng: random.Random) -> list[Worker]:
    left, order = list(workers), []
    while left:
        one, other = rng.randrange(len(left)), rng.randrange(len(left))
        chosen = min(one, other, key=lambda index: _load(left[index].lease))
        left[chosen], left[-1] = left[-1], left[chosen]
        order.append(left.pop())
    return order


def _load(lease: Lease | None) -> float:
    if lease is None:
        return 0.0
    return lease.streams / lease.max_streams if lease.max_streams else float(lease.streams)
