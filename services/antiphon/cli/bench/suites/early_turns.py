"""Early turns: two human recordings with a pause between them; how often the turn ends in the pause."""

import asyncio
from collections.abc import Sequence

from antiphon.cli.bench.figures import Figure, share
from antiphon.cli.bench.recordings import by_name, lasting
from antiphon.cli.bench.stage import FIRST_SOUND, Sample, Stage, Suite, Trial, say, sleep_until
from antiphon.cli.bench.stimuli import joined

GAPS_MS = (300, 400, 500, 600, 700, 800)
SILENCES_MS = (300, 500)
_AFTER_S = 0.1


def plan(runs: int) -> Sequence[Trial]:
    """Every pause with every setting, once for every five runs; each time with other recordings."""
    times = max(1, runs // 5)
    pieces = lasting(0.8, 1.8, pause_ms=150, count=2 * times * len(GAPS_MS))
    return [
        {
            "first": pieces[2 * (time * len(GAPS_MS) + index)].name,
            "second": pieces[2 * (time * len(GAPS_MS) + index) + 1].name,
            "gap_ms": gap_ms,
            "silence_ms": silence_ms,
        }
        for time in range(times)
        for index, gap_ms in enumerate(GAPS_MS)
        for silence_ms in SILENCES_MS
    ]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """One sentence with a pause."""
    first, second = await asyncio.gather(
        *(asyncio.to_thread(by_name(trial[part]).samples) for part in ("first", "second"))
    )
    async with stage.session(silence_ms=trial["silence_ms"]) as session:
        said = say(session, joined(first, trial["gap_ms"], second))
        await sleep_until(session, said.end_s + _AFTER_S)
        before = [event.type for event in session.events if event.at_s < said.end_s]
        return {
            **trial,
            "early": "input_audio_buffer.speech_stopped" in before,
            "answered": FIRST_SOUND in before,
        }


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """The share for each setting; beside it, that of a rule that hears silence perfectly and nothing else."""
    figures = []
    for silence_ms in SILENCES_MS:
        of = [sample for sample in samples if sample["silence_ms"] == silence_ms]
        perfect = f"pauses of {silence_ms} ms or more"
        figures += [
            share(f"turns ended early, {silence_ms} ms", [sample["early"] for sample in of], beside=perfect),
            share(f"talked over the user, {silence_ms} ms", [sample["answered"] for sample in of]),
            share(perfect, [sample["gap_ms"] >= silence_ms for sample in of]),
        ]
    return figures


SUITE = Suite("early-turns", "Human speech with pauses of 300 to 800 ms", plan, measure, report)
