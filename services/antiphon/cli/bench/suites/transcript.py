"""Transcripts: from the moment at which the turn is decided to the final text, for 3 s and 7 s of human speech."""

import asyncio
from collections.abc import Sequence

import numpy as np

from antiphon.audio.pcm import Samples
from antiphon.cli.bench.figures import Figure, Goal
from antiphon.cli.bench.recordings import by_name, lasting
from antiphon.cli.bench.stage import Sample, Stage, Suite, Trial, say, values
from antiphon.cli.bench.stimuli import joined

GOALS = {3: Goal("p95", 120, 250), 7: Goal("p95", 250, 450)}
_BREATH_MS = 120
"""Between two recordings that make one long one: less than any silence that ends a turn."""


def plan(runs: int) -> Sequence[Trial]:
    """Recordings of about 3 s; pairs of them for 7 s."""
    short = lasting(2.5, 3.5, count=runs)
    long = lasting(3.1, 3.8, count=2 * runs)
    trials: list[Trial] = []
    for run in range(runs):
        pair = [recording.name for recording in long[2 * run : 2 * run + 2]]
        for seconds, names in ((3, [short[run].name]), (7, pair)):
            trials += [{"seconds": seconds, "recordings": names, "by": by} for by in ("server", "engine", "stock")]
    return trials


async def measure(stage: Stage, trial: Trial) -> Sample:
    """One utterance, heard."""
    samples = await asyncio.to_thread(_utterance, trial["recordings"])
    if trial["by"] == "server":
        return {**trial, **await _at_socket(stage, samples)}
    if stage.own is None:
        return dict(trial)
    spec = stage.own.model("asr", "faster-whisper")
    engine = stage.bare.transcript_ms if trial["by"] == "engine" else stage.bare.stock_transcript_ms
    return {**trial, "ms": await engine(spec, samples)}


def _utterance(names: Sequence[str]) -> Samples:
    whole, *rest = (by_name(name).samples() for name in names)
    for piece in rest:
        whole = joined(whole, _BREATH_MS, piece)
    return np.asarray(whole)


async def _at_socket(stage: Stage, samples: Samples) -> Sample:
    async with stage.session() as session:
        said = say(session, samples)
        wait_s = said.end_s - session.now_s + 10
        decided = await session.expect(
            "input_audio_buffer.speech_stopped", within_s=wait_s, where=lambda event: event.at_s >= said.end_s
        )
        text = await session.expect(
            "conversation.item.input_audio_transcription.completed",
            within_s=10,
            where=lambda event: event.body["item_id"] == decided.body["item_id"],
        )
        return {"ms": (text.at_s - decided.at_s) * 1000, "from_end_ms": (text.at_s - said.end_s) * 1000}


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """A figure for each length; the engines beside it."""
    figures = []
    for seconds, goal in GOALS.items():
        bare = f"{seconds} s, bare engine, whole utterance"
        figures += [
            Figure(
                f"{seconds} s, turn decided to transcript",
                values(samples, "ms", seconds=seconds, by="server"),
                goal=goal,
            ),
            Figure(
                f"{seconds} s, end of speech to transcript",
                values(samples, "from_end_ms", seconds=seconds, by="server"),
                beside=bare,
            ),
            Figure(bare, values(samples, "ms", seconds=seconds, by="engine")),
            Figure(f"{seconds} s, faster-whisper as it comes", values(samples, "ms", seconds=seconds, by="stock")),
        ]
    return figures


SUITE = Suite("transcript", "The user's words, once the turn is decided", plan, measure, report)
