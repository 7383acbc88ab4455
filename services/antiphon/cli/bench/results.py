"""A suite's outcome as a table, as JSON with every raw value, as Markdown."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from antiphon.cli.bench.figures import Figure, Statistic, statistic
from antiphon.cli.bench.machine import Machine
from antiphon.cli.bench.stage import Sample

_STATISTICS: tuple[Statistic, ...] = ("mean", "p50", "p95", "p99", "max")
_COLUMNS = ("", "n", *_STATISTICS, "aim", "at least", "", "beside it")
_MARKS = {"aim": "[green]aim[/]", "at least": "[yellow]at least[/]", "missed": "[red]missed[/]", "": ""}


@dataclass(frozen=True, slots=True)
class Result:
    """What one suite measured."""

    suite: str
    title: str
    figures: Sequence[Figure]
    samples: Sequence[Sample]
    faults: Sequence[str]
    """Trials that came to nothing, and why."""
    others_busy: float = 0.0
    """The share of one core, in per cent, that other processes took meanwhile."""

    @property
    def missed(self) -> list[str]:
        """The figures that are worse than what is asked at least."""
        return [figure.name for figure in self.figures if figure.verdict == "missed"]

    def as_json(self, machine: Machine) -> dict[str, Any]:
        """Everything: raw samples, figures with their statistics, machine."""
        return {
            "suite": self.suite,
            "title": self.title,
            "machine": asdict(machine),
            "others_busy": self.others_busy,
            "figures": [_figure_json(figure, self.figures) for figure in self.figures],
            "faults": list(self.faults),
            "samples": list(self.samples),
        }


def table(result: Result) -> Table:
    """For a terminal: the shorter form."""
    title = f"{result.title} (others took {result.others_busy:.0f} % of a core)"
    made = Table(title=title, box=None, header_style="bold", pad_edge=False, title_justify="left")
    made.add_column("", ratio=1)
    for column in ("n", "p50/share", "p95", "max", "aim/at least"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    made.add_column("beside", justify="right", no_wrap=True)
    for figure in result.figures:
        ratio = figure.ratio(result.figures)
        goal = f"{figure.goal.judged} {figure.goal.aim:g}/{figure.goal.at_least:g}" if figure.goal else ""
        statistics = _shown(figure, "mean" if figure.unit == "%" else "p50", "p95", "max")
        cells = (figure.name, str(len(figure.values)), *statistics, goal)
        made.add_row(*cells, _MARKS[figure.verdict], "" if ratio is None else f"x {ratio:.2f}")
    return made


def markdown(results: Sequence[Result], machine: Machine) -> str:
    """All suites as one page."""
    lines = ["# Figures", "", f"{machine}.", ""]
    for result in results:
        lines += [
            f"## {result.suite}",
            "",
            f"{result.title}. Others took {result.others_busy:.0f} % of a core.",
            "",
            _line(_COLUMNS),
        ]
        lines.append(_line(["---", *["---:"] * 8, "---", "---"]))
        lines += [_line(cells) for _, cells in _rows(result.figures)]
        lines += [
            "",
            *(f"- no figure: {fault}" for fault in result.faults),
            f"![{result.title}]({result.suite}.svg)",
            "",
        ]
    return "\n".join(lines)


def write(result: Result, machine: Machine, folder: Path) -> Path:
    """The raw lists, as one JSON file."""
    file = folder / f"{result.suite}.json"
    file.write_text(json.dumps(result.as_json(machine), indent=1))
    return file


def _rows(figures: Sequence[Figure]) -> Iterator[tuple[Figure, list[str]]]:
    for figure in figures:
        yield (
            figure,
            [
                figure.name,
                str(len(figure.values)),
                *_shown(figure, *_STATISTICS),
                *_goal(figure),
                _beside(figure, figures),
            ],
        )


def _shown(figure: Figure, *statistics: Statistic) -> Iterator[str]:
    """Those statistics, with their unit; of a share only its mean says anything."""
    for which in statistics:
        shown = figure.values and (figure.unit != "%" or which == "mean")
        yield f"{_number(statistic(figure.values, which))} {figure.unit}" if shown else ""


def _goal(figure: Figure) -> Iterator[str]:
    goal = figure.goal
    yield f"{goal.judged} {goal.aim:g}" if goal else ""
    yield f"{goal.at_least:g}" if goal else ""
    yield figure.verdict


def _beside(figure: Figure, figures: Sequence[Figure]) -> str:
    ratio = figure.ratio(figures)
    return "" if ratio is None else f"{ratio:.2f} x {figure.beside}"


def _figure_json(figure: Figure, figures: Sequence[Figure]) -> dict[str, Any]:
    values = figure.values
    statistics = {which: statistic(values, which) for which in _STATISTICS} if values else {}
    return {**asdict(figure), "statistics": statistics, "verdict": figure.verdict, "ratio": figure.ratio(figures)}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
