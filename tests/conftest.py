"""What holds for every test: a category, a time limit for unit tests, and no task left behind."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Generator

import pytest

CATEGORIES = ("unit", "contract", "component", "arch", "cluster")
UNIT_LIMIT_S = 2.0
"""Of the processor, not of the clock: a busy machine fails nobody. Who waits for ever meets the limit of every test."""
SETTLE_S = 1.0


def pytest_configure() -> None:
    # looptime asks for the event loop around every test, plain functions too; without this answer asyncio would make
    # one there that nobody closes.
    asyncio.set_event_loop(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marks = [name for name in CATEGORIES if item.get_closest_marker(name)]
        if len(marks) != 1:
            raise pytest.UsageError(f"{item.nodeid} needs one category of {', '.join(CATEGORIES)}; it has {marks}")
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "leaves_no_task")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    begun_s = time.process_time()
    result = yield
    took_s = time.process_time() - begun_s
    if item.get_closest_marker("unit") and not item.get_closest_marker("timeout") and took_s > UNIT_LIMIT_S:
        pytest.fail(f"it took {took_s:.1f} s of the processor; a unit test has {UNIT_LIMIT_S:g}")
    return result


@pytest.fixture
async def leaves_no_task() -> AsyncIterator[None]:
    """Fail the test whose tasks outlive it and its fixtures."""
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leaked:
        _, leaked = await asyncio.wait(leaked, timeout=SETTLE_S)
    assert not leaked, "tasks left behind: " + ", ".join(f"{task.get_name()} {task.get_coro()}" for task in leaked)
