"""Calls through two orchestrators to four workers, all of them processes that a registry alone has brought together."""

import asyncio
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from registry_processes import ASSISTANTS, HOLD, LOAD_MS, WORD_MS, Processes, processes
from registry_servers import REGISTRIES

pytestmark = [pytest.mark.component, pytest.mark.timeout(240)]

REQUESTS = 200
AT_ONCE = 10
WORDS = ("one two", "one two three", "one two three four")
RATE_HZ = 24_000
HELD = ("ann", "bob", "cat")


@pytest.mark.parametrize("kind", REGISTRIES)
async def test_every_call_goes_to_a_worker_that_can_take_it(kind: str, tmp_path: Path) -> None:
    async with REGISTRIES[kind](tmp_path) as where, processes(where, tmp_path) as made:
        fault = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            calls = tasks.create_task(two_hundred_calls(made, fault))
            if where.fault is not None:
                await fault.wait()
                await where.fault()
                await made.until(lambda known: known.stale)
        await made.until(lambda known: not known.stale)
        spoken = await made.spoken()
        print(f"{kind}: {REQUESTS} streamed requests: {dict(calls.result())}; by worker: {told(spoken)}")
        assert sum(calls.result().values()) == REQUESTS == sum(count.total() for count in spoken.values())
        for worker, counts in spoken.items():
            assert set(counts) == set(HOLD[worker]), "every worker that holds a model speaks with it, and no other does"
        for model in HELD:
            assert sum(counts[model] for counts in spoken.values()) == calls.result()[model]
        await ten_callers(made, kind, spoken)


def told(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {worker: dict(sorted(of_worker.items())) for worker, of_worker in counts.items()}


async def two_hundred_calls(made: Processes, fault: asyncio.Event) -> Counter[str]:
    """How many calls each model has answered; `fault` is set when a third of them is over."""
    waiting = iter([*zip(range(REQUESTS), itertools.cycle(HELD), itertools.cycle(made.urls.values()))])
    heard: Counter[str] = Counter()

    async def caller() -> None:
        for number, model, url in waiting:
            await call(made, url, model, WORDS[number % 7 % 3])
            heard[model] += 1
            if heard.total() > REQUESTS / 3:
                fault.set()

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return heard


async def call(made: Processes, url: str, model: str, text: str, speaks: str = "") -> None:
    """One request, whose sound, and header, are those of the model that speaks."""
    speaks = speaks or model
    body = {"model": model, "input": text, "voice": "default", "response_format": "pcm"}
    async with made.http.post(f"{url}/v1/audio/speech", json=body) as response:
        assert response.status == 200, (await response.text(), made.logs())
        assert response.headers["Antiphon-Model"] == speaks
        samples = len(await response.read()) // 2
    assert samples == WORD_MS[speaks] * len(text.split()) * RATE_HZ // 1000


async def ten_callers(made: Processes, kind: str, before: dict[str, Counter[str]]) -> None:
    """All ask at once for what nobody holds: it is loaded once, and each hears the fallback or waits with progress.

    Beside them two who ask for speech alone, of whom the answer's header says that the fallback spoke.
    """
    async with aiohttp.ClientSession() as http:
        whom = [*itertools.islice(itertools.product(range(5), ASSISTANTS), 10)]
        urls = itertools.cycle(itertools.chain.from_iterable(zip(made.urls.values(), made.urls.values(), strict=True)))
        sockets = [
            await http.ws_connect(f"{url}/v1/realtime", protocols=("realtime", "antiphon.v1"), params={"model": name})
            for (_, name), url in zip(whom, urls, strict=False)
        ]
        turns, *_ = await asyncio.gather(
            asyncio.gather(*map(turn, sockets)),
            *(call(made, url, "large", "one two", speaks="ann") for url in made.urls.values()),
        )
        spoken = await made.spoken()
        await made.until(lambda known: "large" in known.index.warm)
        assert [loading for _, loading in await asyncio.gather(*map(turn, sockets[:4]))] == [[], [], [], []]
        for socket in sockets:
            await socket.close()
    loads = await made.loaded()
    [loader] = [worker for worker, counts in loads.items() if counts["large"]]
    fallbacks, waits = [], []
    for (_, name), (took_s, loading) in zip(whom, turns, strict=True):
        fallback = ASSISTANTS[name]["voice"].get("fallback", "")
        assert {(each["model"], each["fallback"]) for each in loading} == {("large", fallback)}
        (fallbacks if fallback else waits).append(took_s)
    print(
        f"{kind}: ten at once for a model that nobody holds: {loads[loader]['large']} load, on {loader}; "
        f"{len(fallbacks)} hear the fallback, the last after {max(fallbacks):.2f} s; "
        f"{len(waits)} wait with progress, the first for {min(waits):.2f} s"
    )
    assert loads[loader]["large"] == 1
    assert min(waits) > LOAD_MS / 1000 * 0.8
    assert sum(spoken[worker]["ann"] - before[worker]["ann"] for worker in spoken) == 5 + len(made.urls)
    assert spoken[loader]["large"] == 5


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
