"""The bench as a person runs it, cut short: against its own server, and against one that it is given."""

import io
import json
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from antiphon.cli.bench.running import BenchOptions, run
from antiphon.cli.bench.server import own_server
from antiphon.cli.bench.suites import SUITES
from antiphon.testing.speech import require_recordings

pytestmark = [pytest.mark.component, pytest.mark.timeout(180)]

CUT_SHORT = {
    "first-audio": [{"words": 3, "text": "Good morning everybody.", "by": by} for by in ("server", "engine", "stock")],
    "pause": [{"number": 0}],
    "false-stops": [{"kind": "noise", "sound": "door", "seed": 0}],
    "jitter": [{"sessions": 2, "seconds": 1}],
    "idle": [{"sessions": count, "streaming": count > 0, "seconds": 1} for count in (0, 2)],
}


def cut_short(*names: str):  # type: ignore[no-untyped-def]
    return [replace(SUITES[name], plan=lambda runs, name=name: CUT_SHORT[name]) for name in names]


async def test_it_starts_a_server_measures_it_and_ends_it(tmp_path: Path) -> None:
    options = BenchOptions(cut_short("first-audio", "pause", "false-stops", "jitter", "idle"), tmp_path, 1, tmp_path)
    done = await run(options, Console(file=io.StringIO()))

    assert [result.suite for result in done] == list(CUT_SHORT)
    assert not [fault for result in done for fault in result.faults]
    for result in done:
        told = json.loads((tmp_path / f"{result.suite}.json").read_text())
        assert len(told["samples"]) == len(CUT_SHORT[result.suite])
        assert (tmp_path / f"{result.suite}.svg").exists()
        assert (tmp_path / f"{result.suite}.png").exists()
        assert f"## {result.suite}" in (tmp_path / "figures.md").read_text()
    assert not psutil.Process().children(recursive=True)


async def test_it_measures_a_server_that_it_is_given_by_plain_realtime(tmp_path: Path) -> None:
    require_recordings()
    voice_to_voice = replace(SUITES["voice-to-voice"], plan=lambda runs: SUITES["voice-to-voice"].plan(1))
    console = Console(file=io.StringIO(), width=200)
    async with own_server(tmp_path) as server:
        options = BenchOptions([voice_to_voice, SUITES["idle"]], tmp_path, 1, tmp_path, url=server.url)
        done = await run(options, console)

    assert [result.suite for result in done] == ["voice-to-voice"]
    assert not done[0].faults
    (sample,) = done[0].samples
    assert 100 < sample["ms"] < 10_000
    assert "idle looks inside" in console.file.getvalue()  # type: ignore[attr-defined]
