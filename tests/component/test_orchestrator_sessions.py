"""A client that comes back has its conversation again: here, elsewhere, after a kill, and without Redis."""

import asyncio
import contextlib
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from antiphon.contracts.errors import AntiphonError
from antiphon.conversation.engine import Conversation
from antiphon.orchestrator import holds, sessions
from antiphon.orchestrator.config import OrchestratorConfig
from antiphon.orchestrator.transports.websocket.connection import Connection
from antiphon.registry import client as registry_client
from antiphon.registry.client import open_client
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.keys import Keys
from antiphon.registry.records import RecordReader, SessionRecord
from antiphon.registry.sessions import OWNED_S, Save, SessionStore
from antiphon.testing.realtime import PATIENCE_S, Server, Talk, serving, sessions_of, silence, talking, tone

pytestmark = pytest.mark.component

KEYS = {"server": {"keys": [{"env": "TEST_API_KEYS"}]}}


@pytest.fixture(scope="module")
def api_keys() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_API_KEYS", "first-key\nsecond-key\n")
        yield


@contextlib.asynccontextmanager
async def stored(url: str) -> AsyncIterator[SessionStore]:
    client = open_client(url, block_s=PATIENCE_S)  # a busy machine is waited for
    try:
        yield SessionStore(client, Keys("default"), RecordReader())
    finally:
        await client.aclose()


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await condition()):
            await asyncio.sleep(0.01)
    return found


async def spoken_turn(talk: Talk) -> None:
    await talk.append(silence(200) + tone(600) + silence(1000))
    await talk.until("response.done")


def session_id(talk: Talk) -> str:
    return str(talk.events[0]["session"]["id"])


async def texts(talk: Talk, ids: list[str]) -> list[str]:
    """What the server has under these ids."""
    found = []
    for item_id in ids:
        await talk.connection.conversation.item.retrieve(item_id=item_id)
        content = (await talk.until("conversation.item.retrieved"))["item"]["content"]
        found.append(content[0].get("transcript") or content[0].get("text"))
    return found


def items(talk: Talk) -> list[str]:
    return list(dict.fromkeys(event["item"]["id"] for event in talk.of("conversation.item.done")))


async def closed(talk: Talk) -> tuple[int, str]:
    with pytest.raises(Exception) as raised:  # the client's own class differs between its versions
        while True:
            await talk.next()
    return raised.value.rcvd.code, raised.value.rcvd.reason  # type: ignore[attr-defined]


async def refusal(server: Server, session: str, key: str = "none") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http,
        http.get(f"{server.url}/v1/realtime", params={"session_id": session}) as response,
    ):
        return response.status, (await response.json())["error"]["code"]


async def test_another_orchestrator_goes_on_with_history_and_settings() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one, serving(registry=valkey.url) as other:
        async with talking(one) as talk:
            await talk.connection.session.update(
                session={
                    "type": "realtime",
                    "instructions": "Be brief.",
                    "audio": {"output": {"voice": "bob", "speed": 1.5}, "input": {"format": {"type": "audio/pcmu"}}},
                }
            )
            before = (await talk.until("session.updated"))["session"]
            await talk.say("hello")
            await talk.connection.response.create()
            await talk.until("response.done")
            said = items(talk)
        async with talking(other, session_id=session_id(talk)) as again:
            assert again.events[0]["session"] == before
            assert len(said) == 2
            assert await texts(again, said) == ["hello", "one two three four"]
            await again.say("and now")
            await again.connection.response.create()
            await again.until("response.done")
            assert len(other.responder.requests[-1].history) == 3
            assert other.responder.requests[-1].instructions == "Be brief."
        assert other.value("antiphon_sessions_resumed_total") == 1


