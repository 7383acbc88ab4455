"""False stops: noises and backchannels over a reply, none of which should stop it."""

import asyncio
from collections.abc import Sequence

from antiphon.audio.pcm import Samples
from antiphon.cli.bench.engines import vad_voiced_ms
from antiphon.cli.bench.figures import Figure, Goal, share
from antiphon.cli.bench.measures import first, since_ms
from antiphon.cli.bench.stage import Sample, Stage, Suite, Trial, say, sleep_until, values
from antiphon.cli.bench.stimuli import NOISES, hummed, noise

WORDS = ("Mm-hmm.", "Uh-huh.", "Yeah.", "Okay.", "Right.")
SPEEDS = (1.0, 0.85, 1.2)
GOAL = Goal("mean", 5, 5)
_VAD_CONFIRM_MS = 64
_AFTER_S = 2.0


def plan(runs: int) -> Sequence[Trial]:
    """Per 5 runs: each noise, each word at a speed of its own, a hum. 20 runs: 44 sounds."""
    trials: list[Trial] = []
    for seed in range(max(1, runs // 5)):
        trials += [{"kind": "noise", "sound": name, "seed": seed} for name in sorted(NOISES)]
        trials += [{"kind": "backchannel", "sound": word, "speed": SPEEDS[seed % 3], "seed": seed} for word in WORDS]
        trials += [{"kind": "backchannel", "sound": "hummed", "seed": seed}]
    return trials


async def measure(stage: Stage, trial: Trial) -> Sample:
    """One sound, and what became of the reply."""
    samples = await _sound(stage, trial)
    async with stage.replying() as session:
        said = say(session, samples)
        await sleep_until(session, said.end_s + _AFTER_S)
        done = [event for event in session.events if event.type == "response.done"]
        stopped = any(event.body["response"]["status"] == "cancelled" for event in done)
        paused = first(session.events, "antiphon.reply.paused", after_s=said.start_s)
        resumed = first(session.events, "antiphon.reply.resumed", after_s=said.start_s)
        heard = first(session.events, "conversation.item.input_audio_transcription.completed", after_s=said.start_s)
        return {
            **trial,
            "stopped": stopped,
            "ducked": first(session.events, "antiphon.reply.ducked", after_s=said.start_s) is not None,
            "paused": paused is not None,
            "resumed_ms": since_ms(said.start_s, resumed),
            "heard": heard.body.get("transcript") if heard is not None else None,
            "voiced_ms": await asyncio.to_thread(vad_voiced_ms, samples),
            "length_ms": round(said.length_s * 1000),
        }


async def _sound(stage: Stage, trial: Trial) -> Samples:
    if trial["kind"] == "noise":
        return noise(trial["sound"], trial["seed"])
    return hummed(trial["seed"]) if trial["sound"] == "hummed" else await stage.spoken(trial["sound"], trial["speed"])


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """How often the reply was stopped; beside it, what a VAD alone would have done."""
    alone = "a VAD alone (64 ms voiced)"
    figures = [share("replies stopped", [sample["stopped"] for sample in samples], GOAL, alone)]
    figures += [
        share(f"replies stopped by a {kind}", [sample["stopped"] for sample in samples if sample["kind"] == kind])
        for kind in ("noise", "backchannel")
    ]
    figures += [
        share("replies lowered", [sample["ducked"] for sample in samples]),
        share("replies held for a moment", [sample["paused"] for sample in samples]),
        share(alone, [sample["voiced_ms"] >= _VAD_CONFIRM_MS for sample in samples]),
        Figure("onset to full voice again", values(samples, "resumed_ms")),
    ]
    return figures


SUITE = Suite("false-stops", "Noises and backchannels over a reply", plan, measure, report)
