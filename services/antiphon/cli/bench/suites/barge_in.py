"""Barge-in: a human speaks over a reply; onset of the speech to the lowered voice, and to silence."""

import asyncio
from collections.abc import Sequence

from antiphon.cli.bench.engines import vad_onset_ms
from antiphon.cli.bench.figures import Figure, Goal, share
from antiphon.cli.bench.measures import first, last, lowered_s, since_ms, sounding
from antiphon.cli.bench.recordings import by_name, lasting
from antiphon.cli.bench.server import MOCK
from antiphon.cli.bench.stage import FIRST_SOUND, Sample, Stage, Suite, Trial, say, values
from antiphon.cli.realtime import RATE_HZ
from antiphon.contracts.errors import AntiphonError, Reason

DUCKED = Goal("p50", 70, 120)
SILENT = Goal("p50", 180, 350)
_DECISION_S = 2.0


def plan(runs: int) -> Sequence[Trial]:
    """Recordings of 1.2 to 3 s over a real voice; half as many over tones, whose level tells when it fell."""
    recordings = lasting(1.2, 3.0, count=runs + runs // 2)
    return [
        {"recording": recording.name, "assistant": "default" if number < runs else MOCK}
        for number, recording in enumerate(recordings)
    ]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """One interruption."""
    samples = await asyncio.to_thread(by_name(trial["recording"]).samples)
    onset = sounding(samples, RATE_HZ)
    assert onset is not None
    tones = trial["assistant"] == MOCK
    if tones and stage.own is None:
        return dict(trial)
    async with stage.replying(trial["assistant"]) as session:
        said = say(session, samples)
        try:
            done = await session.expect(
                "response.done",
                within_s=said.end_s - session.now_s + _DECISION_S,
                where=lambda e: e.at_s > said.start_s,
            )
            stopped = done.body["response"]["status"] == "cancelled"
        except AntiphonError as error:
            if error.reason is not Reason.TIMEOUT:
                raise
            stopped = False
        frame = last([event for event in session.events if event.at_s < said.end_s + _DECISION_S], FIRST_SOUND)
        silent_s = session.speaker.end_s
        lower_s = lowered_s(session.speaker.pieces(), said.start_s) if tones else None
        return {
            **trial,
            "stopped": stopped,
            "vad_ms": await asyncio.to_thread(vad_onset_ms, samples, onset.start_s),
            "ducked_ms": since_ms(said.start_s, first(session.events, "antiphon.reply.ducked", after_s=said.start_s)),
            "lowered_ms": (min(lower_s or silent_s, silent_s) - said.start_s) * 1000 if tones and stopped else None,
            "paused_ms": since_ms(said.start_s, first(session.events, "antiphon.reply.paused", after_s=said.start_s)),
            "last_frame_ms": since_ms(said.start_s, frame) if stopped else None,
            "silent_ms": (silent_s - said.start_s) * 1000 if stopped else None,
        }


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """What a listener hears, and what the server said and sent."""
    voice = [sample for sample in samples if sample["assistant"] == "default"]
    return [
        Figure("onset to ducked (event)", values(voice, "ducked_ms"), goal=DUCKED, beside="Silero alone"),
        Figure("onset to lower or silent, as heard (tones)", values(samples, "lowered_ms")),
        Figure("onset to paused (event)", values(voice, "paused_ms")),
        Figure("onset to the reply's last frame", values(voice, "last_frame_ms")),
        Figure("onset to silence, as heard", values(voice, "silent_ms"), goal=SILENT, beside="Silero alone"),
        Figure("Silero alone", values(voice, "vad_ms")),
        share("interruptions that did not stop it", [not sample["stopped"] for sample in voice]),
    ]


SUITE = Suite("barge-in", "A human speaks over a reply", plan, measure, report)