async def test_the_newer_connection_wins_and_the_older_is_told() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one, serving(registry=valkey.url) as other:
        async with talking(one) as first:
            await first.say("hello")
            async with talking(one, session_id=session_id(first)) as second:
                assert await closed(first) == (1000, "session_taken")
                assert first.of("error")[-1]["error"]["code"] == "session_taken"
                assert await texts(second, items(first)) == ["hello"]
                async with stored(valkey.url) as store:

                    async def saved() -> bool:
                        record = await store.read(session_id(first))
                        return record is not None and record.epoch == 2 and len(record.history) == 1

                    await until(saved)
                async with talking(other, session_id=session_id(first)) as third:
                    assert await closed(second) == (1000, "session_taken")
                    assert await texts(third, items(first)) == ["hello"]
        assert one.value("antiphon_sessions_ended_total", reason="session_taken") == 2


@pytest.mark.usefixtures("api_keys")
async def test_unknown_expired_and_foreign_sessions_are_refused() -> None:
    config = KEYS | {"assistants": {"default": {"resume_s": 1.0}}}
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url, config=config) as server:
        for unknown in ("sess_0123456789abcdef", "sess_*", "x" * 500, ""):
            assert await refusal(server, unknown, "first-key") == (404, "SESSION_UNKNOWN")
        async with talking(server, key="first-key") as talk:
            assert await refusal(server, session_id(talk), "second-key") == (404, "SESSION_UNKNOWN")
            await talk.say("it goes on")
        assert await refusal(server, session_id(talk), "second-key") == (404, "SESSION_UNKNOWN")
        async with talking(server, key="first-key", session_id=session_id(talk)):
            pass
        await asyncio.sleep(1.1)
        assert await refusal(server, session_id(talk), "first-key") == (404, "SESSION_UNKNOWN")
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(
                f"{server.url}/v1/realtime?session_id=sess_0123456789abcdef",
                protocols=("realtime", "openai-insecure-api-key.first-key"),
            ) as browser,
        ):
            assert (await browser.receive_json())["error"]["code"] == "session_not_found"
            await browser.receive()
            assert browser.close_code == 1008


async def test_emptied_and_lost_redis_are_written_again() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one, serving(registry=valkey.url) as other:
        async with stored(valkey.url) as store, talking(one) as talk:

            async def saved() -> SessionRecord | None:
                record = await store.read(session_id(talk))
                return record if record is not None and len(record.history) == len(items(talk)) else None

            await talk.say("hello")
            await until(saved)
            await store.client.flushall()
            await until(saved)
            await valkey.stop()
            await talk.say("without Redis")
            await talk.connection.response.create()
            await talk.until("response.done")
            await valkey.start()
            await until(saved)
        async with talking(other, session_id=session_id(talk)) as again:
            assert await texts(again, items(talk)) == ["hello", "without Redis", "one two three four"]


async def test_without_redis_a_session_is_resumed_where_it_was() -> None:
    async with serving() as one, serving() as other:
        async with talking(one) as talk:
            await talk.say("hello")
        async with talking(one, session_id=session_id(talk)) as again:
            assert await texts(again, items(talk)) == ["hello"]
        assert await refusal(other, session_id(talk)) == (503, "NO_WORKER")


async def test_what_is_kept_is_an_option() -> None:
    config = {"assistants": {"quiet": {"keep_transcripts": False}, "none": {"resume_s": 0}}}
    async with (
        EmbeddedValkey() as valkey,
        stored(valkey.url) as store,
        serving(registry=valkey.url, config=config) as one,
    ):
        async with talking(one, "quiet") as talk:
            await talk.say("a secret")
        record = await store.read(session_id(talk))
        assert record is not None and record.history == () and not record.transcripts_kept
        assert "a secret" not in record.model_dump_json()
        async with talking(one, session_id=session_id(talk)) as again:
            assert again.events[0]["session"]["model"] == "quiet"
        async with talking(one, "none") as talk:
            await talk.say("nothing of it")
        assert await store.read(session_id(talk)) is None
        assert await refusal(one, session_id(talk)) == (404, "SESSION_UNKNOWN")


