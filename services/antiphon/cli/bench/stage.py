"""What a suite works with: the server under test, how much to measure, and what a client does in all of them."""

from asyncio import create_task, gather, sleep
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from antiphon.audio.pcm import Samples, pcm_to_float
from antiphon.cli.api import Server
from antiphon.cli.bench.engines import BareEngines
from antiphon.cli.bench.figures import Figure
from antiphon.cli.bench.measures import Span, sounding, trimmed
from antiphon.cli.bench.server import SILENCE_MS, OwnServer
from antiphon.cli.realtime import RATE_HZ, RealtimeSession, Received, connect
from antiphon.contracts.errors import AntiphonError, Reason

FIRST_SOUND = "response.output_audio.delta"
LONG_TEXT = (
    "The train from the coast was late again that morning, and the people on the platform had begun to talk to each "
    "other, first about the weather, then about the news, and at last about where they were going and why. A woman "
    "with a green coat said that she had not missed a single day of work in eleven years."
)
"""Typed, so that an echo speaks for long enough to be interrupted."""
_VAD_WINDOW_S = 0.032

Trial = Mapping[str, Any]
"""What one measurement is of; as JSON."""
Sample = dict[str, Any]
"""A trial and what came of it; as JSON."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A server and how to measure it."""

    server: Server
    runs: int
    """How many measurements of each kind, where a suite has no better reason."""
    extension: bool
    """Speak `antiphon.v1`; otherwise plain Realtime, without what it cannot tell."""
    bare: BareEngines
    own: OwnServer | None = None
    """None: somebody else's server."""
    random: Random = field(default_factory=lambda: Random(20))
    _spoken: dict[tuple[str, float], Samples] = field(default_factory=dict)

    @property
    def started(self) -> OwnServer:
        """The server that the bench started. Raises `AntiphonError(INVALID_REQUEST)` when it was given one."""
        if self.own is None:
            raise AntiphonError(Reason.INVALID_REQUEST, "This suite looks inside: leave out --url.")
        return self.own

    @asynccontextmanager
    async def session(
        self, *, assistant: str = "default", silence_ms: int = SILENCE_MS
    ) -> AsyncIterator[RealtimeSession]:
        """A conversation with a microphone that streams."""
        detection = {"type": "server_vad", "silence_duration_ms": silence_ms}
        settings: dict[str, Any] = {"audio": {"input": {"turn_detection": detection}}}
        if self.own is None:  # another server may transcribe only when asked to
            settings["audio"]["input"]["transcription"] = {"model": "whisper-1"}
        async with connect(
            self.server.url,
            assistant=assistant,
            key=self.server.key,
            extension=self.extension,
            session=settings,
        ) as session:
            microphone = create_task(session.stream_microphone(), name="microphone")
            try:
                yield session
            finally:
                microphone.cancel()
                await gather(microphone, return_exceptions=True)

    @asynccontextmanager
    async def replying(self, assistant: str = "default", *, into_s: float = 1.0) -> AsyncIterator[RealtimeSession]:
        """A conversation in which a long reply has been sounding for `into_s`, and a random part of a VAD window."""
        async with self.session(assistant=assistant) as session:
            await session.say_text(LONG_TEXT)
            sound = await session.expect(FIRST_SOUND, within_s=20)
            phase_s = self.random.uniform(0, _VAD_WINDOW_S)
            await sleep(max(0.0, sound.at_s + into_s + phase_s - session.now_s))
            yield session

    async def spoken(self, text: str, speed: float = 1.0) -> Samples:
        """`text`, said by the server's own voice: 24 kHz, trimmed; synthesised once."""
        if (text, speed) not in self._spoken:
            pieces = [piece async for piece in self.server.speech(text, format="pcm", speed=speed)]
            self._spoken[text, speed] = trimmed(pcm_to_float(b"".join(pieces)), RATE_HZ)
        return self._spoken[text, speed]


@dataclass(frozen=True, slots=True)
class Suite:
    """One thing that is measured."""

    name: str
    title: str
    plan: Callable[[int], Sequence[Trial]]
    """What to measure, in order, given the number of runs."""
    measure: Callable[[Stage, Trial], Awaitable[Sample]]
    """One trial, to what came of it: the trial's own fields and more."""
    report: Callable[[Sequence[Sample]], Sequence[Figure]]
    inside: bool = False
    """It needs the server that the bench starts itself."""


def say(session: RealtimeSession, samples: Samples) -> Span:
    """Say something into a microphone that is silent; when it is audible, on the session's clock."""
    begins_s = session.microphone.position_s
    session.say(samples)
    span = sounding(samples, RATE_HZ) or Span(0.0, len(samples) / RATE_HZ)
    return Span(begins_s + span.start_s, begins_s + span.end_s)


async def sleep_until(session: RealtimeSession, at_s: float) -> None:
    """Wait for a moment of the session's clock."""
    await sleep(max(0.0, at_s - session.now_s))


async def first_sound_after(session: RealtimeSession, at_s: float, within_s: float = 20.0) -> Received:
    """The first reply audio that comes at or after a moment."""
    return await session.expect(FIRST_SOUND, within_s=within_s, where=lambda event: event.at_s >= at_s)


def values(samples: Sequence[Sample], field_name: str, **where: Any) -> tuple[float, ...]:
    """A field of the samples that have it and whose other fields are `where`."""
    return tuple(
        sample[field_name]
        for sample in samples
        if sample.get(field_name) is not None and all(sample.get(key) == value for key, value in where.items())
    )
