"""The wall clock jumps by an hour, forth and back, under a running system: nobody may notice."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from antiphon.cli.realtime import connect
from antiphon.testing.system import System, running
from antiphon.testing.tones import decode_words

pytestmark = [pytest.mark.component, pytest.mark.timeout(120)]

RATE = 24_000
WORDS = 60
WARPED = """
import os, pathlib, time
_time, _file = time.time, pathlib.Path(os.environ["CLOCK_OFFSET_FILE"])
time.time = lambda: _time() + float(_file.read_text() or 0)
time.time_ns = lambda: int(time.time() * 1e9)
"""
"""What Python runs at its start (`sitecustomize`): the wall clock shows what a file says."""
CONFIG = {
    "models": [
        {
            "name": "tones",
            "task": "tts",
            "engine": "mock",
            "residency": {"policy": "Pinned"},
            "engineConfig": {"ms_per_word": 120},
        },
        {"name": "script", "task": "asr", "engine": "mock", "residency": {"policy": "Pinned"}},
    ]
}


@dataclass
class Clock:
    """The wall clock of all processes that were started with it."""

    folder: Path

    def set(self, offset_s: int) -> None:
        (self.folder / "offset").write_text(str(offset_s))

    def environment(self) -> dict[str, str]:
        (self.folder / "sitecustomize.py").write_text(WARPED)
        return {"PYTHONPATH": str(self.folder), "CLOCK_OFFSET_FILE": str(self.folder / "offset")}


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    clock = Clock(tmp_path_factory.mktemp("clock"))
    clock.set(0)
    return clock


@pytest.fixture(scope="module")
def system(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("jumps")
    with running(CONFIG, folder, "--workers", "2", environment=clock.environment()) as up:
        yield up


async def test_a_reply_and_the_routing_after_it_outlive_a_jump(system: System, clock: Clock) -> None:
    async with connect(system.url) as session:
        for offset_s in (3600, -3600, 0):
            since = len(session.events)
            await session.say_text(" ".join(map(str, range(WORDS))))
            first = await session.expect("response.output_audio.delta", since=since, within_s=15)
            clock.set(offset_s)
            await asyncio.sleep(4)  # longer than a lease lives
            done = await session.expect("response.done", since=since, within_s=30)
            assert done.body["response"]["status"] == "completed"
            pieces = session.speaker.pieces(str(first.body["item_id"]))
            gaps_s = [
                later.start_s - piece.start_s - len(piece.samples) / RATE
                for piece, later in zip(pieces, pieces[1:], strict=False)
            ]
            assert max(gaps_s) < 0.5
            assert decode_words(np.concatenate([piece.samples for piece in pieces]), RATE) == list(range(WORDS))
    hours = {line[:2] for line in system.logs().splitlines() if line[2:3] == ":"}
    assert len(hours) >= 2, "the logs tell that the clock did jump"
    assert not [line for line in system.logs().splitlines() if " ERROR " in line or " CRITICAL " in line]