async def test_reply_that_a_kill_cut_off_is_kept_as_it_was_heard_and_one_that_was_owed_is_given() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as other, stored(valkey.url) as store:

        async def left(*history: dict[str, Any]) -> str:
            """What an orchestrator that was killed has left behind."""
            async with serving(registry=valkey.url) as template, talking(template) as talk:
                pass
            record = await store.read(session_id(talk))
            assert record is not None
            await store.save(record.model_copy(update={"history": history}), 60.0)
            return session_id(talk)

        asked = {"id": "item_1", "role": "user", "text": "what is the time", "spoken": True, "status": "completed"}
        owed = await left(asked)
        async with talking(other, session_id=owed) as talk:
            await talk.until("response.done")
            assert [item.id for item in other.responder.requests[-1].history] == ["item_1"]
        cut = {"id": "item_2", "role": "assistant", "text": "one two", "spoken": True, "status": "incomplete"}
        broken = await left(asked, cut, {"id": "item_3", "role": "nobody"})
        async with talking(other, session_id=broken) as talk:
            assert await texts(talk, ["item_1", "item_2"]) == ["what is the time", "one two"]
            assert "response.created" not in talk.types()


async def test_a_live_reply_is_saved_as_far_as_it_was_heard() -> None:
    async with EmbeddedValkey() as valkey, stored(valkey.url) as store:
        async with serving("word " * 30, registry=valkey.url) as server, talking(server) as talk:
            await talk.say("hello")
            await talk.connection.response.create()

            async def heard() -> str:
                record = await store.read(session_id(talk))
                last = record.history[-1] if record is not None and record.history else {}
                return str(last["text"]) if last.get("role") == "assistant" and last["text"] else ""

            text = await until(heard)
            assert 0 < len(text.split()) < 30
            assert "response.done" not in talk.types()
            await talk.connection.response.cancel()
            await talk.until("response.done")


async def test_drain_moves_clients_and_nothing_is_lost() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one, serving(registry=valkey.url) as other:
        async with aiohttp.ClientSession() as http:
            url = f"{one.url}/v1/realtime"
            async with http.ws_connect(url, protocols=("realtime", "antiphon.v1")) as socket:
                created = await socket.receive_json()
                assert created["session"]["antiphon"] == {"resume_s": 300.0}
                content = [{"type": "input_text", "text": "hello"}]
                item = {"type": "message", "role": "user", "content": content}
                await socket.send_json({"type": "conversation.item.create", "item": item})
                await socket.send_json({"type": "response.create"})
                while (await socket.receive_json())["type"] != "response.created":
                    pass
                one.admission.drain()
                types, events = [], []
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        events.append(json.loads(message.data))
                        types.append(events[-1]["type"])
                assert socket.close_code == 1012
                assert types[-1] == "antiphon.session.moving"
                assert types.index("response.done") < len(types) - 1
                assert events[-1]["session_id"] == created["session"]["id"]
            assert await refusal(one, created["session"]["id"]) == (503, "DRAINING")
            query = f"?session_id={created['session']['id']}"
            url = f"{other.url}/v1/realtime{query}"
            async with http.ws_connect(url, protocols=("realtime", "antiphon.v1")) as socket:
                assert (await socket.receive_json())["session"]["id"] == created["session"]["id"]
                resumed = await socket.receive_json()
                assert resumed["type"] == "antiphon.session.resumed"
                assert [item["role"] for item in resumed["items"]] == ["user", "assistant"]
                assert resumed["items"][1]["content"][0]["transcript"] == "one two three four"


