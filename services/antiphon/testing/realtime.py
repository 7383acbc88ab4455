"""An orchestrator's Realtime endpoint on loopback with scripted ears, voice and mind, and OpenAI's own client to it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from aiohttp import web
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from prometheus_client import CollectorRegistry

from antiphon.contracts.adapters import Capabilities, VadEngine
from antiphon.contracts.errors import AntiphonError
from antiphon.conversation.ports import Transcript
from antiphon.orchestrator.admission import Admission
from antiphon.orchestrator.api_errors import error_middleware
from antiphon.orchestrator.auth import KeyRing, auth_middleware
from antiphon.orchestrator.config import OrchestratorConfig, RegistryConfig
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.metrics import OrchestratorMetrics
from antiphon.orchestrator.sessions import SessionKeeper
from antiphon.orchestrator.transports.websocket.endpoint import RealtimeEndpoint
from antiphon.registry.records import ModelRecord
from antiphon.registry.snapshot import Snapshot
from antiphon.testing.fakes import FakeRecogniser, FakeResponder, FakeSynthesiser, FakeVad

CLASSES: dict[str, type[Any]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(RealtimeServerEvent)[0])
}
RATE_HZ = 24_000
NO_REGISTRY = "unix:///nowhere/at/all.sock"
PATIENCE_S = 10.0
"""How long an event may take to come on a busy machine."""
CATALOGUE = Snapshot(
    version=1,
    models={
        "joe": ModelRecord(name="joe", task="tts", engine="mock", capabilities=Capabilities("tts", 22_050)),
        "duo": ModelRecord(
            name="duo", task="tts", engine="mock", capabilities=Capabilities("tts", 22_050, voices=("ann", "bob"))
        ),
        "tiny-en": ModelRecord(name="tiny-en", task="asr", engine="mock", capabilities=Capabilities("asr", 16_000)),
    },
)


class LoudnessVad:
    """Loud is speech."""

    def open(self) -> FakeVad:
        """A fresh stream."""
        return FakeVad()


@dataclass(slots=True)
class Server:
    """An endpoint that runs, and what stands behind it."""

    url: str
    metrics: CollectorRegistry
    admission: Admission
    recogniser: FakeRecogniser
    synthesiser: FakeSynthesiser
    responder: FakeResponder

    def value(self, name: str, **labels: str) -> float:
        """What a metric counts; 0 before it counted anything."""
        return self.metrics.get_sample_value(name, labels) or 0.0

    def client(self, key: str = "none") -> AsyncOpenAI:
        """OpenAI's client, pointed here."""
        return AsyncOpenAI(api_key=key, websocket_base_url=self.url.replace("http", "ws") + "/v1")


def sessions_of(config: OrchestratorConfig, registry: str | None = None) -> SessionKeeper:
    """A keeper of sessions; without a registry it is as if Redis were out of reach."""
    config = config.model_copy(update={"registry": RegistryConfig(url=registry or NO_REGISTRY)})
    return SessionKeeper.of(config)


@asynccontextmanager
async def serving(
    reply: Any = "one two three four",
    *,
    heard: Sequence[str | Transcript | AntiphonError] = ("what is the time",),
    config: Mapping[str, Any] | None = None,
    vad: VadEngine | None = None,
    registry: str | None = None,
) -> AsyncIterator[Server]:
    """An endpoint with every fake: `heard` is the recogniser's script, `reply` the responder's.

    Its sessions are kept in the Redis at `registry`; without one, in memory.
    """
    metrics = OrchestratorMetrics(CollectorRegistry())
    parsed = OrchestratorConfig.model_validate(config or {})
    recogniser, synthesiser, responder = FakeRecogniser(heard, delay_s=0.02), FakeSynthesiser(), FakeResponder(reply)
    context = Context(
        config=parsed,
        recogniser=recogniser,
        synthesiser=synthesiser,
        responders=dict.fromkeys(parsed.assistants or ("default",), responder),
        vad=vad or LoudnessVad(),
        snapshot=lambda: CATALOGUE,
        admission=Admission(parsed.server, metrics),
        metrics=metrics,
        sessions=sessions_of(parsed, registry),
    )
    keys = KeyRing.of(parsed.server)
    app = web.Application(middlewares=[error_middleware(metrics), auth_middleware(keys)])
    app.add_routes(RealtimeEndpoint(context, keys).routes())
    runner = web.AppRunner(app, shutdown_timeout=2.0)
    await runner.setup()
    keeping = asyncio.create_task(context.sessions.run(), name="sessions")
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}"
        yield Server(url, metrics.registry, context.admission, recogniser, synthesiser, responder)
    finally:
        await runner.cleanup()
        keeping.cancel()
        await asyncio.wait((keeping,))
        await context.sessions.aclose()


def strictly(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event, once it has been validated strictly against OpenAI's class of its type."""
    CLASSES[event["type"]].model_validate(dict(event), strict=True)
    return event


@dataclass(slots=True)
class Talk:
    """One connection of OpenAI's client; keeps every event that came, strictly validated."""

    connection: Any
    events: list[Mapping[str, Any]] = field(default_factory=list)

    async def next(self) -> Mapping[str, Any]:
        """The next event. Raises `TimeoutError` when none comes."""
        async with asyncio.timeout(PATIENCE_S):
            event = strictly(json.loads(await self.connection.recv_bytes()))
        self.events.append(event)
        return event

    async def until(self, type_: str, where: Callable[[Mapping[str, Any]], bool] = lambda _: True) -> Mapping[str, Any]:
        """The next event of a type."""
        while True:
            event = await self.next()
            if event["type"] == type_ and where(event):
                return event

    def types(self) -> list[str]:
        """The types of all events so far."""
        return [event["type"] for event in self.events]

    def of(self, type_: str) -> list[Mapping[str, Any]]:
        """The events of a type so far."""
        return [event for event in self.events if event["type"] == type_]

    async def say(self, text: str = "hello") -> str:
        """Type a message; its item's id."""
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.connection.conversation.item.create(item=item)
        return str((await self.until("conversation.item.done"))["item"]["id"])

    async def append(self, pcm: bytes, piece_ms: int = 100) -> None:
        """Send audio, faster than it sounds."""
        size = RATE_HZ * piece_ms // 1000 * 2
        for start in range(0, len(pcm), size):
            await self.connection.input_audio_buffer.append(audio=base64.b64encode(pcm[start : start + size]).decode())


@asynccontextmanager
async def talking(server: Server, model: str = "default", *, key: str = "none", **query: str) -> AsyncIterator[Talk]:
    """A session of OpenAI's client, begun."""
    async with server.client(key) as client, client.realtime.connect(model=model, extra_query=query) as connection:
        talk = Talk(connection)
        first = await talk.next()
        if first["type"] != "session.created":
            raise AssertionError(f"the first event is {first['type']}")
        yield talk


def tone(ms: int, rate_hz: int = RATE_HZ) -> bytes:
    """A loud tone, s16le: speech to a `FakeVad`."""
    phase = np.arange(rate_hz * ms // 1000) * 2 * np.pi * 220 / rate_hz
    return (np.sin(phase) * 12_000).astype("<i2").tobytes()


def silence(ms: int, rate_hz: int = RATE_HZ) -> bytes:
    """Nothing, s16le."""
    return bytes(rate_hz * ms // 1000 * 2)
