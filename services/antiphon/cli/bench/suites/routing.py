"""Routing: what one decision and one change of the snapshot cost, with a thousand workers and a hundred models."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from time import perf_counter_ns

from antiphon.cli.bench.figures import Figure, Goal
from antiphon.cli.bench.stage import Sample, Stage, Suite, Trial
from antiphon.registry.records import Lease, ModelRecord, RecordReader, ResidentModel, WorkerRecord
from antiphon.registry.roster import Roster, Worker
from antiphon.registry.routing import RouteRequest, route
from antiphon.registry.snapshot import Snapshot

WORKERS, MODELS, ENGINES, HELD, STREAMS = 1000, 100, 4, 5, 16
_TIMES = 100
_DECISION, _UPDATE = Goal("p50", 50, 100), Goal("p50", 500, 1000)


def plan(runs: int) -> Sequence[Trial]:
    """As many rounds of each kind as there are runs."""
    return [{"kind": kind, "round": number} for number in range(runs) for kind in ("held", "loaded", "update")]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """A hundred decisions, or a hundred leases that are read and entered, one by one."""
    random = Random(trial["round"])
    return {**trial, "us": await asyncio.to_thread(_measured, trial["kind"], random)}


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """Each kind in microseconds."""

    def taken(kind: str) -> tuple[float, ...]:
        return tuple(us for sample in samples if sample["kind"] == kind for us in sample["us"])

    return [
        Figure("decision, the model is held by fifty", taken("held"), "us", _DECISION),
        Figure("decision, nobody holds the model", taken("loaded"), "us", _DECISION),
        Figure("a lease heard, to the next snapshot", taken("update"), "us", _UPDATE),
    ]


def models() -> dict[str, ModelRecord]:
    """A catalogue of a hundred models that workers hold, and one that none does."""
    named = [*(f"model-{number}" for number in range(MODELS)), "unheld"]
    return {
        name: ModelRecord(name=name, task="tts", engine=f"engine-{number % ENGINES}", memory_mib=500)
        for number, name in enumerate(named)
    }


def lease(number: int, random: Random) -> Lease:
    """What one of the workers says: five models, of which it has room for three more, and some streams."""
    held = (
        ResidentModel(name=f"model-{model}", digest=f"sha256:{model:064x}", state="warm", memory_mib=500)
        for model in random.sample(range(MODELS), HELD)
    )
    return Lease(
        worker=f"worker-{number}",
        incarnation=f"{number:032x}",
        address=f"10.0.{number // 250}.{number % 250}:50051",
        engines={f"engine-{engine}": "1.0.0" for engine in range(ENGINES)},
        memory_mib=4000,
        memory_free_mib=4000 - 500 * HELD,
        models=tuple(held),
        streams=random.randrange(STREAMS),
        max_streams=STREAMS,
    )


def _measured(kind: str, random: Random) -> list[float]:
    roster, catalogue = Roster(), models()
    for number in range(WORKERS):
        said = lease(number, random)
        roster.put(Worker(said.worker, WorkerRecord(address=said.address), said))
    if kind == "update":
        return _updates(roster, catalogue, random)
    workers, index = roster.freeze()
    known = Snapshot(1, models=catalogue, workers=workers, stale=False, index=index)
    names = [f"model-{random.randrange(MODELS)}" if kind == "held" else "unheld" for _ in range(_TIMES)]
    return [_us(lambda name=name: route(RouteRequest("tts", name), known, rng=random)) for name in names]  # type: ignore[misc]


def _updates(roster: Roster, catalogue: dict[str, ModelRecord], random: Random) -> list[float]:
    reader = RecordReader()
    values = [lease(random.randrange(WORKERS), random).model_dump_json().encode() for _ in range(_TIMES)]

    def hear(value: bytes) -> Snapshot:
        said = reader.read(Lease, "", value)
        assert said is not None
        known = roster.get(said.worker)
        assert known is not None
        roster.put(replace(known, lease=said))
        workers, index = roster.freeze()
        return Snapshot(1, models=catalogue, workers=workers, stale=False, index=index)

    return [_us(lambda value=value: hear(value)) for value in values]  # type: ignore[misc]


def _us(work: Callable[[], object]) -> float:
    began = perf_counter_ns()
    work()
    return (perf_counter_ns() - began) / 1000


SUITE = Suite("routing", "Choosing among a thousand workers", plan, measure, report)