@contextlib.asynccontextmanager
async def extended(server: Server, session: str = "") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A socket that speaks our extension, to a new session or to this one."""
    query = f"?session_id={session}" if session else ""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.url}/v1/realtime{query}", protocols=("realtime", "antiphon.v1")) as socket,
    ):
        yield socket


async def event(socket: aiohttp.ClientWebSocketResponse, type_: str) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while (told := await socket.receive()).type is not aiohttp.WSMsgType.CLOSE:
            if told.type is aiohttp.WSMsgType.TEXT and (body := told.json())["type"] == type_:
                return body
    raise AssertionError(f"closed with {socket.close_code} before {type_}")


async def ask(socket: aiohttp.ClientWebSocketResponse, text: str) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    await socket.send_json({"type": "conversation.item.create", "item": item})
    await socket.send_json({"type": "response.create", "response": {"instructions": "Be brief."}})


async def rest_of(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    async with asyncio.timeout(PATIENCE_S):
        return [json.loads(told.data) async for told in socket if told.type is aiohttp.WSMsgType.TEXT]


async def test_a_client_that_asks_again_at_once_is_moved_and_answered_there() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one, serving(registry=valkey.url) as other:
        async with extended(one) as socket:
            session = (await event(socket, "session.created"))["session"]["id"]
            await ask(socket, "hello")
            await event(socket, "response.created")
            one.admission.drain()
            assert (await event(socket, "response.done"))["response"]["status"] == "completed"
            await ask(socket, "and again")
            told = [body["type"] for body in await rest_of(socket)]
            assert socket.close_code == 1012
            assert told[-1] == "antiphon.session.moving"
            assert "conversation.item.done" in told
            assert "response.created" not in told
        async with extended(other, session) as socket:
            assert (await event(socket, "antiphon.session.resumed"))["reply_owed"]
            done = await event(socket, "response.done")
            assert done["response"]["output"][0]["content"][0]["transcript"] == "one two three four"
        assert len(one.responder.requests) == len(other.responder.requests) == 1
        asked = other.responder.requests[0]
        assert asked.instructions == "Be brief."
        assert [getattr(item, "text", "") for item in asked.history] == ["hello", "one two three four", "and again"]
        async with extended(other, session) as socket:
            assert not (await event(socket, "antiphon.session.resumed"))["reply_owed"]


async def test_who_speaks_while_the_server_drains_is_heard_there_and_answered_elsewhere() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one, serving(registry=valkey.url) as other:
        async with talking(one) as talk:
            await talk.append(silence(200) + tone(400))
            await talk.until("input_audio_buffer.speech_started")
            one.admission.drain()
            await talk.append(tone(400) + silence(1000))
            assert await closed(talk) == (1012, "draining")
            (heard,) = talk.of("conversation.item.input_audio_transcription.completed")
            assert heard["transcript"] == "what is the time"
            assert not one.responder.requests
        async with talking(other, session_id=session_id(talk)) as again:
            await again.until("response.done")
        assert [getattr(item, "text", "") for item in other.responder.requests[0].history] == ["what is the time"]
        assert len(other.responder.requests) == 1


async def test_who_only_has_things_written_down_is_moved_between_two_of_them() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one:
        async with (
            one.client() as client,
            client.realtime.connect(extra_query={"intent": "transcription"}) as connection,
        ):
            talk = Talk(connection)
            await talk.until("session.created")
            one.admission.drain()
            await talk.append(silence(200) + tone(600) + silence(1000) + tone(100))
            assert await closed(talk) == (1012, "draining")
            assert talk.of("conversation.item.input_audio_transcription.completed")


async def test_a_client_without_transcripts_kept_is_answered_before_it_is_moved() -> None:
    config = {"assistants": {"default": {"keep_transcripts": False}}}
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url, config=config) as one:
        async with extended(one) as socket:
            await event(socket, "session.created")
            one.admission.drain()
            await ask(socket, "hello")
            await event(socket, "response.done")
            assert (await rest_of(socket))[-1]["type"] == "antiphon.session.moving"


async def test_whoever_takes_a_session_over_waits_for_the_one_before() -> None:
    """At once where that one let go, milliseconds where it is told, the bound where it cannot say anything."""
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one, serving(registry=valkey.url) as other:
        loop = asyncio.get_running_loop()

        async def first_word_s(server: Server, session: str) -> float:
            began_s = loop.time()
            async with extended(server, session) as socket:
                await ask(socket, "hello")
                await event(socket, "response.created")
                return loop.time() - began_s

        async with talking(one) as talk:
            await talk.say("hello")
        assert await first_word_s(other, session_id(talk)) < OWNED_S
        async with talking(one, session_id=session_id(talk)) as talk:
            await talk.say("I am still here")
            assert await first_word_s(other, session_id(talk)) < OWNED_S
            assert await closed(talk) == (1000, "session_taken")
        async with stored(valkey.url) as store:
            killed = await store.claim(session_id(talk), "somebody who was killed", 60.0)
            assert killed is not None and killed.released
            assert await first_word_s(other, session_id(talk)) > OWNED_S


async def test_an_owner_that_was_stopped_for_a_while_says_nothing_before_it_has_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the reply goes on where it was: no word of it is lost."""
    async with EmbeddedValkey() as valkey, serving("word " * 40, registry=valkey.url) as server:
        may_ask = asyncio.Event()

        def late(whole: Any) -> Any:
            async def ask(*told: Any) -> Any:
                await may_ask.wait()
                return await whole(*told)

            return ask

        async with extended(server) as socket:
            await event(socket, "session.created")
            await ask(socket, "hello")
            await event(socket, "response.output_audio_transcript.delta")
            monkeypatch.setattr(SessionStore, "renew", late(SessionStore.renew))
            monkeypatch.setattr(SessionStore, "save_all", late(SessionStore.save_all))
            await asyncio.sleep(OWNED_S + 0.1)
            while True:
                try:
                    async with asyncio.timeout(0.2):
                        await socket.receive()
                except TimeoutError:
                    break
            monkeypatch.undo()
            may_ask.set()
            done = await event(socket, "response.done")
            assert len(done["response"]["output"][0]["content"][0]["transcript"].split()) == 40


