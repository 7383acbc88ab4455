"""Callers who do everything wrong, while another conversation goes on and must not notice."""

import asyncio
import json
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest

from antiphon.cli.realtime import connect
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.status import from_call
from antiphon.contracts.v1 import models_pb2, models_pb2_grpc, recognition_pb2, recognition_pb2_grpc, synthesis_pb2_grpc
from antiphon.contracts.v1 import synthesis_pb2 as pb
from antiphon.testing.system import ANTIPHON, System, running
from antiphon.testing.tones import decode_words

pytestmark = [pytest.mark.component, pytest.mark.timeout(180)]

RATE = 24_000
CONFIG = {
    "models": [
        {"name": "tones", "task": "tts", "engine": "mock", "engineConfig": {"ms_per_word": 160}},
        {"name": "script", "task": "asr", "engine": "mock", "engineConfig": {"texts": ["hello there"]}},
    ],
}
LATE_S = 0.25
"""How late a frame of the conversation that goes on may be on a busy machine; a blocked loop makes it seconds."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(CONFIG, tmp_path_factory.mktemp("abuse")) as up:
        yield up


def worker_address(system: System) -> str:
    environment = {**os.environ, "ANTIPHON_DATA_DIR": str(system.data_dir)}
    listing = subprocess.run([*ANTIPHON, "workers", "--json"], env=environment, capture_output=True, check=True)
    return str(json.loads(listing.stdout)[0]["address"])


@asynccontextmanager
async def undisturbed(system: System) -> AsyncIterator[None]:
    """A conversation beside; every word of its long reply is there, in time, when the block has ended."""
    async with connect(system.url) as session:
        await session.say_text(" ".join(str(word) for word in range(40)))
        await session.expect("response.output_audio.delta", within_s=10)
        yield
        await session.expect("response.done", within_s=20)
        assert decode_words(session.speaker.recording(), RATE) == list(range(40))
        pieces = session.speaker.pieces()
        ends = [piece.start_s + len(piece.samples) / RATE for piece in pieces]
        late_s = max(later.start_s - end for end, later in zip(ends, pieces[1:], strict=False))
        assert late_s < LATE_S


async def metrics(url: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as response:
        return await response.text()


def counted(text: str, prefix: str) -> float:
    lines = [line for line in text.splitlines() if line.startswith(prefix) and not line.startswith("#")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def requests(*items: Any) -> AsyncIterator[Any]:
    async def each() -> AsyncIterator[Any]:
        for item in items:
            yield item

    return each()


def synthesis(**fields: Any) -> pb.SynthesizeRequest:
    return pb.SynthesizeRequest(
        config=pb.SynthesisConfig(**{"stream_id": str(uuid.uuid4()), "model": "tones", **fields})
    )


async def refused(call: Any) -> AntiphonError:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return from_call(error)
    raise AssertionError("it was not refused")


async def test_a_worker_refuses_each_with_its_reason_and_holds_nothing_after(system: System) -> None:
    worker = worker_address(system)
    async with undisturbed(system), grpc.aio.insecure_channel(worker) as channel:
        speech = synthesis_pb2_grpc.SpeechSynthesisStub(channel)
        hearing = recognition_pb2_grpc.SpeechRecognitionStub(channel)
        unknown = await refused(speech.Synthesize(requests(synthesis(model="nobody"))))
        assert unknown.reason is Reason.MODEL_UNKNOWN
        rate = await refused(speech.Synthesize(requests(synthesis(sample_rate_hz=44_100))))
        assert rate.reason is Reason.AUDIO_FORMAT
        megabyte = pb.SynthesizeRequest(text=pb.TextInput(text="word " * 200_000))
        long = await refused(speech.Synthesize(requests(synthesis(), megabyte)))
        assert long.reason is Reason.TEXT_TOO_LONG
        odd = recognition_pb2.RecognizeRequest(
            config=recognition_pb2.RecognitionConfig(stream_id=str(uuid.uuid4()), model="script", sample_rate_hz=11_025)
        )
        assert (await refused(hearing.Recognize(requests(odd)))).reason is Reason.AUDIO_FORMAT
        assert (await refused(garbage(channel))).reason in (
            Reason.INVALID_REQUEST,
            Reason.INTERNAL,
            Reason.ENGINE_FAULT,
        )
        await vanish_in_mid_word(speech)
        await holds_only(channel, streams=1)
    async with grpc.aio.insecure_channel(worker) as channel:
        await holds_only(channel, streams=0)


def garbage(channel: grpc.aio.Channel) -> Any:
    synthesize = channel.stream_stream("/antiphon.v1.SpeechSynthesis/Synthesize")
    return synthesize(requests(b"\xff\xfe this is no protobuf"))


async def vanish_in_mid_word(speech: synthesis_pb2_grpc.SpeechSynthesisStub) -> None:
    text = pb.SynthesizeRequest(text=pb.TextInput(text="one two three four five six seven. "))
    call = speech.Synthesize(requests(synthesis(), text))
    async for _ in call:
        break
    call.cancel()


async def holds_only(channel: grpc.aio.Channel, streams: int) -> None:
    models = models_pb2_grpc.ModelsStub(channel)
    async with asyncio.timeout(10):
        while True:
            listed = await models.ListModels(models_pb2.ListModelsRequest())
            if sum(model.streams for model in listed.models) <= streams:
                return
            await asyncio.sleep(0.05)


async def test_a_realtime_endpoint_refuses_each_and_counts_it(system: System) -> None:
    before = await metrics(system.url)
    async with undisturbed(system), aiohttp.ClientSession() as http:
        socket_url = f"{system.url}/v1/realtime"
        with pytest.raises(aiohttp.WSServerHandshakeError) as handshake:
            await http.ws_connect(f"{socket_url}?model=nobody")
        assert handshake.value.status == 404
        async with http.ws_connect(f"{socket_url}?model=default") as socket:
            assert (await socket.receive_json())["type"] == "session.created"
            for garbled in ("{not json", "[]", '{"type": "no.such.event", "event_id": "e1"}'):
                await socket.send_str(garbled)
                assert (await socket.receive_json())["type"] == "error"
            wrong = {"type": "input_audio_buffer.append", "audio": "!!!", "event_id": "e2"}
            await socket.send_json(wrong)
            assert (await socket.receive_json())["error"]["event_id"] == "e2"
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "word " * 200_000}]}
            await socket.send_json({"type": "conversation.item.create", "item": item})
            assert (await socket.receive_json())["type"] == "error"
            await socket.send_json({"type": "input_audio_buffer.clear"})
            assert (await socket.receive_json())["type"] == "input_audio_buffer.cleared", "the session lives on"
        body = {"model": "tones", "voice": "", "input": "x" * 1_000_000}
        async with http.post(f"{system.url}/v1/audio/speech", json=body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == Reason.TEXT_TOO_LONG
        body = {"model": "nobody", "voice": "", "input": "hello"}
        async with http.post(f"{system.url}/v1/audio/speech", json=body) as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == Reason.MODEL_UNKNOWN
    after = await metrics(system.url)
    assert counted(after, "antiphon_errors_total") - counted(before, "antiphon_errors_total") >= 6


async def test_clients_that_vanish_or_stop_reading_leave_nothing_behind(system: System) -> None:
    worker = worker_address(system)
    async with undisturbed(system):
        for _ in range(5):
            reader, writer = await asking(system, limit=2**20)
            await reader.readuntil(b"response.output_audio.delta")
            writer.transport.abort()
        reader, writer = await asking(system, limit=1024)
    async with grpc.aio.insecure_channel(worker) as channel:
        await holds_only(channel, streams=0)
    writer.close()
    del reader

    async def gone() -> bool:
        return counted(await metrics(system.url), "antiphon_sessions ") == 0

    async with asyncio.timeout(30):
        while not await gone():
            await asyncio.sleep(0.1)


async def asking(system: System, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that asks for a long reply over a bare socket; what it does not read piles up beyond `limit` bytes."""
    host, port = system.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=limit)
    writer.write(
        f"GET /v1/realtime?model=default HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    for event in (
        {
            "type": "conversation.item.create",
            "item": {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": " ".join(str(word) for word in range(100))}],
            },
        },
        {"type": "response.create"},
    ):
        writer.write(masked(json.dumps(event).encode()))
    await writer.drain()
    return reader, writer


def masked(payload: bytes) -> bytes:
    """One text frame of a client (RFC 6455, 5.2), masked with zeros."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload
