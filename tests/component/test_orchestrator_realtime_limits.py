"""Who is let in, what is too much, and how a session ends: each with its typed refusal, counted, and nothing left."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from antiphon.orchestrator.transports.websocket import binary
from antiphon.testing.fakes import FakeVad
from antiphon.testing.realtime import PATIENCE_S, RATE_HZ, Server, Talk, serving, silence, talking, tone

pytestmark = pytest.mark.component

KEYS = {"server": {"keys": [{"env": "TEST_API_KEYS"}]}}


@pytest.fixture
def api_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_KEYS", "first-key\nsecond-key\n")


@asynccontextmanager
async def browsing(
    server: Server, *protocols: str, path: str = "", origin: str = "http://localhost"
) -> AsyncIterator[Any]:
    """A browser's WebSocket: subprotocols and an origin, no headers of its own."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{server.url}/v1/realtime{path}", protocols=("realtime", *protocols), origin=origin, max_msg_size=0
        ) as socket,
    ):
        yield socket


async def refused(server: Server, model: str = "default", key: str = "none") -> tuple[int, dict[str, Any]]:
    """The status and the typed error of a handshake that fails."""
    with pytest.raises(InvalidStatus) as raised:
        async with talking(server, model, key=key):
            pass
    response = raised.value.response
    return response.status_code, json.loads(response.body)["error"]


async def settled(server: Server) -> None:
    """Until no session is open."""
    async with asyncio.timeout(PATIENCE_S):
        await server.admission.wait_empty()
    assert server.value("antiphon_sessions") == 0


async def close_code(talk: Talk) -> tuple[int, str]:
    """How the server closed, once all that it sent was read."""
    with pytest.raises(Exception) as raised:  # the client's own class differs between its versions
        while True:
            await talk.next()
    closed = raised.value.rcvd  # type: ignore[attr-defined]
    return closed.code, closed.reason


# --- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("api_keys")
async def test_keys_open_the_door_and_nothing_else_does() -> None:
    async with serving(config=KEYS) as server:
        for key in ("first-key", "second-key"):
            async with talking(server, key=key):
                pass
        status, error = await refused(server, key="third-key")
        assert (status, error["code"], error["type"]) == (401, "UNAUTHENTICATED", "authentication_error")
        assert server.value("antiphon_errors_total", reason="UNAUTHENTICATED") == 1


@pytest.mark.usefixtures("api_keys")
async def test_browsers_carry_the_key_in_a_subprotocol() -> None:
    async with serving(config=KEYS) as server:
        async with browsing(server, "openai-insecure-api-key.first-key") as socket:
            assert socket.protocol == "realtime"
            assert (await socket.receive_json())["type"] == "session.created"
        async with browsing(server, "openai-insecure-api-key.wrong") as socket:
            assert (await socket.receive_json())["error"]["code"] == "invalid_api_key"
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1008


@pytest.mark.usefixtures("api_keys")
async def test_no_header_opens_another_path() -> None:
    async with serving(config=KEYS) as server, aiohttp.ClientSession() as http:
        for path in ("/v1/models", "/v1/realtime"):
            async with http.get(server.url + path, headers={"Sec-WebSocket-Key": "x"}) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_without_keys_a_foreign_page_is_refused() -> None:
    async with serving() as server:
        async with browsing(server, origin="https://example.org") as socket:
            assert (await socket.receive_json())["error"]["code"] == "invalid_api_key"
        async with browsing(server, origin="http://127.0.0.1:3000") as socket:
            assert (await socket.receive_json())["type"] == "session.created"


async def test_unknown_assistant_is_told_which_there_are() -> None:
    config = {"assistants": {"anna": {}, "bert": {}}, "aliases": {"models": {"gpt-realtime": "bert"}}}
    async with serving(config=config) as server:
        status, error = await refused(server, "gpt-4")
        assert (status, error["code"]) == (404, "MODEL_UNKNOWN")
        assert "anna, bert" in error["message"]
        async with browsing(server, path="?model=gpt-4") as socket:
            assert (await socket.receive_json())["error"]["code"] == "model_not_found"
        for asked, got in (("default", "anna"), ("bert", "bert"), ("gpt-realtime", "bert")):
            async with talking(server, asked) as talk:
                assert talk.events[0]["session"]["model"] == got


async def test_sessions_are_bounded_and_a_place_comes_back() -> None:
    async with serving(config={"server": {"max_sessions": 1}}) as server:
        async with talking(server):
            status, error = await refused(server)
            assert (status, error["code"]) == (429, "WORKER_FULL")
            async with browsing(server) as socket:
                assert (await socket.receive_json())["error"]["code"] == "server_full"
                await socket.receive()
                assert socket.close_code == 1013
        await settled(server)
        async with talking(server):
            pass
        assert server.value("antiphon_refusals_total", limit="max_sessions") == 2


# --- what is too much -------------------------------------------------------------------------------------------------


async def test_message_that_is_too_big_closes_with_1009() -> None:
    async with serving(config={"server": {"max_message_bytes": 10_000}}) as server:
        async with talking(server) as talk:
            await talk.connection.send_raw("x" * 20_000)
            assert (await close_code(talk))[0] == 1009
        await settled(server)
        assert server.value("antiphon_refusals_total", limit="max_message_bytes") == 1
        assert server.value("antiphon_sessions_ended_total", reason="message_too_big") == 1


