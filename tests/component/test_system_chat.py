"""Assistants that think with an OpenAI-compatible chat server, under `antiphon up`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from antiphon.audio.pcm import Samples
from antiphon.cli.realtime import RealtimeSession, connect
from antiphon.testing.chat_server import ChatServer, ScriptedReply, ScriptedToolCall
from antiphon.testing.speech import require_recordings
from antiphon.testing.system import System, running

pytestmark = [pytest.mark.component, pytest.mark.timeout(180)]

RATE = 24_000
TOOL = {"type": "function", "name": "clock", "description": "Tells the time", "parameters": {"type": "object"}}


def config(url: str) -> dict[str, Any]:
    def assistant(instructions: str) -> dict[str, Any]:
        return {
            "instructions": instructions,
            "responder": {"kind": "chat", "url": url, "model": "scripted", "timeout_s": 2.0},
            "turns": {"silence_duration_ms": 300},
            "apology": "Sorry about that.",
        }

    return {
        "models": [
            {"name": "tones", "task": "tts", "engine": "mock", "engineConfig": {"ms_per_word": 160}},
            {
                "name": "script",
                "task": "asr",
                "engine": "mock",
                "engineConfig": {"texts": ["what time is it", "no stop now"]},
            },
        ],
        "default": {"assistant": "pirate"},
        "assistants": {"pirate": assistant("Speak like a pirate."), "poet": assistant("Speak in verse.")},
    }


@asynccontextmanager
async def talking(system: System, assistant: str = "pirate") -> AsyncIterator[RealtimeSession]:
    async with connect(system.url, assistant=assistant, extension=True) as session:
        streaming = asyncio.create_task(session.stream_microphone())
        try:
            yield session
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)


def speech() -> Samples:
    recording = next(one for one in require_recordings(least_words=3) if 0.9 < len(one.samples()) / 16_000 < 1.6)
    return recording.samples(RATE)


def transcript(done: Any) -> str:
    return str(done.body["response"]["output"][0]["content"][0]["transcript"])


def by_instructions(body: Mapping[str, Any]) -> str:
    return "Arr, matey." if "pirate" in body["messages"][0]["content"] else "A rose is a rose."


async def test_two_assistants_a_tool_a_barge_in_and_a_server_that_hangs(tmp_path: Path) -> None:
    async with ChatServer(by_instructions) as server:
        with running(config(server.url), tmp_path) as system:
            await two_assistants_answer_each_in_their_way(system)
            await a_tool_is_called_and_answered(system, server)
            await a_barge_in_is_seen_by_the_server(system, server)
            await a_server_that_hangs_is_apologised_for(system, server)


async def two_assistants_answer_each_in_their_way(system: System) -> None:
    for assistant, expected in (("pirate", "Arr, matey."), ("poet", "A rose is a rose.")):
        async with talking(system, assistant) as session:
            await session.say_text("Hello.")
            assert transcript(await session.expect("response.done", within_s=15)) == expected


async def a_tool_is_called_and_answered(system: System, server: ChatServer) -> None:
    answers = [ScriptedReply(tool_calls=(ScriptedToolCall("clock", '{"zone": "utc"}'),)), "It is noon."]
    server.script(answers)
    async with talking(system) as session:
        await session.send({"type": "session.update", "session": {"type": "realtime", "tools": [TOOL]}})
        await session.say_text("What time is it?")
        call = await session.expect("response.function_call_arguments.done", within_s=15)
        assert (call.body["name"], call.body["arguments"]) == ("clock", '{"zone": "utc"}')
        await session.expect("response.done", within_s=15)
        output = {"type": "function_call_output", "call_id": call.body["call_id"], "output": "12:00"}
        await session.send({"type": "conversation.item.create", "item": output})
        seen = len(session.events)
        await session.send({"type": "response.create"})
        assert transcript(await session.expect("response.done", since=seen, within_s=15)) == "It is noon."
    assert [message["role"] for message in server.requests[-1]["messages"]] == ["system", "user", "assistant", "tool"]
    assert server.requests[-1]["tools"][0]["function"]["name"] == "clock"


async def a_barge_in_is_seen_by_the_server(system: System, server: ChatServer) -> None:
    words = " ".join(str(number) for number in range(200))
    server.script(ScriptedReply(words, token_delay_s=0.1))
    cancelled = server.cancelled
    async with talking(system) as session:
        session.say(speech())
        await session.expect("response.output_audio.delta", within_s=15)
        await asyncio.sleep(1.0)
        seen = len(session.events)
        session.say(np.concatenate((speech(), speech())))
        truncated = await session.expect("conversation.item.truncated", since=seen, within_s=15)
        await server.until(lambda: server.cancelled > cancelled)
        kept = await history_of(session, truncated.body["item_id"])
        assert 0 < len(kept) < 60 and kept == words.split()[: len(kept)]


async def history_of(session: RealtimeSession, item_id: str) -> list[str]:
    seen = len(session.events)
    await session.send({"type": "conversation.item.retrieve", "item_id": item_id})
    retrieved = await session.expect("conversation.item.retrieved", since=seen, within_s=5)
    return str(retrieved.body["item"]["content"][0]["transcript"]).split()


async def a_server_that_hangs_is_apologised_for(system: System, server: ChatServer) -> None:
    server.script([ScriptedReply("never", hang_after=0), "Back again."])
    async with talking(system) as session:
        await session.say_text("Hello?")
        problem = await session.expect("antiphon.problem", within_s=15)
        assert problem.body["source"] == "responder"
        done = await session.expect("response.done", within_s=15)
        assert (done.body["response"]["status"], transcript(done)) == ("failed", "Sorry about that.")
        seen = len(session.events)
        await session.say_text("Hello?")
        assert transcript(await session.expect("response.done", since=seen, within_s=15)) == "Back again."
