"""What was measured, as numbers that can be judged: lists of values, their statistics, goals and ratios."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Statistic = Literal["p50", "p95", "p99", "mean", "max"]
Verdict = Literal["aim", "at least", "missed", ""]


def statistic(values: Sequence[float], which: Statistic) -> float:
    """One number for many; `values` must not be empty. Percentiles are interpolated linearly."""
    match which:
        case "mean":
            return float(np.mean(values))
        case "max":
            return float(np.max(values))
        case _:
            return float(np.percentile(values, int(which.removeprefix("p"))))


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: smaller is better."""

    judged: Statistic
    aim: float
    at_least: float

    def verdict(self, values: Sequence[float]) -> Verdict:
        """Which of the two is reached."""
        value = statistic(values, self.judged)
        return "aim" if value <= self.aim else "at least" if value <= self.at_least else "missed"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a suite's table."""

    name: str
    values: tuple[float, ...]
    """Raw, in the order in which they were measured. A share is a list of 0 and 100."""
    unit: str = "ms"
    goal: Goal | None = None
    beside: str = ""
    """The name of the figure that this one is shown as a multiple of: the bare engine, the ideal."""

    @property
    def judged(self) -> Statistic:
        """The statistic that stands for this figure in a ratio."""
        return self.goal.judged if self.goal else "mean" if self.unit == "%" else "p50"

    @property
    def verdict(self) -> Verdict:
        """How it stands against its goal; empty: it has none, or nothing was measured."""
        return self.goal.verdict(self.values) if self.goal and self.values else ""

    def ratio(self, figures: Sequence["Figure"]) -> float | None:
        """This figure over the one beside it; None where there is none, or it is 0."""
        other = next((figure for figure in figures if figure.name == self.beside), None)
        if other is None or not other.values or not self.values:
            return None
        bare = statistic(other.values, self.judged)
        return statistic(self.values, self.judged) / bare if bare > 0 else None


def share(name: str, outcomes: Sequence[bool], goal: Goal | None = None, beside: str = "") -> Figure:
    """How often something happened, in per cent."""
    return Figure(name, tuple(100.0 * outcome for outcome in outcomes), "%", goal, beside)
