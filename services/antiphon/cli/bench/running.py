"""Runs suites one after the other: trials in order, faults counted, everything written as soon as it is there."""

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from antiphon.cli.api import Server
from antiphon.cli.bench import plots, results
from antiphon.cli.bench.engines import BareEngines
from antiphon.cli.bench.machine import Machine, Neighbours
from antiphon.cli.bench.results import Result
from antiphon.cli.bench.server import own_server
from antiphon.cli.bench.stage import Sample, Stage, Suite
from antiphon.contracts.errors import AntiphonError, Reason

_TRIAL_S = 120.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, where, and how much."""

    suites: Sequence[Suite]
    output: Path
    runs: int
    data_dir: Path
    url: str = ""
    """Empty: an `antiphon up` of the bench's own."""
    key: str = ""
    extension: bool = False
    """The server at `url` speaks `antiphon.v1`."""


async def run(options: BenchOptions, console: Console) -> list[Result]:
    """Measure; print a table for each suite; write raw lists, pictures and one page into the output folder.

    Raises:
        AntiphonError: When the server does not come up, or no trial of a suite could be measured.
    """
    options.output.mkdir(parents=True, exist_ok=True)
    machine = Machine.describe()
    console.print(f"{escape(str(machine))}.", highlight=False)
    done: list[Result] = []
    async with _stage(options, console) as stage:
        for suite in options.suites:
            if suite.inside and stage.own is None:
                console.print(f"[yellow]{suite.name} looks inside and is left out: leave out --url to measure it.[/]")
                continue
            done.append(await _measure(suite, stage, console))
            await asyncio.to_thread(_write, done, machine, options.output)
            console.print(results.table(done[-1]), "", sep="\n")
    console.print(f"Wrote {options.output}/figures.md, and raw lists and pictures beside it.", highlight=False)
    return done


@asynccontextmanager
async def _stage(options: BenchOptions, console: Console) -> AsyncIterator[Stage]:
    bare = BareEngines(options.data_dir / "models")
    if options.url:
        yield Stage(Server(options.url, options.key), options.runs, options.extension, bare)
        return
    console.print("Starting an antiphon to measure.")
    async with own_server(options.output) as own:
        console.print(f"It is ready at {own.url}.", highlight=False)
        yield Stage(Server(own.url), options.runs, True, bare, own)


async def _measure(suite: Suite, stage: Stage, console: Console) -> Result:
    # The engines in this process have so many objects that collecting garbage would hold the client up for 0.1 s.
    gc.collect()
    gc.freeze()
    trials, neighbours = suite.plan(stage.runs), Neighbours()
    samples: list[Sample] = []
    faults: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(suite.name, total=len(trials))
        for trial in trials:
            try:
                async with asyncio.timeout(_TRIAL_S):
                    samples.append(await suite.measure(stage, trial))
            except (AntiphonError, TimeoutError, ExceptionGroup) as error:
                faults.append(_fault(trial, error))
                console.print(f"[red]{suite.name}: {escape(faults[-1])}[/]", highlight=False)
            progress.advance(bar)
    if trials and not samples:
        raise AntiphonError(Reason.INTERNAL, f"The suite {suite.name} measured nothing: {faults[0]}")
    return Result(suite.name, suite.title, suite.report(samples), samples, faults, neighbours.busy)


def _fault(trial: object, error: BaseException) -> str:
    told = error
    while isinstance(told, BaseExceptionGroup):
        told = told.exceptions[0]
    return f"{json.dumps(trial)}: {type(told).__name__}: {told}"


def _write(done: Sequence[Result], machine: Machine, folder: Path) -> None:
    results.write(done[-1], machine, folder)
    plots.draw(done[-1], folder)
    (folder / "figures.md").write_text(results.markdown(done, machine))