async def test_too_many_events_close_with_a_typed_error() -> None:
    async with serving(config={"server": {"events_per_s": 1, "event_burst": 20}}) as server:
        async with talking(server) as talk:
            for _ in range(40):
                await talk.connection.input_audio_buffer.clear()
            assert await close_code(talk) == (1008, "too_many_events")
            assert talk.of("error")[-1]["error"]["code"] == "rate_limit_exceeded"
            assert len(talk.of("input_audio_buffer.cleared")) == 20
        await settled(server)
        assert server.value("antiphon_refusals_total", limit="events_per_s") == 1


async def test_client_that_stops_reading_is_closed_and_others_do_not_notice() -> None:
    config = {"server": {"send_queue_events": 50}}
    async with serving("word " * 200, config=config) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        try:
            nonce = base64.b64encode(bytes(16)).decode()
            writer.write(
                f"GET /v1/realtime HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n\r\n".encode()
            )
            await reader.readuntil(b"\r\n\r\n")
            retrieve = json.dumps({"type": "conversation.item.create", "item": big_message()}).encode()
            for _ in range(60):
                writer.write(masked(retrieve))
            async with talking(server) as talk:
                await talk.say()
                await talk.connection.response.create()
                await talk.until("response.output_audio.delta")
                async with asyncio.timeout(PATIENCE_S):
                    while server.value("antiphon_refusals_total", limit="send_queue_events") < 1:
                        await talk.until("response.output_audio.delta")
                await talk.until("response.output_audio.delta")
        finally:
            writer.close()
        await settled(server)
        assert server.value("antiphon_sessions_ended_total", reason="too_slow") == 1


def big_message() -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 200_000}]}


def masked(payload: bytes) -> bytes:
    """A client's text frame of more than 64 KiB, masked with zeros (RFC 6455, section 5.2)."""
    return b"\x81\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload


async def test_history_of_a_thousand_items_is_taken_at_once() -> None:
    async with serving() as server, talking(server) as talk:
        for number in range(1000):
            item = {"id": f"item_{number}", "type": "message", "role": "user", "content": []}
            await talk.connection.conversation.item.create(item=item)
        await talk.until("conversation.item.done", lambda event: event["item"]["id"] == "item_999")
        assert not talk.of("error")


async def test_client_that_vanishes_in_mid_word_leaves_nothing() -> None:
    async with serving("word " * 100) as server:
        async with talking(server) as talk:
            await talk.say()
            await talk.connection.response.create()
            await talk.until("response.output_audio.delta")
            await talk.append(tone(100))
            talk.connection._connection.transport.abort()
        await settled(server)
        assert server.synthesiser.streams[0].closed


async def test_an_hour_at_once_does_not_hold_up_another_session() -> None:
    """15 MiB in one event, while a reply plays elsewhere: its frames come on time, give or take a busy machine."""
    async with serving("word " * 15) as server, talking(server) as quiet, talking(server) as loud:
        await loud.connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await quiet.say()
        await quiet.connection.response.create()
        await quiet.until("response.output_audio.delta")
        audio = base64.b64encode(silence(15 * 2**20 // 48)[: 15 * 2**20]).decode()
        append = asyncio.create_task(loud.connection.input_audio_buffer.append(audio=audio))
        await quiet.until("response.done")
        await append
        samples = sum(len(base64.b64decode(event["delta"])) // 2 for event in quiet.of("response.output_audio.delta"))
        assert samples == RATE_HZ * 3
        assert await loud.say(), "the session lives"
        error = {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(15 * 2**20 + 2)).decode()}
        await loud.connection.send(error)
        assert (await loud.until("error"))["error"]["param"] == "audio"


# --- how it ends ------------------------------------------------------------------------------------------------------


async def test_idle_session_expires_with_a_typed_error() -> None:
    config = {"assistants": {"anna": {"limits": {"idle_s": 0.5, "warning_s": 0.2}}}}
    async with serving(config=config) as server:
        async with talking(server) as talk:
            assert await close_code(talk) == (1000, "session_expired")
            assert talk.of("error")[-1]["error"]["code"] == "session_expired"
        await settled(server)


async def test_drain_lets_the_turn_end_and_refuses_what_is_new() -> None:
    async with serving("word " * 10) as server:
        async with talking(server) as busy, talking(server) as idle:
            await busy.say()
            await busy.connection.response.create()
            await busy.until("response.output_audio.delta")
            server.admission.drain()
            assert await close_code(idle) == (1012, "draining")
            status, error = await refused(server)
            assert (status, error["code"]) == (503, "DRAINING")
            assert await close_code(busy) == (1012, "draining")
            assert busy.of("response.done")[0]["response"]["status"] == "completed"
        await settled(server)


async def test_fault_of_ours_closes_one_session_with_1011() -> None:
    class BrokenVad(FakeVad):
        def probability(self, window: Any) -> float:
            raise ZeroDivisionError("broken on purpose")

    class Engine:
        def open(self) -> BrokenVad:
            return BrokenVad()

    async with serving(vad=Engine()) as server:
        async with talking(server) as broken, talking(server) as other:
            await broken.append(tone(200))
            assert (await close_code(broken))[0] == 1011
            assert broken.of("error")[-1]["error"]["type"] == "server_error"
            assert await other.say()
        await settled(server)
        assert server.value("antiphon_sessions_ended_total", reason="internal_error") == 1


async def test_binary_subprotocol_is_one_of_two() -> None:
    async with serving() as server, browsing(server, binary.SUBPROTOCOL) as socket:
        assert socket.protocol == binary.SUBPROTOCOL
