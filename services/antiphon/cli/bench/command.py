"""The command: which suites, against which server, how often."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.contracts.errors import AntiphonError, Reason

if TYPE_CHECKING:
    from antiphon.cli.bench.stage import Suite

RUNS, QUICK_RUNS = 20, 4
_DATA_DIR = Path.home() / ".cache" / "antiphon"
NAMES = (
    "first-audio",
    "pause",
    "barge-in",
    "false-stops",
    "early-turns",
    "transcript",
    "voice-to-voice",
    "concurrency",
    "jitter",
    "idle",
    "routing",
    "leases",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command(
    epilog="Suites: " + ", ".join(NAMES) + ".\n\nExamples:\n\n"
    "[green]antiphon bench --quick[/]\n\n"
    "[green]antiphon bench first-audio barge-in --runs 40[/]\n\n"
    "[green]antiphon bench voice-to-voice --url http://127.0.0.1:9000[/]"
)
def bench(
    suites: Annotated[list[str] | None, typer.Argument(help="What to measure; all, unless named.")] = None,
    url: Annotated[str, typer.Option(help="A running Realtime server. Default: an antiphon of the bench's own.")] = "",
    key: Annotated[str, typer.Option(help="API key, where the server wants one.", envvar="ANTIPHON_API_KEY")] = "",
    extension: Annotated[bool, typer.Option("--extension", help="The server at --url is an antiphon.")] = False,
    output: Annotated[Path, typer.Option(help="Where raw lists, pictures and tables go.")] = Path("out/bench"),
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Measurements of each kind.")] = RUNS,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"As --runs {QUICK_RUNS}: a look, no figures to keep.")
    ] = False,
    data_dir: Annotated[
        Path, typer.Option(help="Where fetched models are kept.", envvar="ANTIPHON_DATA_DIR")
    ] = _DATA_DIR,
) -> None:
    """Measure what a listener waits for, at the client's socket, with the bare engines beside it."""
    from rich.console import Console

    from antiphon.cli.bench.running import BenchOptions, run

    options = BenchOptions(chosen(suites), output, QUICK_RUNS if quick else runs, data_dir, url, key, extension)
    asyncio.run(run(options, Console()))


def chosen(names: list[str] | None) -> "list[Suite]":
    """The suites of these names, in their usual order; all for none. Raises `AntiphonError(INVALID_REQUEST)`."""
    from antiphon.cli.bench.suites import SUITES

    unknown = [name for name in names or () if name not in SUITES]
    if unknown:
        raise AntiphonError(
            Reason.INVALID_REQUEST, f"There is no suite {', '.join(unknown)}: choose of {', '.join(SUITES)}."
        )
    return [suite for name, suite in SUITES.items() if not names or name in names]
