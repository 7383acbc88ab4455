"""Voice to voice: from the user's last sound to the reply's first, at the client's socket, and where the time went."""

import asyncio
from collections.abc import Mapping, Sequence

from antiphon.audio.pcm import Samples
from antiphon.cli.bench.figures import Figure, Goal
from antiphon.cli.bench.recordings import by_name, lasting
from antiphon.cli.bench.server import SILENCE_MS
from antiphon.cli.bench.stage import Sample, Stage, Suite, Trial, first_sound_after, say, values
from antiphon.cli.realtime import RealtimeSession

GOAL = Goal("p50", 450, 900)
_MOMENTS = ("pause_asked", "transcript", "turn_decided", "first_token", "first_audio")


def plan(runs: int) -> Sequence[Trial]:
    """Human recordings of 2 to 3.6 s."""
    return [{"recording": recording.name} for recording in lasting(2.0, 3.6, count=runs)]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """One turn."""
    samples = await asyncio.to_thread(by_name(trial["recording"]).samples)
    async with stage.session() as session:
        turn = {**trial, "ms": await voice_to_voice_ms(session, samples)}
        return {**turn, **await _breakdown(session)} if stage.extension else turn


async def voice_to_voice_ms(session: RealtimeSession, samples: Samples) -> float:
    """Say it, and wait for the reply's first sound. Counted from the user's last audible 10 ms as sent."""
    said = say(session, samples)
    sound = await first_sound_after(session, said.end_s, said.end_s - session.now_s + 20)
    return (sound.at_s - said.end_s) * 1000


async def _breakdown(session: RealtimeSession) -> Sample:
    """The server's own timeline of the turn, from the end of speech as it saw it."""
    await session.send({"type": "response.cancel"})
    event = await session.expect("antiphon.turn", within_s=10)
    return spans_ms(event.body["timeline"])


def spans_ms(timeline: Mapping[str, float | str | bool | None]) -> Sample:
    """Milliseconds from the end of speech to each moment that there was, by `at_<moment>`."""
    end = timeline.get("speech_end")
    if not isinstance(end, float):
        return {}
    moments = {moment: timeline.get(moment) for moment in _MOMENTS}
    return {f"at_{name}": (at - end) * 1000 for name, at in moments.items() if isinstance(at, float)}


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """The whole, and its moments by the server's clock."""
    silence = "the silence that ends a turn"
    return [
        Figure("voice to voice", values(samples, "ms"), goal=GOAL, beside=silence),
        Figure(silence, tuple(float(SILENCE_MS) for _ in samples)),
        *(Figure(f"end of speech to {name.replace('_', ' ')}", values(samples, f"at_{name}")) for name in _MOMENTS),
    ]


SUITE = Suite("voice-to-voice", "The user's last sound to the reply's first", plan, measure, report)
