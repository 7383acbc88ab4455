"""Calls ask Redis nothing: what it is asked while many are served is what it is asked while nobody calls."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from registry_cluster import RATE_HZ, Cluster, cluster, voice

from antiphon.conversation.ports import SynthesisRequest
from antiphon.registry.client import open_client

pytestmark = pytest.mark.component

CALLS = 200
AT_ONCE = 10
TOLD = ("eval", "evalsha", "xread")
"""What a worker says when its streams change, and what tells the readers of it: beside the calls, not on their path."""


@asynccontextmanager
async def monitored(url: str) -> AsyncIterator[Counter[str]]:
    """How often each command was sent since, but not those of scripts."""
    client, asked = open_client(url, block_s=30), Counter[str]()
    async with client.monitor() as monitor:

        async def count() -> None:
            while True:
                command = await monitor.next_command()
                if command["client_type"] != "lua":
                    asked[command["command"].split()[0].lower()] += 1

        counting = asyncio.create_task(count())
        try:
            yield asked
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
    await client.aclose()


async def call(made: Cluster, number: int) -> None:
    request = SynthesisRequest(session_id=f"s{number}", model="default", sample_rate_hz=RATE_HZ)
    stream = made.synthesiser.open(request)
    stream.push_text("w1")
    stream.end()
    samples = 0
    async for part in stream.parts():
        samples += len(getattr(part, "pcm", b"")) // 2
    await stream.aclose()
    assert samples


async def test_two_hundred_calls_ask_redis_nothing() -> None:
    async with cluster(voice()) as made:
        await made.add("a", "b")
        loop = asyncio.get_running_loop()
        async with monitored(made.valkey.url) as asked:
            began = loop.time()
            for first in range(0, CALLS, AT_ONCE):
                await asyncio.gather(*(call(made, number) for number in range(first, first + AT_ONCE)))
            busy, busy_s = Counter(asked), loop.time() - began
            await asyncio.sleep(6)
            idle, idle_s = asked - busy, loop.time() - began - busy_s
    print(f"{CALLS} calls in {busy_s:.1f} s: {dict(busy)}; nobody in {idle_s:.1f} s: {dict(idle)}")
    assert busy["eval"] and idle["eval"], "the monitor hears nothing"
    own = {name: count for name, count in busy.items() if name not in TOLD}
    # A full read every five seconds or so, whoever calls.
    reads = sum(count for name, count in idle.items() if name not in TOLD)
    assert sum(own.values()) <= reads * (busy_s / idle_s + 1) < CALLS, (own, idle)
