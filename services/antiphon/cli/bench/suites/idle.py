"""Idle sessions: what a conversation in which nobody speaks costs all our processes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import numpy as np
import psutil

from antiphon.audio.pcm import Samples
from antiphon.cli.bench.engines import vad_window_ms
from antiphon.cli.bench.figures import Figure, Goal
from antiphon.cli.bench.stage import Sample, Stage, Suite, Trial
from antiphon.cli.realtime import RATE_HZ, connect

_GOAL = Goal("mean", 1, 2)
_SETTLE_S = 2.0
_ROOM_DBFS = -60.0
_VAD_WINDOW_MS = 32


def plan(runs: int) -> Sequence[Trial]:
    """No session at all; then half as many sessions as runs, without and with a microphone in a quiet room."""
    sessions, seconds = max(4, runs // 2), max(5, runs // 2)
    return [
        {"sessions": count, "streaming": streaming, "seconds": seconds}
        for count, streaming in ((0, False), (sessions, False), (sessions, True))
    ]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """CPU time and memory of `antiphon up` and all that it started."""
    async with AsyncExitStack() as stack:
        for _ in range(trial["sessions"]):
            await stack.enter_async_context(_session(stage, trial))
        await asyncio.sleep(_SETTLE_S)
        processes = stage.started.processes()
        before = _cpu_s(processes)
        await asyncio.sleep(trial["seconds"])
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in _cpu_s(processes).items()}
        return {
            **trial,
            "busy": {name: 100 * seconds / trial["seconds"] for name, seconds in spent.items()},
            "rss_mib": sum(process.memory_info().rss for process in processes) / 2**20,
            "vad": 100 * await asyncio.to_thread(vad_window_ms) / _VAD_WINDOW_MS,
        }


@asynccontextmanager
async def _session(stage: Stage, trial: Trial) -> AsyncIterator[None]:
    if trial["streaming"]:
        async with stage.session() as session:
            session.say(_quiet_room(trial["seconds"] + 2 * _SETTLE_S))
            yield
    else:
        async with connect(stage.server.url, key=stage.server.key, extension=stage.extension):
            yield


def _quiet_room(seconds: float) -> Samples:
    """What a microphone hears where nobody speaks: noise, since no room is digitally silent."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))
    return (noise * 10 ** (_ROOM_DBFS / 20)).astype(np.float32)


def _cpu_s(processes: Sequence[psutil.Process]) -> dict[str, float]:
    """CPU time by process, named by its command."""
    spent = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent[_name(process)] = times.user + times.system
    return spent


def _name(process: psutil.Process) -> str:
    words = [word for word in process.cmdline()[1:] if not word.startswith("-") and "antiphon.cli" not in word]
    return f"{words[0] if words else process.name()} ({process.pid})"


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """Shares of a core and memory for each session, over what runs without any."""
    none = next((sample for sample in samples if not sample["sessions"]), None)
    if none is None:
        return []
    base = sum(none["busy"].values())
    figures = []
    for sample in samples:
        if count := sample["sessions"]:
            how = "streaming a quiet room" if sample["streaming"] else "not streaming"
            cpu = (sum(sample["busy"].values()) - base) / count
            rss = (sample["rss_mib"] - none["rss_mib"]) / count
            goal = _GOAL if sample["streaming"] else None
            figures += [
                Figure(f"core for a session, {how}", (cpu,), "%", goal, "Silero alone" if sample["streaming"] else ""),
                Figure(f"memory for a session, {how}", (rss,), "MiB"),
            ]
    return [
        *figures,
        Figure("Silero alone", tuple(sample["vad"] for sample in samples), "%"),
        Figure("core without any session", (base,), "%"),
        Figure("memory without any session", (none["rss_mib"],), "MiB"),
    ]


SUITE = Suite("idle", "Sessions in which nobody speaks", plan, measure, report, inside=True)
