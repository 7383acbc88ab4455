"""Workers that announce themselves where there is no operator: members while they are heard, and a minute longer."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from registry_simulation import SimulatedRedis, VirtualLoop

from antiphon.registry.keys import Keys
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.records import Lease
from antiphon.registry.writer import FORGET_S, RegistryWriter

pytestmark = pytest.mark.unit

Play = Callable[[SimulatedRedis], Awaitable[None]]


def played(play: Play) -> None:
    """Play it in virtual time, beside a writer that adopts."""

    async def main() -> None:
        redis = SimulatedRedis(random.Random(1))
        writer = RegistryWriter("redis://", "ns", adopt="local", epoch_floor=0, connect=redis.connect("writer"))
        writing = asyncio.create_task(writer.run())
        await play(redis)
        writing.cancel()
        await asyncio.wait((writing,))

    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def members(redis: SimulatedRedis) -> set[str]:
    return {name.decode() for name in redis.hgetall(Keys("ns").workers)}


def announced(redis: SimulatedRedis, worker: str) -> "asyncio.Task[None]":
    lease = Lease(worker=worker, incarnation=worker, address=f"{worker}:1")
    return asyncio.create_task(
        LeaseKeeper("redis://", "ns", worker, lambda: lease, connect=redis.connect(worker)).run()
    )


async def killed(redis: SimulatedRedis, *workers: "asyncio.Task[None]") -> None:
    """They end without a word."""
    redis.cut |= {"w0", "w1"}
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)


def test_the_last_worker_that_was_killed_is_forgotten_as_any_other() -> None:
    async def play(redis: SimulatedRedis) -> None:
        running = [announced(redis, worker) for worker in ("w0", "w1")]
        await asyncio.sleep(5)
        assert members(redis) == {"w0", "w1"}
        await killed(redis, *running)
        await asyncio.sleep(FORGET_S / 2)
        assert members(redis) == {"w0", "w1"}
        await asyncio.sleep(FORGET_S / 2 + 10)
        assert members(redis) == set()

    played(play)


def test_workers_are_heard_again_after_the_registry_was_emptied() -> None:
    async def play(redis: SimulatedRedis) -> None:
        running = announced(redis, "w0")
        await asyncio.sleep(30)
        redis.empty()
        await asyncio.sleep(2 * FORGET_S)
        assert members(redis) == {"w0"}
        running.cancel()
        await asyncio.wait((running,))
        await asyncio.sleep(2)
        assert members(redis) == set()

    played(play)