async def test_stock_client_moves_by_itself() -> None:
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url) as one, serving(registry=valkey.url) as other:
        codes: list[int] = []
        async with one.client() as client:
            seen: list[Any] = []

            def again(event: Any) -> Any:
                codes.append(event.close_code)
                client.websocket_base_url = other.url.replace("http", "ws") + "/v1"
                return {"extra_query": {"session_id": seen[0].session.id}}

            manager = client.realtime.connect(model="default", on_reconnecting=again, initial_delay=0.01)
            async with asyncio.timeout(PATIENCE_S), manager as connection:
                async for event in connection:
                    seen.append(event)
                    if event.type == "session.created" and len(seen) == 1:
                        one.admission.drain()
                    elif event.type == "session.created":
                        break
        assert codes == [1012]
        assert seen[0].session.id == seen[-1].session.id


async def test_saving_is_rare_and_never_on_the_way_of_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedValkey() as valkey, serving("word " * 40, registry=valkey.url) as server:
        saves: list[float] = []
        whole = SessionStore.save_all

        async def slow(store: SessionStore, records: Any) -> list[bool]:
            saves.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.3)
            return await whole(store, records)

        monkeypatch.setattr(SessionStore, "save_all", slow)
        async with talking(server) as talk:
            await talk.say("hello")
            await talk.connection.response.create()
            await talk.until("response.done")
            took = len(saves)
        reply_s = len(talk.of("response.output_audio.delta")) * 0.02
        assert took <= 5 + reply_s / holds.SAVE_S


