"""A whole system whose voice nobody holds at first: one assistant has a fallback that speaks meanwhile, one waits."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from antiphon.testing.system import running

pytestmark = [pytest.mark.component, pytest.mark.timeout(150)]

LOAD_S = 1.5


def voice(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "task": "tts", "engine": "mock", "engineConfig": {"ms_per_word": 60}} | changes


def slow(name: str) -> dict[str, Any]:
    return voice(name, engineConfig={"ms_per_word": 60, "load_ms": round(LOAD_S * 1000)})


CONFIG = {
    "models": [
        voice("small", residency={"policy": "Pinned"}),
        slow("large"),
        slow("huge"),
        {"name": "script", "task": "asr", "engine": "mock", "residency": {"policy": "Pinned"}},
    ],
    "assistants": {
        "anna": {"voice": {"model": "large", "fallback": "small"}},
        "bert": {"voice": {"model": "huge"}},
    },
    "default": {"assistant": "anna"},
}


async def turn(socket: aiohttp.ClientWebSocketResponse) -> tuple[float, list[dict[str, Any]]]:
    """How long a typed turn took to its end, and what was told of loads in it."""
    begun = asyncio.get_running_loop().time()
    content = [{"type": "input_text", "text": "one two three"}]
    item = {"type": "message", "role": "user", "content": content}
    await socket.send_json({"type": "conversation.item.create", "item": item})
    await socket.send_json({"type": "response.create"})
    loading = []
    async with asyncio.timeout(30):
        async for message in socket:
            event = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {"type": "audio"}
            if event["type"] == "antiphon.model.loading":
                loading.append(event)
            elif event["type"] == "response.done":
                assert event["response"]["status"] == "completed", event
                break
    return asyncio.get_running_loop().time() - begun, loading


async def converse(url: str) -> None:
    async with aiohttp.ClientSession() as http:

        def assistant(name: str, *protocols: str) -> Any:
            return http.ws_connect(f"{url}/v1/realtime", protocols=("realtime", *protocols), params={"model": name})

        async with assistant("anna", "antiphon.v1") as anna, assistant("bert", "antiphon.v1") as bert:
            _, loading = await turn(anna)
            assert [(each["model"], each["fallback"]) for each in loading] == [("large", "small")]
            took_s, loading = await turn(bert)
            assert {(each["model"], each["fallback"]) for each in loading} == {("huge", "")} and took_s >= LOAD_S
            assert (await turn(bert))[1] == []
            async with asyncio.timeout(20):
                while (await turn(anna))[1]:
                    await asyncio.sleep(0.1)


def test_a_turn_is_spoken_by_the_fallback_or_waits_and_is_told_of_it(tmp_path: Path) -> None:
    with running(CONFIG, tmp_path, "--workers", "2") as system:
        asyncio.run(converse(system.url))
        loads = [line for line in system.logs().splitlines() if "model warm" in line and "model=large" in line]
        assert len(loads) == 1, system.logs()
