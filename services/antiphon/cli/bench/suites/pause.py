"""PAUSE: from the call on the worker to the last frame that leaves it, while frames flow as a listener plays them."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from antiphon.cli.bench.figures import Figure, Goal, share
from antiphon.cli.bench.stage import LONG_TEXT, Sample, Stage, Suite, Trial, values
from antiphon.contracts.frames import SAMPLE_BYTES
from antiphon.contracts.v1 import synthesis_pb2, synthesis_pb2_grpc
from antiphon.registry.snapshot import RegistryReader

_GOAL = Goal("p95", 21, 50)
_RATE_HZ = 24_000
_LEAD_MS = 100
"""How far the worker may run ahead: little, so that frames still leave when the call comes."""
_HEARD_S = 0.7
_HELD_S = 0.4
_REPORT_S = 0.02
_REGISTRY_S = 5.0
# Without these a client takes many seconds of audio that it has not asked for.
_OPTIONS = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384))


@dataclass(slots=True)
class _Heard:
    """Messages of one stream: when each came, where it begins and how many samples it has."""

    arrivals: list[tuple[float, int, int]] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def end_samples(self) -> int:
        return sum(self.arrivals[-1][1:]) if self.arrivals else 0


def plan(runs: int) -> Sequence[Trial]:
    """One stream, paused once and resumed, for each of twice the runs."""
    return [{"number": number} for number in range(2 * runs)]


async def measure(stage: Stage, trial: Trial) -> Sample:
    """One PAUSE."""
    address = await _address(stage)
    spec = stage.started.model("tts", "piper")
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        stub = synthesis_pb2_grpc.SpeechSynthesisStub(channel)  # type: ignore[no-untyped-call]
        unary_ms = await _unary_ms(channel)
        async with _speaking(stub, spec.name) as (stream_id, heard):
            await asyncio.sleep(_HEARD_S + stage.random.uniform(0, _REPORT_S))
            asked = time.monotonic()
            answer = await stub.Control(_control(stream_id, synthesis_pb2.ControlRequest.PAUSE))
            answered_ms = (time.monotonic() - asked) * 1000
            await asyncio.sleep(_HELD_S)
            late = [at for at, *_ in heard.arrivals if at > asked]
            held_at = heard.end_samples
            await stub.Control(_control(stream_id, synthesis_pb2.ControlRequest.RESUME))
            await asyncio.sleep(_HELD_S)
            resumed = [start for at, start, _ in heard.arrivals if at > asked + _HELD_S and start >= held_at]
            return {
                **trial,
                "last_frame_ms": max(0.0, (max(late) - asked) * 1000) if late else 0.0,
                "answered_ms": answered_ms,
                "unary_ms": unary_ms,
                "position_kept": answer.position_samples == held_at and resumed[:1] == [held_at],
            }


def report(samples: Sequence[Sample]) -> Sequence[Figure]:
    """The pause, the call, and what any call costs."""
    return [
        Figure("PAUSE to the last frame", values(samples, "last_frame_ms"), goal=_GOAL),
        Figure("PAUSE to its answer", values(samples, "answered_ms"), beside="a bare unary call"),
        Figure("a bare unary call", values(samples, "unary_ms")),
        share("went on at another sample", [not sample["position_kept"] for sample in samples]),
    ]


async def _address(stage: Stage) -> str:
    where = stage.started.registry()
    reader = RegistryReader(where.registry, where.namespace)
    following = asyncio.create_task(reader.run(), name="registry-reader")
    try:
        async with asyncio.timeout(_REGISTRY_S):
            snapshot = reader.snapshot
            while not snapshot.workers:
                snapshot = await reader.changed(snapshot.version)
        return min(worker.record.address for worker in snapshot.workers.values())
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _unary_ms(channel: grpc.aio.Channel) -> float:
    health = health_pb2_grpc.HealthStub(channel)
    await health.Check(health_pb2.HealthCheckRequest())
    begun = time.monotonic()
    await health.Check(health_pb2.HealthCheckRequest())
    return (time.monotonic() - begun) * 1000


@asynccontextmanager
async def _speaking(stub: synthesis_pb2_grpc.SpeechSynthesisStub, model: str) -> AsyncIterator[tuple[str, _Heard]]:
    """A stream whose sound has begun, played at its own pace."""
    stream_id, heard = str(uuid.uuid4()), _Heard()
    call = stub.Synthesize(_requests(stream_id, model, heard))
    reading = asyncio.create_task(_read(call, heard), name="read")
    try:
        async with asyncio.timeout(20):
            await heard.began.wait()
        yield stream_id, heard
    finally:
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _requests(stream_id: str, model: str, heard: _Heard) -> AsyncIterator[synthesis_pb2.SynthesizeRequest]:
    """The text, then the playout position every 20 ms, as long as the stream is read."""
    request = synthesis_pb2.SynthesizeRequest
    config = synthesis_pb2.SynthesisConfig(
        stream_id=stream_id, model=model, sample_rate_hz=_RATE_HZ, max_lead_ms=_LEAD_MS
    )
    yield request(config=config)
    yield request(text=synthesis_pb2.TextInput(text=LONG_TEXT))
    yield request(end=synthesis_pb2.EndOfText())
    await heard.began.wait()
    begun = time.monotonic()
    while True:
        await asyncio.sleep(_REPORT_S)
        played = min(heard.end_samples, round((time.monotonic() - begun) * _RATE_HZ))
        yield request(played=synthesis_pb2.Played(position_samples=played))


async def _read(call: grpc.aio.StreamStreamCall, heard: _Heard) -> None:
    async for message in call:
        if message.WhichOneof("kind") == "audio":
            audio = message.audio
            heard.arrivals.append((time.monotonic(), audio.position_samples, len(audio.pcm) // SAMPLE_BYTES))
            heard.began.set()


def _control(stream_id: str, action: synthesis_pb2.ControlRequest.Action) -> synthesis_pb2.ControlRequest:
    return synthesis_pb2.ControlRequest(stream_id=stream_id, action=action)


SUITE = Suite("pause", "PAUSE on the worker", plan, measure, report, inside=True)
