"""The operator's work queue, in virtual time."""

import asyncio

import pytest

from antiphon_operator.queueing import BURST_S, FIRST_RETRY_S, LONGEST_RETRY_S, Key, WorkQueue

pytestmark = [pytest.mark.unit, pytest.mark.looptime]

A, B = Key("WorkerPool", "default", "a"), Key("WorkerPool", "default", "b")


async def take(queue: WorkQueue, within_s: float = 0.0) -> Key | None:
    try:
        async with asyncio.timeout(within_s + 0.001):
            return await queue.take()
    except TimeoutError:
        return None


async def test_a_key_is_there_once_however_often_it_is_added() -> None:
    queue = WorkQueue()
    for _ in range(5):
        queue.add(A)
    queue.add(B)
    assert len(queue) == 2
    assert {await take(queue), await take(queue)} == {A, B}
    assert await take(queue) is None


async def test_a_key_that_is_touched_while_it_is_worked_on_comes_again_and_never_twice_at_a_time() -> None:
    queue = WorkQueue()
    queue.add(A)
    assert await take(queue) == A
    queue.add(A)
    assert await take(queue, 1) is None
    queue.finish(A)
    assert await take(queue) == A


async def test_a_delayed_key_comes_when_it_is_due_or_earlier_when_it_is_wanted_earlier() -> None:
    queue = WorkQueue()
    queue.add(A, 10)
    queue.add(B, 5)
    assert await take(queue, 4) is None
    assert await take(queue, 1) == B
    queue.add(A, 1)
    queue.add(A, 8)
    assert await take(queue, 1) == A
    queue.finish(A)
    assert await take(queue, 20) is None


async def test_what_fails_comes_again_later_each_time_and_at_once_after_it_went_well() -> None:
    queue = WorkQueue()
    queue.add(A)
    delays = []
    for _ in range(12):
        assert await take(queue, LONGEST_RETRY_S) == A
        delays.append(queue.finish(A, failed=True))
    assert delays[:3] == [FIRST_RETRY_S, FIRST_RETRY_S * 2, FIRST_RETRY_S * 4]
    assert delays[-1] == LONGEST_RETRY_S
    assert await take(queue, LONGEST_RETRY_S) == A
    queue.finish(A)
    queue.add(A)
    assert await take(queue) == A
    assert queue.finish(A, failed=True) == FIRST_RETRY_S


async def test_who_waits_is_woken_by_what_is_added() -> None:
    queue = WorkQueue()
    waiting = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(1)
    for key in (A, B, Key("Registry", "default")):
        queue.add(key)
    async with asyncio.timeout(0.01):
        assert {each.name for each in await asyncio.gather(*waiting)} == {"a", "b", ""}
    assert queue.due == 0


async def test_what_is_touched_in_a_burst_is_taken_together_and_the_registry_at_once() -> None:
    queue = WorkQueue()
    registry = Key("Registry", "default")
    queue.touch(A)
    queue.touch(registry)
    assert await take(queue) == registry
    await asyncio.sleep(BURST_S / 2)
    queue.touch(A)
    assert await take(queue, BURST_S / 2) == A
    queue.finish(A)
    assert await take(queue, 1) is None
