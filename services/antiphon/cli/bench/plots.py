"""A suite's figures as a picture: every value a dot, medians and 95th percentiles as ticks, goals as lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.cli.bench.figures import Figure, statistic
from antiphon.cli.bench.results import Result

_VERDICTS = {"aim": "#2aa198", "at least": "#b58900", "missed": "#dc322f", "": "#7f8c8d"}
_MOST_DOTS = 600


def draw(result: Result, folder: Path) -> list[Path]:
    """`<suite>.svg` and `<suite>.png`. Blocking, about a second. Nothing measured: no picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    units = list(dict.fromkeys(figure.unit for figure in result.figures if figure.values))
    if not units:
        return []
    panels = [[figure for figure in result.figures if figure.unit == unit and figure.values] for unit in units]
    heights = [len(panel) + 1 for panel in panels]
    drawn, axes = pyplot.subplots(
        len(units),
        1,
        figsize=(10, 0.38 * sum(heights) + 0.9),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    drawn.suptitle(result.title, fontsize=11)
    for axis, panel, unit in zip(axes[:, 0], panels, units, strict=True):
        _panel(axis, panel, unit)
    files = [folder / f"{result.suite}.svg", folder / f"{result.suite}.png"]
    for file in files:
        drawn.savefig(file, dpi=110)
    pyplot.close(drawn)
    return files


def _panel(axes: Any, figures: Sequence[Figure], unit: str) -> None:
    names = [figure.name for figure in figures]
    for place, figure in enumerate(figures):
        if unit == "%":
            axes.barh(place, statistic(figure.values, "mean"), height=0.5, color=_VERDICTS[figure.verdict])
        else:
            _dots(axes, place, figure)
        _goal(axes, place, figure)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(left=min(0.0, *(min(figure.values) for figure in figures)))
    axes.set_xlim(right=max(axes.get_xlim()[1], 5.0 if unit == "%" else 0.0))
    axes.set_xlabel("per cent" if unit == "%" else unit, fontsize=8)
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)


def _dots(axes: Any, place: int, figure: Figure) -> None:
    values = np.asarray(figure.values)
    if len(values) > _MOST_DOTS:  # the percentiles still count every value
        values = np.percentile(values, np.linspace(0, 100, _MOST_DOTS))
    spread = np.random.default_rng(0).uniform(-0.22, 0.22, len(values))
    axes.scatter(values, place + spread, s=7, alpha=0.45, color=_VERDICTS[figure.verdict], linewidths=0)
    for which, style in (("p50", "-"), ("p95", ":")):
        at = statistic(figure.values, which)  # type: ignore[arg-type]
        axes.plot([at, at], [place - 0.36, place + 0.36], style, color="black", linewidth=1.3)


def _goal(axes: Any, place: int, figure: Figure) -> None:
    if figure.goal is not None:
        for value, colour in ((figure.goal.aim, "#2aa198"), (figure.goal.at_least, "#dc322f")):
            axes.plot([value, value], [place - 0.45, place + 0.45], color=colour, linewidth=2, alpha=0.8)
