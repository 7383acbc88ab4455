"""Threads for what blocks: of a stated number, apart for each kind of work, their queue measured."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from antiphon.telemetry.metrics import WorkerMetrics

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


class Executor:
    """A fixed number of threads. First come, first served: the hops of many streams interleave.

    Args:
        name: Of the threads, and the label of the metric.
        threads: How many hops compute at once.
        metrics: Where the waiting time is counted.
    """

    def __init__(self, name: str, threads: int, metrics: WorkerMetrics) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"antiphon-{name}")
        self._threads = threads
        self._asked = 0
        self._queue_wait = metrics.queue_wait.labels(name)

    @property
    def has_free_thread(self) -> bool:
        """Whether a hop that is asked for now would begin at once."""
        return self._asked < self._threads

    async def run(
        self, hop: Callable[[*Arguments], T], *args: *Arguments, cancel: Callable[[], None] | None = None
    ) -> T:
        """The result of `hop(*args)`, computed in a thread.

        When cancelled it calls `cancel`, which makes the hop end soon, and still waits for it, so that nobody frees
        what a thread is using. A hop that has not begun by then never will.
        """
        asked = time.perf_counter()

        def measured() -> T:
            self._queue_wait.observe(time.perf_counter() - asked)
            return hop(*args)

        future = self._pool.submit(measured)
        self._asked += 1
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            if not future.cancel():
                if cancel is not None:
                    cancel()
                await _end_of(future)
            raise
        finally:
            self._asked -= 1

    async def run_to_end(self, hop: Callable[[], None]) -> None:
        """Run `hop` whatever happens: for letting go. When cancelled, it is done first."""
        future = self._pool.submit(hop)
        cancelled = await _end_of(future)
        if cancelled is not None:
            raise cancelled
        future.result()

    def close(self) -> None:
        """Let the threads end; hops that have not begun are dropped. Does not wait for those that have."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _end_of(future: "Future[T]") -> asyncio.CancelledError | None:
    """Wait for a thread, whatever happens to the waiter; the cancellation that came meanwhile, if one did."""
    ended, cancelled = asyncio.wrap_future(future), None
    while not ended.done():
        try:
            await asyncio.wait((ended,))
        except asyncio.CancelledError as error:
            cancelled = error
    if not ended.cancelled():
        ended.exception()  # seen: whoever wants it asks the future
    return cancelled
