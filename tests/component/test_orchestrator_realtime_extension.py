"""The `antiphon.v1` subprotocol: binary audio, other rates, events of our own, and what is not in force."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from antiphon.orchestrator.transports.websocket import binary
from antiphon.testing.realtime import PATIENCE_S, Server, serving, silence, strictly, tone

pytestmark = pytest.mark.component

FRAME = binary.AudioFrame


class Extended:
    """A client that negotiated our extension; keeps events and reply frames."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.frames: list[binary.AudioFrame] = []
        self.strict = True

    async def until(self, type_: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.socket.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.frames.append(binary.unpack(message.data))
                    continue
                assert message.type is aiohttp.WSMsgType.TEXT, message
                event = json.loads(message.data)
                if self.strict and not event["type"].startswith("antiphon."):
                    strictly(event)
                self.events.append(event)
                if event["type"] == type_:
                    return event

    async def send(self, type_: str, **fields: Any) -> None:
        await self.socket.send_json({"type": type_, **fields})

    async def update(self, **session: Any) -> dict[str, Any]:
        """Update the session; what is in force afterwards. Other rates are not OpenAI's: not validated."""
        await self.send("session.update", session={"type": "realtime", **session})
        async with asyncio.timeout(PATIENCE_S):
            while True:
                event = await self.socket.receive_json()
                assert event["type"] != "error", event
                if event["type"] == "session.updated":
                    return dict(event["session"])

    async def hear(self, pcm: bytes) -> None:
        await self.socket.send_bytes(binary.pack(FRAME(binary.USER_AUDIO, 0, 0, pcm)))

    async def ask(self, text: str = "hello") -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.send("conversation.item.create", item=item)
        await self.send("response.create")

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type_]


@asynccontextmanager
async def extended(server: Server, **query: str) -> AsyncIterator[Extended]:
    protocols = ("realtime", binary.SUBPROTOCOL)
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.url}/v1/realtime", protocols=protocols, params=query) as socket,
    ):
        assert socket.protocol == binary.SUBPROTOCOL
        client = Extended(socket)
        await client.until("session.created")
        yield client


async def test_reply_comes_in_binary_frames_with_positions() -> None:
    async with serving("one two three") as server, extended(server) as client:
        await client.ask()
        done = await client.until("response.done")
        started = client.of("antiphon.reply.started")
    assert done["response"]["status"] == "completed"
    assert not client.of("response.output_audio.delta")
    assert [frame.position_samples for frame in client.frames] == [480 * n for n in range(30)]
    assert {frame.kind for frame in client.frames} == {binary.REPLY_AUDIO}
    assert {frame.generation for frame in client.frames} == {started[0]["generation"]}
    assert all(len(frame.audio) == 960 for frame in client.frames)
    states = [(event["old"], event["new"]) for event in client.of("antiphon.state")]
    assert states[:2] == [("idle", "thinking"), ("thinking", "speaking")]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
async def test_other_rates_in_both_directions(rate_hz: int) -> None:
    audio_format = {"type": "audio/pcm", "rate": rate_hz}
    async with serving("one two") as server, extended(server) as client:
        client.strict = False  # OpenAI's classes know no rate but 24 kHz
        session = await client.update(audio={"input": {"format": audio_format}, "output": {"format": audio_format}})
        assert session["audio"]["input"]["format"] == session["audio"]["output"]["format"] == audio_format
        assert session["antiphon"]["not_in_force"] == []
        await client.hear(tone(500, rate_hz) + silence(800, rate_hz))
        heard = await client.until("conversation.item.input_audio_transcription.completed")
        await client.until("response.done")
        turn = await client.until("antiphon.turn")
    assert 0.4 < heard["usage"]["seconds"] < 1.5
    assert sum(len(frame.audio) for frame in client.frames) == rate_hz * 400 // 1000 * 2
    assert turn["timeline"]["first_audio"] > turn["timeline"]["speech_end"]


async def test_duck_pause_resume_and_dismissal_are_told() -> None:
    async with serving("word " * 15, heard=["mhm"]) as server, extended(server) as client:
        await client.ask()
        await client.until("response.output_audio_transcript.delta")
        for _ in range(10):
            await client.hear(tone(20))
        await client.until("antiphon.reply.ducked")
        paused = await client.until("antiphon.reply.paused")
        await client.hear(silence(400))
        resumed = await client.until("antiphon.reply.resumed")
        assert resumed["position_samples"] >= paused["position_samples"]
        await client.until("response.done")
    assert not client.of("input_audio_buffer.speech_started")
    positions = [frame.position_samples for frame in client.frames]
    assert positions == [480 * n for n in range(len(positions))], "no sample is lost"


async def test_what_is_not_in_force_is_named() -> None:
    async with serving() as server, extended(server) as client:
        session = await client.update(
            tracing="auto",
            max_output_tokens="inf",
            include=["item.input_audio_transcription.logprobs"],
            audio={
                "input": {
                    "noise_reduction": {"type": "near_field"},
                    "transcription": {"model": "whisper-1"},
                    "turn_detection": {"type": "semantic_vad", "eagerness": "high", "interrupt_response": True},
                },
                "output": {"voice": "marin", "speed": 1.2},
            },
        )
    assert sorted(session["antiphon"]["not_in_force"]) == [
        "audio.input.noise_reduction",
        "audio.input.transcription.model",
        "audio.input.turn_detection.eagerness",
        "audio.input.turn_detection.type",
        "audio.output.voice",
        "include",
        "tracing",
    ]
    assert session["audio"]["input"]["transcription"] == {"model": "tiny-en"}
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 300
    assert session["audio"]["output"]["speed"] == 1.2


async def test_voices_are_found_by_name_alias_and_model() -> None:
    config = {"aliases": {"voices": {"alloy": "bob"}, "models": {"whisper-1": "tiny-en"}}}
    async with serving(config=config) as server, extended(server) as client:
        for asked, shown in (("ann", "ann"), ({"id": "ann"}, "ann"), ("alloy", "bob"), ("joe", "joe")):
            session = await client.update(audio={"output": {"voice": asked}})
            assert session["audio"]["output"]["voice"] == shown
        await client.ask()
        await client.until("response.done")
    assert server.synthesiser.streams[0].request.model == "joe"


@pytest.mark.parametrize("law", ["audio/pcmu", "audio/pcma"])
async def test_g711_in_both_directions(law: str) -> None:
    audio_format = {"type": law}
    async with serving("one two") as server, extended(server) as client:
        session = await client.update(audio={"input": {"format": audio_format}, "output": {"format": audio_format}})
        assert session["audio"]["output"]["format"] == audio_format
        await client.ask()
        await client.until("response.done")
    assert sum(len(frame.audio) for frame in client.frames) == 8_000 * 400 // 1000


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01\x01",
        binary.pack(FRAME(binary.USER_AUDIO, 0, 0, b"odd")),
        binary.pack(FRAME(binary.REPLY_AUDIO, 0, 0, b"xx")),
        b"\x09" + binary.pack(FRAME(binary.USER_AUDIO, 0, 0, b"xx"))[1:],
    ],
)
async def test_garbage_frames_are_refused_and_the_session_lives(message: bytes) -> None:
    async with serving() as server, extended(server) as client:
        await client.socket.send_bytes(message)
        assert (await client.until("error"))["error"]["type"] == "invalid_request_error"
        await client.ask()
        await client.until("response.done")
