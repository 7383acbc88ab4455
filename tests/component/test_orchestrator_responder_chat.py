"""The chat responder against a real HTTP server that is slow, wrong or silent on purpose."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import openai
import pytest
from pydantic import SecretStr

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.conversation.items import FunctionCall, FunctionCallOutput, Item, Message
from antiphon.conversation.ports import FunctionCallDelta, ReplyPart, ReplyRequest, TextDelta, Tool, Usage
from antiphon.orchestrator.responders.chat import ChatResponder
from antiphon.testing.chat_server import ChatServer, Script, ScriptedReply, ScriptedToolCall, answer_last

pytestmark = pytest.mark.component

LIGHT = Tool("light", "Switch the light.", {"type": "object", "properties": {"on": {"type": "boolean"}}})


@asynccontextmanager
async def conversing(script: Script, **options: Any) -> AsyncIterator[tuple[ChatServer, ChatResponder]]:
    async with ChatServer(script) as server:
        responder = ChatResponder(server.url, "scripted", **options)
        try:
            yield server, responder
        finally:
            await responder.aclose()


def asking(*history: Item | str, **options: Any) -> ReplyRequest:
    items = [Message(f"i{n}", "user", item) if isinstance(item, str) else item for n, item in enumerate(history)]
    return ReplyRequest("session", items, **options)


def text_of(parts: Sequence[ReplyPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextDelta))


async def test_a_reply_comes_word_by_word_and_its_cost_last() -> None:
    async with conversing("It is noon, I think.") as (server, responder):
        parts = [part async for part in responder.respond(asking("What time is it?", instructions="Be brief."))]
    assert parts[0] == TextDelta("It")
    assert text_of(parts) == "It is noon, I think."
    assert isinstance(parts[-1], Usage)
    assert parts[-1].output_tokens == 5
    assert not parts[-1].truncated
    request = server.requests[0]
    assert request["model"] == "scripted"
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert "temperature" not in request and "max_tokens" not in request and "tools" not in request
    assert server.finished == 1 and server.cancelled == 0


async def test_the_key_settings_and_limits_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async with conversing("Yes.", key=SecretStr("k-1"), temperature=0.5) as (server, responder):
        _ = [part async for part in responder.respond(asking("?", max_output_tokens=20))]
        assert server.authorizations == ["Bearer k-1"]
        assert (server.requests[0]["temperature"], server.requests[0]["max_tokens"]) == (0.5, 20)
        monkeypatch.setenv("OPENAI_API_KEY", "of another server")
        keyless = ChatResponder(server.url, "scripted")
        _ = [part async for part in keyless.respond(asking("?"))]
        await keyless.aclose()
        assert server.authorizations[1] == "Bearer none"


async def test_two_assistants_on_one_server_keep_their_instructions() -> None:
    def script(body: Any) -> str:
        return "Arr!" if "pirate" in body["messages"][0]["content"] else "Good day."

    async with conversing(script) as (_, responder):
        streams = [responder.respond(asking("Hello", instructions=f"Be a {kind}.")) for kind in ("pirate", "butler")]
        replies = await asyncio.gather(*(_collect(stream) for stream in streams))
    assert [text_of(parts) for parts in replies] == ["Arr!", "Good day."]


async def _collect(stream: AsyncIterator[ReplyPart]) -> list[ReplyPart]:
    return [part async for part in stream]


async def test_a_tool_call_and_its_answer() -> None:
    arguments = json.dumps({"on": True, "room": "the kitchen"})

    def script(body: Any) -> ScriptedReply:
        if body["messages"][-1]["role"] == "tool":
            return ScriptedReply(f"The tool says {body['messages'][-1]['content']}.")
        calls = (ScriptedToolCall("light", arguments), ScriptedToolCall("light", "{}"))
        return ScriptedReply("One moment.", tool_calls=calls)

    async with conversing(script) as (server, responder):
        parts = await _collect(responder.respond(asking("Light!", tools=[LIGHT])))
        calls = [part for part in parts if isinstance(part, FunctionCallDelta)]
        ids = list(dict.fromkeys(call.call_id for call in calls))
        assert text_of(parts) == "One moment."
        assert len(ids) == 2
        assert [call.name for call in calls if call.name] == ["light", "light"]
        assert "".join(call.arguments for call in calls if call.call_id == ids[0]) == arguments
        assert server.requests[0]["tools"][0]["function"]["name"] == "light"
        history = (FunctionCall("f", ids[0], "light", arguments), FunctionCallOutput("o", ids[0], "done"))
        answer = await _collect(responder.respond(asking("Light!", *history, tools=[LIGHT])))
    assert text_of(answer) == "The tool says done."
    assert server.requests[1]["messages"][-1]["tool_call_id"] == ids[0]


@pytest.mark.parametrize("how", ["cancelled", "closed", "left"])
async def test_the_server_sees_that_a_reply_is_not_wanted_any_more(how: str) -> None:
    long_reply = ScriptedReply("word " * 500, token_delay_s=0.02)
    async with conversing([long_reply, "Next."]) as (server, responder):
        begun = asyncio.Event()

        async def consume() -> None:
            async with aclosing(responder.respond(asking("Tell me all."))) as parts:
                async for _ in parts:
                    begun.set()
                    if how == "left":
                        return

        if how == "closed":
            parts = responder.respond(asking("Tell me all."))
            await anext(parts)
            await parts.aclose()
        else:
            task = asyncio.create_task(consume())
            await asyncio.wait_for(begun.wait(), 5)
            if how == "cancelled":
                task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() == (how == "cancelled")
        await server.until(lambda: server.cancelled == 1)
        assert server.finished == 0
        assert text_of(await _collect(responder.respond(asking("And now?")))) == "Next."


@pytest.mark.parametrize("hang_after", [0, 2])
async def test_a_silent_server_is_a_timeout_and_is_let_go(hang_after: int) -> None:
    async with conversing(ScriptedReply("one two three", hang_after=hang_after), timeout_s=0.3) as (server, responder):
        began = time.monotonic()
        parts: list[ReplyPart] = []
        with pytest.raises(AntiphonError, match=r"silent for 0\.3 s") as caught:
            async for part in responder.respond(asking("?")):
                parts.append(part)
        assert caught.value.reason is Reason.TIMEOUT
        assert 0.25 < time.monotonic() - began < 5
        assert len(parts) == hang_after
        await server.until(lambda: server.cancelled == 1)


async def test_a_slow_listener_is_not_a_slow_server() -> None:
    async with conversing(ScriptedReply("one two"), timeout_s=0.3) as (_, responder):
        parts = []
        async for part in responder.respond(asking("?")):
            parts.append(part)
            await asyncio.sleep(0.4)
    assert text_of(parts) == "one two"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (ScriptedReply(error_status=500), r"answered 500 \(scripted\)"),
        (ScriptedReply(error_status=401), "Check the assistant's key"),
        (ScriptedReply(error_status=404), "serves the model 'scripted'"),
        (ScriptedReply("one two three", break_after=2), "connection to the chat server"),
        (ScriptedReply(""), "without a word or a call"),
        (ScriptedReply("No", finish_reason="content_filter"), "content filter"),
    ],
)
async def test_a_failure_names_itself_and_never_looks_like_an_answer(script: ScriptedReply, message: str) -> None:
    async with conversing(script) as (_, responder):
        with pytest.raises(AntiphonError, match=message) as caught:
            await _collect(responder.respond(asking("a secret question")))
    assert caught.value.reason is Reason.RESPONDER_FAILED
    assert "secret" not in str(caught.value)


async def test_a_server_that_is_not_there() -> None:
    async with ChatServer() as server:
        url = server.url
    responder = ChatResponder(url, "scripted")
    with pytest.raises(AntiphonError, match="check that it runs") as caught:
        await _collect(responder.respond(asking("?")))
    assert caught.value.reason is Reason.RESPONDER_FAILED
    await responder.aclose()


async def test_a_reply_that_was_cut_says_so() -> None:
    async with conversing(ScriptedReply("Once upon a", finish_reason="length")) as (_, responder):
        parts = await _collect(responder.respond(asking("A story.", max_output_tokens=3)))
    assert isinstance(parts[-1], Usage) and parts[-1].truncated


async def test_the_scripted_server_answers_a_plain_client_whole() -> None:
    async with ChatServer(["First.", answer_last]) as server:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="k") as client:
            asked: Any = [{"role": "user", "content": "Hi there"}]
            answers = [await client.chat.completions.create(model="m", messages=asked) for _ in range(3)]
    assert [answer.choices[0].message.content for answer in answers] == ["First.", "You said: Hi there"] + [
        "You said: Hi there"
    ]
    assert answers[0].usage is not None and answers[0].usage.prompt_tokens == 2


async def test_characters_that_a_server_cuts_in_two_are_whole_again() -> None:
    call = ScriptedToolCall("light", '{"a":"x\ud83d\ude00"}')  # comes in pieces of eight
    async with conversing(ScriptedReply("Fine \ud83d then.", tool_calls=(call,))) as (_, responder):
        parts = [part async for part in responder.respond(asking("Well?", tools=(LIGHT,)))]
    assert text_of(parts) == "Fine \N{REPLACEMENT CHARACTER} then."
    said = [part.arguments for part in parts if isinstance(part, FunctionCallDelta)]
    assert "".join(said) == '{"a":"x\U0001f600"}'