async def test_a_session_that_is_too_long_is_not_written_and_goes_on_here() -> None:
    tool = {"type": "function", "name": "big", "parameters": {"type": "object", "description": "x" * 2**20}}
    async with EmbeddedValkey() as valkey, stored(valkey.url) as store, serving(registry=valkey.url) as server:
        async with talking(server) as talk:
            await talk.connection.session.update(session={"type": "realtime", "tools": [tool]})
            await talk.until("session.updated")
            await talk.say("hello")

        async def forgotten() -> bool:
            return await store.read(session_id(talk)) is None

        await until(forgotten)
        async with talking(server, session_id=session_id(talk)) as again:
            assert again.events[0]["session"]["tools"] == [tool | {"description": ""}]


async def test_a_session_that_cannot_be_written_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    half_a_character = "one \ud83d two"
    async with EmbeddedValkey() as valkey, serving(half_a_character, registry=valkey.url) as server:
        async with extended(server) as broken, extended(server) as whole:
            await event(broken, "session.created")
            await event(whole, "session.created")
            await ask(broken, "hello")
            await event(broken, "response.done")
            await asyncio.sleep(OWNED_S + 0.5)
            for socket in (whole, broken):
                await ask(socket, "are you still there")
                assert (await event(socket, "response.done"))["response"]["status"] == "completed"
        told = [record for record in caplog.records if record.message == "a session cannot be kept"]
        assert len(told) == len({record.session_id for record in told}) == 2  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def keeping(url: str) -> AsyncIterator[sessions.SessionKeeper]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_client, "TIMEOUT_S", PATIENCE_S)  # a busy machine is waited for
        keeper = sessions_of(OrchestratorConfig(), url)
    try:
        yield keeper
    finally:
        await keeper.aclose()


async def left_behind(store: SessionStore, count: int) -> list[str]:
    """Sessions of an orchestrator that is gone."""
    ids = [sessions.new_session_id() for _ in range(count)]
    said = ({"id": "item_1", "role": "user", "text": "x" * 20_000},)
    for start in range(0, count, 50):
        records = [
            SessionRecord(session_id=one, owner="gone", epoch=1, assistant="default", settings={"a": 1}, history=said)
            for one in ids[start : start + 50]
        ]
        await store.save_all([Save(record, 300.0) for record in records])
    return ids


async def test_all_clients_of_an_orchestrator_that_died_may_come_at_once() -> None:
    async with EmbeddedValkey() as valkey, stored(valkey.url) as store, keeping(valkey.url) as keeper:
        ids = await left_behind(store, 400)
        taken = await asyncio.gather(*(keeper.resume(one, "") for one in ids))
        assert [hold.record.session_id for hold in taken] == ids
        assert all(hold.epoch == 2 for hold in taken)


