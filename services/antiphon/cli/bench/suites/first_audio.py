"""First audio: typed text to the echo, `response.create` to the first audio at the socket, for 3 to 40 words."""

import asyncio
from collections.abc import Sequence

from antiphon.cli.bench.figures import Figure, Goal
from antiphon.cli.bench.stage import FIRST_SOUND, Sample, Stage, Suite, Trial, values
from antiphon.cli.realtime import connect

WORDS = (3, 6, 10, 20, 40)
GOAL = Goal("p50", 120, 200)
_PASSAGES = (
    "Please take the second street on the left behind the old town hall and then walk along the river until you see "
    "a small white house with a blue door where my sister has been living for more than twenty years now",
    "My brother called me late last night because he could not find the keys of the car that he had borrowed from our "
    "neighbours who wanted to leave for the mountains very early in the morning with both of their children",
    "Nobody in the office knew who had ordered the hundred red umbrellas that were standing in the hall but all of us "
    "were glad to have one when the rain began to fall in the afternoon and did not stop for days",
    "We should have left before the storm came up from the south since the last ferry of the day does not wait for "
    "anyone and the only hotel on this side of the island has been closed since the end of the summer",
)
_SETTLE_S = 0.25


def text_of(words: int, passage: int) -> str:
    """A sentence of so many words."""
    return " ".join(_PASSAGES[passage % len(_PASSAGES)].split()[:words]) + "."


def plan(runs: int) -> Sequence[Trial]:
    """Every length in every run, each by the server, the bare engine and the engine's own package."""
    return [
        {"words": words, "text": text_of(words, run), "by": by}
        for run in range(max(2, runs // 2))
        for words in WORDS
        for by in ("server", "engine", "stock")
    ]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """One text, to its first sound."""
    text = trial["text"]
    if trial["by"] == "server":
        return {**trial, "ms": await _at_socket(stage, text)}
    if stage.own is None:
        return dict(trial)
    spec = stage.own.model("tts", "piper")
    engine = stage.bare.first_audio_ms if trial["by"] == "engine" else stage.bare.stock_first_audio_ms
    return {**trial, "ms": await engine(spec, text)}


async def _at_socket(stage: Stage, text: str) -> float:
    async with connect(stage.server.url, key=stage.server.key, extension=stage.extension) as session:
        asked_s = session.now_s
        await session.say_text(text)
        sound = await session.expect(FIRST_SOUND, within_s=20)
    await asyncio.sleep(_SETTLE_S)  # what the server still computes for this text must not slow the next one
    return (sound.at_s - asked_s) * 1000


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """A figure for each length; the engines beside it."""
    figures = []
    for words in WORDS:
        bare = f"{words} words, bare engine"
        figures += [
            Figure(f"{words} words", values(samples, "ms", words=words, by="server"), goal=GOAL, beside=bare),
            Figure(bare, values(samples, "ms", words=words, by="engine")),
            Figure(f"{words} words, piper-tts as it comes", values(samples, "ms", words=words, by="stock")),
        ]
    return figures


SUITE = Suite("first-audio", "Typed text to the first sound of the reply", plan, measure, report)
