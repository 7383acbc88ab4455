"""Which worker to ask: a pure function of what is wanted and of what is known.

Workers that cannot take the call are left out; of the rest, first the one that served this session before, then those
that hold the model, then those that are loading it, then those that would have to. Among those that hold it the less
loaded of two random ones comes first (Mitzenmacher, "The power of two choices", 2001): near even, and no stampede on
the one that looks idlest. Where it would have to be loaded, the worker comes first in which that evicts least, and of
equals the same one for every caller, so that it is loaded once.
"""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from antiphon.registry.fitness import Refusal, RouteRequest, misfit, revisions
from antiphon.registry.records import WIRE_VERSION, Lease, ModelRecord
from antiphon.registry.rooms import Rooms
from antiphon.registry.snapshot import Snapshot, Worker

__all__ = ["Candidate", "Excluded", "Refusal", "RouteRequest", "Verdict", "explain", "route"]

LIMIT = 4
"""How many candidates are looked for: the first is asked, the next ones tell whether there is another."""
_HELD = ("warm", "in_use")

Excluded = str | tuple[str, str]
"""A worker; or a worker and the digest of a revision that it is not asked for."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that can be asked."""

    worker: str
    address: str
    resident: bool
    """Whether it holds the model: it need not load it first."""
    model: str = ""
    """The catalogue's own name."""
    digest: str = ""
    """The revision to ask for; empty: whatever it holds under that name."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was thought of one worker."""

    worker: str
    refusal: str
    """Why it was not considered, in words; empty: it was."""
    reason: Refusal | None = None
    standing: str = ""
    """`warm`, `loading`, `failed` or `absent`: what it has of the model."""
    streams: int = 0
    max_streams: int = 0
    evicts_mib: int = 0
    """What would have to leave for the model to be loaded."""


def route(
    request: RouteRequest,
    snapshot: Snapshot,
    *,
    exclude: Collection[Excluded] = (),
    affinity: str | None = None,
    rng: random.Random,
    limit: int = LIMIT,
) -> list[Candidate]:
    """The workers that can be asked, in order of preference; empty when there is none.

    Args:
        request: What is wanted.
        snapshot: What is known.
        exclude: Workers that are not to be asked now, or only not for one revision.
        affinity: The worker that served this session before; preferred as long as it holds the model.
        rng: Breaks the ties.
        limit: How many are looked for.
    """
    model = snapshot.model(request.task, request.model)
    if model is None or misfit(request, model):
        return []
    to_load: list[Candidate] = []
    for digest in revisions(request, model, rng):
        found = _Search(model, digest, snapshot, exclude).candidates(affinity, limit, rng)
        if found and found[0].resident:
            return found
        to_load = to_load or found  # another revision that somebody holds keeps nobody waiting
    return to_load


def explain(
    request: RouteRequest, snapshot: Snapshot, *, exclude: Collection[Excluded] = (), rng: random.Random | None = None
) -> list[Verdict]:
    """Why each worker was, or was not, considered; for the revision that the session would get."""
    model = snapshot.model(request.task, request.model)
    reason = Refusal.MODEL_UNKNOWN if model is None else misfit(request, model)
    if model is None or reason is not None:
        assert reason is not None
        return [Verdict(name, _MODEL_SAID[reason], reason) for name in snapshot.workers]
    digest = next(iter(revisions(request, model, rng or random.Random())), "")
    search = _Search(model, digest, snapshot, exclude)
    return [search.verdict(worker) for worker in snapshot.workers.values()]


