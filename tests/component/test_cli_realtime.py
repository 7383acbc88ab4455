"""The Realtime client against a scripted server."""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from antiphon.cli import link
from antiphon.cli.link import api_base
from antiphon.cli.realtime import LOST, RATE_HZ, RESUMED, connect
from antiphon.contracts.errors import AntiphonError, Reason

pytestmark = pytest.mark.component

Script = Callable[[web.WebSocketResponse], Awaitable[None]]


class ScriptedServer:
    """Takes one session; plays a script to it, and keeps what the client sends."""

    def __init__(self, script: Script) -> None:
        self.events: list[dict[str, Any]] = []
        self.binary: list[bytes] = []
        self.request: web.Request | None = None
        self._script = script

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        self.request = request
        socket = web.WebSocketResponse(protocols=("antiphon.v1", "realtime"))
        await socket.prepare(request)
        await socket.send_json({"type": "session.created", "session": {"id": "sess_1"}})
        script = asyncio.create_task(self._play(socket))
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                self.binary.append(message.data)
            elif message.type is WSMsgType.TEXT:
                self.events.append(message.json())
        script.cancel()
        await asyncio.gather(script, return_exceptions=True)
        return socket

    async def _play(self, socket: web.WebSocketResponse) -> None:
        await self._script(socket)

    def sent(self, type: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type]


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/v1/realtime", handler)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}"


async def nothing(_: web.WebSocketResponse) -> None:
    return


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def audio(item: str, seconds: float) -> dict[str, Any]:
    pcm = np.full(round(seconds * RATE_HZ), 1000, dtype="<i2").tobytes()
    return {"type": "response.output_audio.delta", "item_id": item, "delta": base64.b64encode(pcm).decode()}


async def test_it_connects_as_a_stock_client_does() -> None:
    scripted = ScriptedServer(nothing)
    async with serving(scripted.handle) as url, connect(url, assistant="guide", key="k") as session:
        assert session.events[0].type == "session.created"
        assert scripted.request is not None
        assert scripted.request.query["model"] == "guide"
        assert scripted.request.headers["Authorization"] == "Bearer k"
        assert "Sec-WebSocket-Protocol" not in scripted.request.headers


async def test_the_microphone_sends_at_the_pace_of_time() -> None:
    scripted = ScriptedServer(nothing)
    async with serving(scripted.handle) as url, connect(url) as session:
        streaming = asyncio.create_task(session.stream_microphone())
        line = session.say(np.full(2400, 0.5, dtype=np.float32))
        await until(lambda: len(scripted.sent("input_audio_buffer.append")) >= 10)
        elapsed_s = session.now_s - session.microphone.start_s
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)
        sent = b"".join(base64.b64decode(event["audio"]) for event in scripted.sent("input_audio_buffer.append"))
    assert elapsed_s >= 10 * 0.02 - 0.001
    heard = np.frombuffer(sent, dtype="<i2")
    assert heard[:2400].min() > 16000
    assert not heard[2400:].any()
    assert line.end_s - line.start_s == pytest.approx(0.1)


async def test_the_extension_sends_and_receives_binary_audio() -> None:
    async def reply(socket: web.WebSocketResponse) -> None:
        item = {"type": "message", "id": "item_1"}
        await socket.send_json({"type": "response.output_item.added", "item": item})
        await socket.send_bytes(struct.pack("!BBHIQ", 1, 2, 0, 7, 480) + bytes(960))

    scripted = ScriptedServer(reply)
    async with serving(scripted.handle) as url, connect(url, extension=True) as session:
        delta = await session.expect("response.output_audio.delta", within_s=5)
        await session.send_audio(np.zeros(480, dtype=np.float32))
        await session.send_audio(np.zeros(480, dtype=np.float32))
        await until(lambda: len(scripted.binary) == 2)
        assert delta.body == {"item_id": "item_1", "generation": 7, "position_samples": 480}
        assert session.speaker.heard_ms("item_1") == 20
        assert struct.unpack_from("!BBHIQ", scripted.binary[1]) == (1, 1, 0, 0, 480)
        assert scripted.request is not None
        assert "antiphon.v1" in scripted.request.headers["Sec-WebSocket-Protocol"]


async def test_it_falls_silent_when_the_user_is_heard_and_says_how_much_was() -> None:
    async def interrupted(socket: web.WebSocketResponse) -> None:
        await socket.send_json(audio("item_1", 5.0))
        await socket.send_json({"type": "input_audio_buffer.speech_started", "item_id": "item_2"})

    scripted = ScriptedServer(interrupted)
    async with serving(scripted.handle) as url, connect(url) as session:
        await session.expect("input_audio_buffer.speech_started", within_s=5)
        await until(lambda: bool(scripted.sent("conversation.item.truncate")))
        (truncated,) = scripted.sent("conversation.item.truncate")
        assert truncated["item_id"] == "item_1"
        assert truncated["audio_end_ms"] == session.speaker.heard_ms("item_1") < 1000
        assert session.speaker.end_s <= session.now_s


