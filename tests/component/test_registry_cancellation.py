"""A command to Redis can be cancelled at any moment."""

import asyncio

import pytest

from antiphon.registry.client import open_client
from antiphon.registry.embedded import EmbeddedValkey

pytestmark = pytest.mark.component


async def test_a_cancellation_is_never_swallowed() -> None:
    async with EmbeddedValkey() as valkey:
        client = open_client(valkey.url)

        async def command_for_ever() -> None:
            while True:
                await client.ping()

        for turns in range(40):
            task = asyncio.create_task(command_for_ever())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=2)
            assert done, f"still running after a cancellation at turn {turns} of the loop"
        assert await client.ping()
        await client.aclose()