@dataclass(frozen=True, slots=True)
class _Search:
    """One revision of one model, and who could serve it."""

    model: ModelRecord
    digest: str
    snapshot: Snapshot
    exclude: Collection[Excluded]

    def candidates(self, affinity: str | None, limit: int, rng: random.Random) -> list[Candidate]:
        index, name = self.snapshot.index, self.model.name
        own = self.snapshot.workers.get(affinity or "")
        order = [own] if own is not None and self.standing(own) == "warm" and not self.refusal(own) else []
        for names, standing in ((index.warm.get(name, ()), "warm"), (index.loading.get(name, ()), "loading")):
            able = self._able(own if order else None, standing)
            order += _two_choices(names, able, limit - len(order), rng)
        if len(order) < limit:
            order += self._loaders(limit - len(order))
        return [self._candidate(worker) for worker in order]

    def refusal(self, worker: Worker) -> Refusal | None:
        """Why it cannot take the call; None: it can, at least after a load."""
        lease = worker.lease
        if lease is None:
            return Refusal.NOT_ALIVE
        if lease.draining or worker.record.draining:
            return Refusal.DRAINING
        if lease.wire_version != WIRE_VERSION:
            return Refusal.WIRE_VERSION
        if self.model.engine not in lease.engines:
            return Refusal.ENGINE_MISSING
        if lease.max_streams and lease.streams >= lease.max_streams:
            return Refusal.FULL
        if worker.name in self.exclude or (worker.name, self.digest) in self.exclude:
            return Refusal.FAILED
        return None

    def load_refusal(self, worker: Worker) -> Refusal | None:
        """Why it cannot load the model; None: it can."""
        if self._forbidden(worker):
            return Refusal.NOT_PLACED
        return Refusal.NO_MEMORY if worker.room.evicts_mib(self.model) is None else None

    def standing(self, worker: Worker) -> str:
        """What the worker has of the model."""
        found = "absent"
        for resident in worker.lease.models if worker.lease is not None else ():
            if resident.name == self.model.name and resident.is_revision(self.digest):
                if resident.state in _HELD:
                    return "warm"
                if resident.state in ("loading", "failed"):
                    found = resident.state
        return found

    def verdict(self, worker: Worker) -> Verdict:
        standing, lease = self.standing(worker), worker.lease or _NOTHING
        reason, evicts_mib = self.refusal(worker), 0
        if standing not in ("warm", "loading"):
            if reason is Refusal.FULL and self._forbidden(worker):
                reason = Refusal.NOT_PLACED  # nothing would come of a stream that ends there
            elif reason is None:
                reason, evicts_mib = self.load_refusal(worker), worker.room.evicts_mib(self.model) or 0
        told = "" if reason is None else self._say(reason, lease)
        return Verdict(worker.name, told, reason, standing, lease.streams, lease.max_streams, evicts_mib)

    def _forbidden(self, worker: Worker) -> bool:
        """Whether placement does not let it load the model. Where nothing was said of a worker, it decides itself."""
        return worker.want is not None and not worker.want.allows(self.model.name, self.digest)

    def _able(self, taken: Worker | None, standing: str) -> Callable[[str], Worker | None]:
        workers = self.snapshot.workers

        def able(name: str) -> Worker | None:
            worker = workers[name]
            return None if worker is taken or self.refusal(worker) or self.standing(worker) != standing else worker

        return able

    def _loaders(self, count: int) -> list[Worker]:
        """Up to `count` of those that would have to load it, the best first; where it failed already, last."""
        rooms = self.snapshot.index.rooms.get(self.model.engine, _NO_ROOMS)
        found: list[Worker] = []
        failed: list[Worker] = []
        for worker in map(self.snapshot.workers.__getitem__, rooms.best(self.model)):
            standing = self.standing(worker)
            if standing in ("warm", "loading") or self.refusal(worker) or self._forbidden(worker):
                continue
            (failed if standing == "failed" else found).append(worker)
            if len(found) == count:
                break
        return (found + failed)[:count]

    def _candidate(self, worker: Worker) -> Candidate:
        resident = self.standing(worker) == "warm"
        return Candidate(worker.name, worker.record.address, resident, self.model.name, self.digest)

    def _say(self, reason: Refusal, lease: Lease) -> str:
        return _WORKER_SAID[reason].format(
            engine=self.model.engine, wire=lease.wire_version, streams=lease.max_streams, mib=self.model.memory_mib
        )


def _two_choices(
    names: Sequence[str], able: Callable[[str], Worker | None], count: int, rng: random.Random
) -> list[Worker]:
    """Up to `count` of those that are able, each the less loaded of two random ones."""
    left = list(names)
    order: list[Worker] = []
    while len(order) < count and (one := _draw(left, able, rng)) is not None:
        if (other := _draw(left, able, rng)) is not None:
            one, other = (one, other) if _load(one) <= _load(other) else (other, one)
            left.append(other.name)  # it is drawn again like any other
        order.append(one)
    return order


def _draw(left: list[str], able: Callable[[str], Worker | None], rng: random.Random) -> Worker | None:
    while left:
        at = int(rng.random() * len(left))
        left[at], left[-1] = left[-1], left[at]
        if (worker := able(left.pop())) is not None:
            return worker
    return None


def _load(worker: Worker) -> float:
    lease = worker.lease or _NOTHING
    return lease.streams / lease.max_streams if lease.max_streams else float(lease.streams)


_NO_ROOMS = Rooms()
_NOTHING = Lease(worker="none", incarnation="none")
_MODEL_SAID = {
    Refusal.MODEL_UNKNOWN: "the catalogue does not know the model",
    Refusal.ENGINE: "the model has another engine",
    Refusal.LANGUAGE: "the model does not know the language",
    Refusal.VOICE: "the model has no such voice",
    Refusal.SAMPLE_RATE: "the model's sample rate is lower",
    Refusal.STREAMING: "the model does not stream",
    Refusal.CLONING: "the model clones no voices",
    Refusal.EMOTION: "the model knows no emotions",
}
_WORKER_SAID = {
    Refusal.NOT_ALIVE: "it is not alive",
    Refusal.DRAINING: "it is draining",
    Refusal.WIRE_VERSION: "it speaks version {wire} of the wire",
    Refusal.ENGINE_MISSING: "it has no engine {engine}",
    Refusal.FULL: "all of its {streams} streams are in use",
    Refusal.FAILED: "it failed or refused just now",
    Refusal.NOT_PLACED: "it does not hold the model and may not load it",
    Refusal.NO_MEMORY: "it has no room for the model's {mib} MiB beside what is in use",
}