async def test_a_long_session_keeps_the_newest_events_and_tells_all_of_them() -> None:
    begun = asyncio.Event()

    async def talkative(socket: web.WebSocketResponse) -> None:
        await begun.wait()
        for number in range(20):
            await socket.send_json({"type": "antiphon.limit", "number": number})

    async with serving(ScriptedServer(talkative).handle) as url, connect(url, most_events=5) as session:
        begun.set()
        numbers = []
        async for event in session.follow(since=1):
            numbers.append(event.body["number"])
            if numbers[-1] == 19:
                break
        assert numbers[-5:] == [15, 16, 17, 18, 19] and numbers == sorted(set(numbers))
        assert [event.body["number"] for event in session.events] == [15, 16, 17, 18, 19]


async def test_an_event_that_does_not_come_is_named() -> None:
    async with serving(ScriptedServer(nothing).handle) as url, connect(url) as session:
        with pytest.raises(AntiphonError, match="response.done") as late:
            await session.expect("response.done", within_s=0.05)
        assert late.value.reason is Reason.TIMEOUT


async def test_a_session_that_the_server_ends_is_an_error() -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=1008)

    async with serving(ScriptedServer(end).handle) as url, connect(url) as session:
        with pytest.raises(AntiphonError, match="1008"):
            await session.expect("response.done", within_s=5)


@pytest.mark.parametrize("code", [1012, 1006])
async def test_it_comes_back_to_its_session_and_sends_what_was_said_meanwhile(code: int) -> None:
    connections: list[web.WebSocketResponse] = []

    async def once(socket: web.WebSocketResponse) -> None:
        connections.append(socket)
        if len(connections) > 1:
            return
        if code == 1012:
            await socket.close(code=code)
        else:
            assert scripted.request is not None and scripted.request.transport is not None
            scripted.request.transport.abort()

    scripted = ScriptedServer(once)
    async with serving(scripted.handle) as url, connect(url) as session:
        await session.expect(LOST, within_s=5)
        await session.send({"type": "said.meanwhile"})
        await session.expect(RESUMED, within_s=5)
        await until(lambda: bool(scripted.sent("said.meanwhile")))
        assert scripted.request is not None
        assert scripted.request.query["session_id"] == "sess_1"
        assert len(connections) == 2


async def test_it_does_not_come_back_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "TRIES_S", (0.0, 0.01, 0.01))
    taken = 0

    async def end(socket: web.WebSocketResponse) -> None:
        nonlocal taken
        taken += 1
        await socket.close(code=1012)

    async with serving(ScriptedServer(end).handle) as url, connect(url) as session:
        with pytest.raises(AntiphonError, match="1012"):
            await session.expect("response.done", within_s=5)
        with pytest.raises(AntiphonError, match="1012"):
            await session.send({"type": "too.late"})
    assert taken == 4


async def test_a_server_that_does_not_know_the_session_any_more_is_an_error() -> None:
    async def forgetful(request: web.Request) -> web.StreamResponse:
        if "session_id" in request.query:
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "session.created", "session": {"id": "sess_1"}})
        await socket.close(code=1012)
        return socket

    async with serving(forgetful) as url, connect(url) as session:
        with pytest.raises(AntiphonError, match="does not know this session"):
            await session.expect("response.done", within_s=5)


async def test_what_is_no_realtime_is_an_error() -> None:
    async def babble(socket: web.WebSocketResponse) -> None:
        await socket.send_str("not JSON")

    async with serving(ScriptedServer(babble).handle) as url, connect(url) as session:
        with pytest.raises(AntiphonError, match="does not speak Realtime"):
            await session.expect("response.done", within_s=5)


@pytest.mark.parametrize(("status", "sentence"), [(401, "--key"), (404, "antiphon models"), (503, "no more sessions")])
async def test_refusals_say_what_to_do(status: int, sentence: str) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    async with serving(refuse) as url:
        with pytest.raises(AntiphonError, match=sentence):
            async with connect(url):
                pass


async def test_a_refusal_inside_the_socket_is_told_in_the_servers_words() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("antiphon.v1",))
        await socket.prepare(request)
        await socket.send_json({"type": "error", "error": {"message": "There is no such assistant."}})
        await socket.close(code=1008)
        return socket

    async with serving(refuse) as url:
        with pytest.raises(AntiphonError, match="There is no such assistant"):
            async with connect(url, extension=True):
                pass


async def test_nobody_there_says_how_to_start() -> None:
    with pytest.raises(AntiphonError, match="antiphon up"):
        async with connect("http://127.0.0.1:9"):
            pass


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"),
        ("https://host/openai/v1", "https://host/openai/v1"),
    ],
)
def test_the_api_stands_under_v1(url: str, base: str) -> None:
    assert api_base(url) == base
