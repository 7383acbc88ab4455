"""Jitter: how far frames come from their absolute deadlines, with 1, 10 and 50 sessions of the mock voice at once."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from antiphon.cli.bench.figures import Figure, Goal
from antiphon.cli.bench.measures import deviations_ms
from antiphon.cli.bench.server import MOCK
from antiphon.cli.bench.stage import FIRST_SOUND, LONG_TEXT, Sample, Stage, Suite, Trial
from antiphon.cli.realtime import RATE_HZ, RealtimeSession, connect
from antiphon.contracts.frames import FRAME_MS

SESSIONS = (1, 10, 50)
_GOAL = Goal("p95", 2, 5)
_SPREAD_S = 1.0
"""Replies begin at moments spread over this time, as callers do."""
_UNSETTLED_S = 0.3
"""A reply's first frames leave at once, to build the lead: their deadlines begin after it."""


def plan(runs: int) -> Sequence[Trial]:
    """Each number of sessions, once, for half as many seconds as runs, at least 4. Before: the client alone."""
    seconds = max(4, runs // 2)
    return [{"sessions": count, "seconds": seconds} for count in (0, *SESSIONS)]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """Some sessions that are all spoken to; a timer of the client's own runs beside them."""
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(_session(stage)) for _ in range(trial["sessions"])]
        begun, spent = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            timer = tasks.create_task(_timer(trial["seconds"]), name="timer")
            heard = [
                tasks.create_task(_listen(session, number * _SPREAD_S / len(sessions), trial["seconds"]))
                for number, session in enumerate(sessions)
            ]
        busy = (time.process_time() - spent) / (time.perf_counter() - begun)
    return {
        **trial,
        "deviations_ms": [round(value, 3) for each in heard for value in each.result()],
        "timer_ms": [round(value, 3) for value in timer.result()],
        "client_busy": busy * 100,
    }


def _session(stage: Stage) -> AbstractAsyncContextManager[RealtimeSession]:
    return connect(stage.server.url, assistant=MOCK, key=stage.server.key, extension=True)


async def _listen(session: RealtimeSession, after_s: float, seconds: float) -> list[float]:
    """Deviations of one reply's frames."""
    await asyncio.sleep(after_s)
    await session.say_text(" ".join([LONG_TEXT] * 3))
    sound = await session.expect(FIRST_SOUND, within_s=20)
    await asyncio.sleep(seconds)
    frames = [event for event in session.events if event.type == FIRST_SOUND]
    settled = [frame for frame in frames if frame.at_s > sound.at_s + _UNSETTLED_S]
    return deviations_ms(
        [frame.at_s for frame in settled], [frame.body["position_samples"] / RATE_HZ for frame in settled]
    )


async def _timer(seconds: float) -> list[float]:
    """How late this process wakes up for deadlines of its own: no server could look better through it."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    late = []
    for number in range(1, round(seconds * 1000 / FRAME_MS) + 1):
        deadline = begun + number * FRAME_MS / 1000
        await asyncio.sleep(max(0.0, deadline - loop.time()))
        late.append((loop.time() - deadline) * 1000)
    return late


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """Deviations for each number of sessions; the client's own timer beside them."""
    figures = []
    for sample in samples:
        count = sample["sessions"]
        timer = f"a timer in the client, {count} sessions" if count else "a timer in the client alone"
        if count:
            goal = _GOAL if count == max(SESSIONS) else None
            figures.append(Figure(f"{count} sessions", tuple(sample["deviations_ms"]), goal=goal, beside=timer))
        figures.append(Figure(timer, tuple(sample["timer_ms"])))
    busy = tuple(sample["client_busy"] for sample in samples if sample["sessions"] == max(SESSIONS))
    return [*figures, Figure(f"the client's share of a core, {max(SESSIONS)} sessions", busy, "%")]


SUITE = Suite("jitter", "Frames and their deadlines", plan, measure, report, inside=True)
