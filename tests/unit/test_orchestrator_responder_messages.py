"""What a responder makes of a history."""

import logging

import pytest

from antiphon.conversation.items import FunctionCall, FunctionCallOutput, Message
from antiphon.conversation.ports import ReplyRequest, TextDelta, Tool
from antiphon.orchestrator.config import ChatConfig, EchoConfig
from antiphon.orchestrator.responders import EchoResponder, make_responder
from antiphon.orchestrator.responders.chat import ChatResponder
from antiphon.orchestrator.responders.echo import NOTHING_SAID
from antiphon.orchestrator.responders.messages import NO_ANSWER_YET, chat_messages, chat_tools

pytestmark = pytest.mark.unit


def test_messages_keep_their_order_and_the_words_that_were_heard() -> None:
    history = (
        Message("a", "user", "What is the weather?", spoken=True),
        Message("b", "assistant", "It will be sunny in", spoken=True, status="incomplete"),
        Message("c", "user", "No, tomorrow."),
    )
    assert chat_messages("Be brief.", history) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": "It will be sunny in"},
        {"role": "user", "content": "No, tomorrow."},
    ]


def test_messages_without_a_word_are_left_out() -> None:
    history = (Message("a", "user", "Hello."), Message("b", "assistant", " ", spoken=True, status="incomplete"))
    assert chat_messages("", history) == [{"role": "user", "content": "Hello."}]


def test_calls_of_one_reply_are_one_message_and_their_answers_follow_at_once() -> None:
    history = (
        FunctionCall("a", "call_1", "light", '{"on": true}'),
        FunctionCall("b", "call_2", "heating"),
        Message("c", "user", "Hurry up."),
        FunctionCallOutput("d", "call_1", "done"),
    )
    called, first, second, user = chat_messages("", history)
    assert [call["id"] for call in called["tool_calls"]] == ["call_1", "call_2"]
    assert called["tool_calls"][0]["function"] == {"name": "light", "arguments": '{"on": true}'}
    assert called["tool_calls"][1]["function"]["arguments"] == "{}"
    assert first == {"role": "tool", "tool_call_id": "call_1", "content": "done"}
    assert second == {"role": "tool", "tool_call_id": "call_2", "content": NO_ANSWER_YET}
    assert user["content"] == "Hurry up."


def test_a_call_that_was_broken_off_is_left_out() -> None:
    call = FunctionCall("b", "call_1", "light", '{"on', status="incomplete")
    assert chat_messages("", (Message("a", "user", "Light!"), call)) == [{"role": "user", "content": "Light!"}]


def test_an_answer_without_its_call_is_left_out_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert chat_messages("", (FunctionCallOutput("a", "call_9", "done"),)) == []
    assert [record.__dict__["call_id"] for record in caplog.records] == ["call_9"]


def test_tools_and_their_choice_are_passed_through_as_chat_completions_name_them() -> None:
    body = chat_tools([Tool("light", "Switch it.", {})], {"type": "function", "name": "light"})
    assert body["tools"][0]["function"]["name"] == "light"
    assert body["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert body["tool_choice"] == {"type": "function", "function": {"name": "light"}}
    assert chat_tools([Tool("light", "", {})], "required")["tool_choice"] == "required"
    assert chat_tools([], "auto") == {}


@pytest.mark.parametrize(
    ("prefix", "texts", "reply"),
    [
        ("", ["Hello.", "Good night."], "Good night."),
        ("You said:", ["Hello."], "You said: Hello."),
        ("", [], NOTHING_SAID),
        ("", ["Hello.", "  "], "Hello."),
    ],
)
async def test_echo_says_the_last_words_of_the_user(prefix: str, texts: list[str], reply: str) -> None:
    history = [Message(f"u{index}", "user", text) for index, text in enumerate(texts)]
    history.append(Message("a", "assistant", "Something else."))
    parts = [part async for part in EchoResponder(prefix).respond(ReplyRequest("s", history))]
    assert parts == [TextDelta(reply)]


async def test_the_configuration_picks_the_responder() -> None:
    assert isinstance(make_responder(EchoConfig()), EchoResponder)
    chat = make_responder(ChatConfig(url="http://127.0.0.1:1/v1", model="m"))
    assert isinstance(chat, ChatResponder)
    await chat.aclose()
