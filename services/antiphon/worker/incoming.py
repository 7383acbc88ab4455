"""What a caller sends on a stream, and the manners of ending a call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self

WAITING = 16
"""Messages that wait for the handler; then the caller waits."""
LINGER_S = 1.0
"""How long a call that went well waits for its caller to close its side."""
QUIET_S, HEAR_OUT_S = 0.02, 0.2
"""A call that failed ends once its caller was quiet for the first, or after the second: it should go on elsewhere."""

_END = object()


class Incoming:
    """The messages of a request stream, read ahead by a task of its own; an async context manager and iterator.

    A call must not end while its caller is sending: in grpc.aio, a write that crosses the end of the call replaces the
    status that the worker gave, and what the caller has not read yet, by INTERNAL. So what still comes is heard out.

    Args:
        requests: The stream, of which nothing was read yet. An exception in it is raised where it is its turn.
    """

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests
        self._queue: asyncio.Queue[Any] = asyncio.Queue(WAITING)
        self._ended = False
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to read."""
        self._reading = asyncio.create_task(self._read(), name="read")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """The next message. Cancelling loses none."""
        item = _END if self._ended else await self._queue.get()
        if item is _END:
            self._ended = True
            raise StopAsyncIteration
        if isinstance(item, Exception):
            raise item
        return item

    async def linger(self) -> None:
        """Drop what comes until the caller closes its side, at most for `LINGER_S`."""
        await self._drop(LINGER_S, LINGER_S)

    async def hear_out(self) -> None:
        """Drop what comes until the caller is quiet, at most for `HEAR_OUT_S`."""
        await self._drop(QUIET_S, HEAR_OUT_S)

    async def _drop(self, quiet_s: float, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                while not self._ended:
                    async with asyncio.timeout(quiet_s):
                        self._ended = await self._queue.get() is _END

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                await self._queue.put(request)
        except Exception as error:
            await self._queue.put(error)
        await self._queue.put(_END)
