"""`antiphon models`, `workers` and `route`: what the registry says, as a table or as JSON."""

import asyncio
import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from random import Random
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from antiphon.cli.running import Running
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.urls import without_secrets
from antiphon.registry.routing import Candidate, RouteRequest, explain, route
from antiphon.registry.snapshot import RegistryReader, Snapshot

_FIRST_S = 3.0
_SEED = 0  # the same question has the same answer for as long as nothing changes

Row = dict[str, Any]
"""Column -> value, in the order of the columns."""


def model_rows(snapshot: Snapshot) -> list[Row]:
    """A row for each model of the catalogue."""
    leases = [worker.lease for worker in snapshot.workers.values() if worker.lease is not None]
    rows = []
    for model in sorted(snapshot.models.values(), key=lambda model: (model.task, model.name)):
        held = [resident for lease in leases if (resident := lease.resident(model.name)) is not None]
        rows.append(
            {
                "model": model.name,
                "task": model.task,
                "engine": model.engine,
                "aliases": list(model.aliases),
                "loaded": f"{sum(resident.state in ('warm', 'in_use') for resident in held)}/{len(leases)}",
                "streams": sum(resident.streams for resident in held),
                "memory_mib": max((resident.memory_mib for resident in held), default=0),
            }
        )
    return rows


def worker_rows(snapshot: Snapshot) -> list[Row]:
    """A row for each worker that is a member."""
    rows: list[Row] = []
    for worker in sorted(snapshot.workers.values(), key=lambda worker: worker.name):
        lease = worker.lease
        state = "lost" if lease is None else "draining" if lease.draining or worker.record.draining else "serving"
        rows.append(
            {
                "worker": worker.name,
                "address": worker.record.address,
                "pool": worker.record.pool,
                "state": state,
                "device": lease.device if lease else "",
                "streams": f"{lease.streams}/{lease.max_streams or '-'}" if lease else "",
                "models": [f"{model.name} ({model.state})" for model in lease.models] if lease else [],
                "first_audio_ms": round(lease.first_audio_ms) if lease else 0,
            }
        )
    return rows


def route_rows(request: RouteRequest, snapshot: Snapshot) -> list[Row]:
    """A row for each worker that could be asked, in the order in which they would be."""
    return [
        {
            "worker": candidate.worker,
            "address": candidate.address,
            "model": candidate.model,
            "revision": candidate.digest,
            "must_load": not candidate.resident,
        }
        for candidate in _candidates(request, snapshot)
    ]


def explained_rows(request: RouteRequest, snapshot: Snapshot) -> list[Row]:
    """A row for each member: its place in the order, what it has of the model, and why it is not asked."""
    order = {candidate.worker: place for place, candidate in enumerate(_candidates(request, snapshot), 1)}
    rows: list[Row] = [
        {
            "place": order.get(verdict.worker),
            "worker": verdict.worker,
            "model_is": verdict.standing,
            "streams": f"{verdict.streams}/{verdict.max_streams or '-'}",
            "evicts_mib": verdict.evicts_mib,
            "reason": verdict.reason.value if verdict.reason else "",
            "why_not": verdict.refusal,
        }
        for verdict in explain(request, snapshot, rng=Random(_SEED))
    ]
    return sorted(rows, key=lambda row: (row["place"] is None, row["place"] or 0, row["worker"]))


def _candidates(request: RouteRequest, snapshot: Snapshot) -> list[Candidate]:
    return route(request, snapshot, rng=Random(_SEED), limit=len(snapshot.workers))


async def show(where: Running, rows: Callable[[Snapshot], list[Row]], *, watch: bool, as_json: bool) -> None:
    """Print the rows once, or again at every change until interrupted (JSON: a line each).

    Raises:
        AntiphonError: NO_WORKER when the registry does not answer.
    """
    reader = RegistryReader(where.registry, where.namespace)
    following = asyncio.create_task(reader.run(), name="registry-reader")
    try:
        snapshot = await _first(reader, where)
        if watch:
            await _watch(reader, snapshot, rows, as_json=as_json)
        elif as_json:
            print(json.dumps(rows(snapshot), indent=2))
        else:
            Console().print(_table(rows(snapshot)))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _watch(
    reader: RegistryReader, snapshot: Snapshot, rows: Callable[[Snapshot], list[Row]], *, as_json: bool
) -> None:
    """The rows whenever they change: a table in place, or a line of JSON each time. Ends when cancelled."""
    shown: tuple[list[Row], str] | None = None
    with nullcontext() if as_json else Live(auto_refresh=False) as live:
        while True:
            present = rows(snapshot), staleness(reader)
            if live is not None and present != shown:
                live.update(_table(*present), refresh=True)
            elif live is None and (shown is None or present[0] != shown[0]):
                print(json.dumps(present[0]), flush=True)
            shown = present
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0 if snapshot.stale else None):
                    snapshot = await reader.changed(snapshot.version)


def staleness(reader: RegistryReader) -> str:
    """What to say beside rows that may be true no more; nothing while the registry answers."""
    if not reader.snapshot.stale:
        return ""
    return f"Stale: the registry does not say anything; this was true {reader.age_s:.0f} s ago."


async def _first(reader: RegistryReader, where: Running) -> Snapshot:
    snapshot = reader.snapshot
    try:
        async with asyncio.timeout(_FIRST_S):
            while snapshot.stale:
                snapshot = await reader.changed(snapshot.version)
    except TimeoutError:
        at = without_secrets(where.registry)
        raise AntiphonError(
            Reason.NO_WORKER, f"The registry at {at} does not answer: is `antiphon up` still running?"
        ) from None
    return snapshot


def _table(rows: list[Row], caption: str = "") -> Table | str:
    if not rows:
        return f"There is none. {caption}".rstrip()
    columns = (column.replace("_", " ") for column in rows[0])
    table = Table(
        *columns, box=None, header_style="bold", pad_edge=False, caption=caption or None, caption_justify="left"
    )
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
