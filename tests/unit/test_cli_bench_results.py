"""A result as a table, JSON, Markdown and a picture."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from antiphon.cli.bench import plots, results
from antiphon.cli.bench.figures import Figure, Goal, share
from antiphon.cli.bench.machine import Machine
from antiphon.cli.bench.results import Result

pytestmark = pytest.mark.unit


@pytest.fixture
def result() -> Result:
    figures = [
        Figure("server", (100.0, 110.0, 300.0), goal=Goal("p50", 120, 200), beside="bare"),
        Figure("bare", (50.0, 55.0)),
        Figure("nothing", ()),
        share("stopped", [True, False], Goal("mean", 5, 5)),
    ]
    return Result("first-audio", "Typed text", figures, [{"ms": 100.0}], ['{"words": 3}: TimeoutError: '])


def test_a_table_shows_statistics_goals_and_ratios(result: Result) -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(results.table(result))
    text = captured.get()
    assert "110 ms" in text
    assert "p50 120/200" in text
    assert "x 2.10" in text
    assert "missed" in text


def test_markdown_is_one_page_with_every_fault(result: Result) -> None:
    page = results.markdown([result], Machine.describe())
    assert "| server | 3 | 170 ms | 110 ms |" in page
    assert "no figure" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_json_keeps_every_raw_value_and_the_machine(result: Result, tmp_path: Path) -> None:
    told = json.loads(results.write(result, Machine.describe(), tmp_path).read_text())
    assert told["figures"][0]["values"] == [100.0, 110.0, 300.0]
    assert told["figures"][0]["verdict"] == "aim"
    assert told["samples"] == [{"ms": 100.0}]
    assert told["machine"]["cores"] >= 1


def test_what_is_worse_than_asked_is_named(result: Result) -> None:
    assert result.missed == ["stopped"]


@pytest.mark.timeout(20)
def test_a_picture_is_drawn_in_both_formats(result: Result, tmp_path: Path) -> None:
    files = plots.draw(result, tmp_path)
    assert [file.suffix for file in files] == [".svg", ".png"]
    assert all(file.stat().st_size > 1000 for file in files)


def test_nothing_measured_is_no_picture(tmp_path: Path) -> None:
    assert plots.draw(Result("idle", "Idle", [Figure("x", ())], [], []), tmp_path) == []