async def test_of_two_that_ask_for_one_session_at_once_the_later_owner_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the answer to the earlier one comes last."""
    async with EmbeddedValkey() as valkey, stored(valkey.url) as store, keeping(valkey.url) as keeper:
        (session,) = await left_behind(store, 1)
        whole, later = SessionStore.claim, asyncio.Event()

        async def claim(store: SessionStore, *told: Any) -> Any:
            claimed = await whole(store, *told)
            assert claimed is not None
            if claimed.record.epoch == 2:
                await later.wait()
            return claimed

        async def resume() -> holds.Hold:
            hold = await keeper.resume(session, "")
            later.set()
            return hold

        monkeypatch.setattr(SessionStore, "claim", claim)
        both = await asyncio.gather(resume(), resume())
        first, second = sorted(both, key=lambda hold: hold.epoch)
        assert (first.epoch, second.epoch) == (2, 3)
        told: list[str] = []
        first.attach(lambda: ({}, ()), lambda: told.append("first"))
        second.attach(lambda: ({}, ()), lambda: told.append("second"))
        assert told == ["first"]
        assert second.confirmed or not second.alone
        assert not first.confirmed


async def test_a_session_that_ended_while_it_was_written_stays_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedValkey() as valkey, stored(valkey.url) as store, keeping(valkey.url) as keeper:
        may_write, begun = asyncio.Event(), asyncio.Event()
        whole = SessionStore.save_all

        async def slow(store: SessionStore, saves: Any) -> list[bool]:
            begun.set()
            await may_write.wait()
            return await whole(store, saves)

        monkeypatch.setattr(SessionStore, "save_all", slow)
        monkeypatch.setattr(sessions, "_BATCH", 1)
        ids = [sessions.new_session_id() for _ in range(2)]
        opened = [keeper.open(one, "", "default") for one in ids]
        for hold in opened:
            hold.attach(lambda: ({"a": 1}, ()), lambda: None)
        running = asyncio.create_task(keeper.run())
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
            ending = asyncio.gather(*(hold.end() for hold in opened))
            await asyncio.sleep(0.1)
            may_write.set()
            await ending
        await asyncio.sleep(0.5)
        running.cancel()
        await asyncio.wait((running,))
        assert [await store.read(one) for one in ids] == [None, None]
        with pytest.raises(AntiphonError):
            await keeper.resume(ids[0], "")


async def test_nothing_of_sessions_that_are_over_stays_in_memory() -> None:
    async with EmbeddedValkey() as valkey, stored(valkey.url) as store, keeping(valkey.url) as keeper:

        async def come_and_go(count: int) -> None:
            for session in await left_behind(store, count):
                hold = await keeper.resume(session, "")
                hold.attach(lambda: ({"a": 1}, ()), lambda: None)
                await hold.end()

        await come_and_go(20)  # connections, caches
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        await come_and_go(200)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 200 * 1000, "each had said 20,000 characters"


def parts_of_sessions() -> list[object]:
    return [thing for thing in gc.get_objects() if isinstance(thing, (holds.Hold, Connection, Conversation))]


async def test_nothing_of_connections_that_are_over_stays_in_memory() -> None:
    before = parts_of_sessions()  # other tests' own
    config = {"assistants": {"default": {"resume_s": 0.2}}}
    async with EmbeddedValkey() as valkey, serving(registry=valkey.url, config=config) as server:

        async def come_twice() -> None:
            async with extended(server) as socket:
                session = (await event(socket, "session.created"))["session"]["id"]
                await ask(socket, "hello")
                await event(socket, "response.created")
                async with extended(server, session) as newer:
                    await event(newer, "antiphon.session.resumed")

        for _ in range(5):
            await asyncio.gather(*(come_twice() for _ in range(10)))
        async with asyncio.timeout(PATIENCE_S):
            while len(parts_of_sessions()) > len(before):
                await asyncio.sleep(0.2)
                gc.collect()


async def test_a_client_that_comes_back_has_its_place_though_its_old_connection_still_hangs() -> None:
    config = {"server": {"max_sessions": 1, "max_sessions_per_key": 1}}
    async with serving(config=config) as server, extended(server) as hanging:
        session = (await event(hanging, "session.created"))["session"]["id"]
        async with extended(server, session) as socket:  # nobody answers on the old one, where the end is waited for
            assert (await event(socket, "session.created"))["session"]["id"] == session
            async with aiohttp.ClientSession() as http, http.get(f"{server.url}/v1/realtime") as response:
                assert (await response.json())["error"]["code"] == "WORKER_FULL"


async def test_whose_a_thousand_sessions_are_is_asked_in_parts_and_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, at a slow Redis, they would take longer than an owner may answer unasked."""
    async with EmbeddedValkey() as valkey, keeping(valkey.url) as keeper:
        whole, asked, all_asked = SessionStore.renew, list[int](), asyncio.Event()

        async def slow(store: SessionStore, told: Any) -> Any:
            asked.append(len(told))
            if sum(asked) == 1000:
                all_asked.set()
            await all_asked.wait()
            return await whole(store, told)

        monkeypatch.setattr(SessionStore, "renew", slow)
        opened = [keeper.open(sessions.new_session_id(), "", "default") for _ in range(1000)]
        async with asyncio.timeout(PATIENCE_S):
            await keeper._renew()
        assert sum(asked) == len(opened) and len(asked) > 1
