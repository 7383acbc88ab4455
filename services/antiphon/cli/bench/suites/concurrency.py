"""Concurrency: voice to voice of one conversation, and of three that begin 0.4 s apart."""

import asyncio
from collections.abc import Sequence

from antiphon.cli.bench.figures import Figure, Goal, statistic
from antiphon.cli.bench.recordings import by_name, lasting
from antiphon.cli.bench.stage import Sample, Stage, Suite, Trial
from antiphon.cli.bench.suites.voice_to_voice import voice_to_voice_ms

APART_S = 0.4
_GOAL = Goal("p50", 1.3, 2.0)


def plan(runs: int) -> Sequence[Trial]:
    """One and three by turns, with the same recordings."""
    names = [recording.name for recording in lasting(2.5, 3.5, count=3 * runs)]
    return [
        {"conversations": count, "recordings": names[3 * run : 3 * run + count]}
        for run in range(max(2, runs // 2))
        for count in (1, 3)
    ]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """Some conversations at once, a turn each."""
    async with asyncio.TaskGroup() as tasks:
        turns = [
            tasks.create_task(_turn(stage, name, number * APART_S), name=f"conversation-{number}")
            for number, name in enumerate(trial["recordings"])
        ]
    return {**trial, "ms": [turn.result() for turn in turns]}


async def _turn(stage: Stage, recording: str, after_s: float) -> float:
    samples = await asyncio.to_thread(by_name(recording).samples)
    async with stage.session() as session:
        await asyncio.sleep(after_s)
        return await voice_to_voice_ms(session, samples)


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """Both, and each of three over the median of one."""
    one, three = (
        tuple(ms for sample in samples if sample["conversations"] == count for ms in sample["ms"]) for count in (1, 3)
    )
    middle = statistic(one, "p50") if one else 0.0
    return [
        Figure("one conversation", one),
        Figure("three conversations", three, beside="one conversation"),
        Figure("three over one", tuple(ms / middle for ms in three) if middle else (), "x", _GOAL),
    ]


SUITE = Suite("concurrency", "Three conversations at once", plan, measure, report)
