"""Opens Redis clients: one place that knows their timeouts."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from antiphon.contracts.errors import AntiphonError, Reason

TIMEOUT_S = 0.5
"""For a command and for a connection: who asks goes on without Redis after that, and tries again by itself."""


def open_client(url: str, *, block_s: float = 0.0) -> "redis.Redis":
    """A client that answers in bytes and never retries by itself: each caller has its own rhythm.

    Args:
        url: `redis://` or `rediss://`, with user, password and database where needed.
        block_s: How long its commands may block on the server's side: a tail needs a client of its own.

    Raises:
        AntiphonError: `INVALID_REQUEST` for a URL that redis-py does not understand.
    """
    try:
        client: redis.Redis = redis.Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=TIMEOUT_S + block_s,
            socket_connect_timeout=TIMEOUT_S,
            protocol=2,
        )
    except ValueError as error:
        raise AntiphonError(Reason.INVALID_REQUEST, f"The registry's URL is not one that works: {error}.") from error
    pool = client.connection_pool
    pool.connection_class = type("Connection", (_Cancellable, pool.connection_class), {})
    return client


class _Cancellable:
    """A connection whose caller can be cancelled at any moment.

    redis-py sends through `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes just as the
    bytes are gone (github.com/python/cpython/issues/86296): a loop of commands would then run for ever.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """As redis-py's; raises what it swallowed."""
        task = asyncio.current_task()
        assert task is not None
        requests = task.cancelling()
        await super().send_packed_command(command, check_health)  # type: ignore[misc]
        if task.cancelling() > requests:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise asyncio.CancelledError


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream."""

    stream: str
    position: str
    fields: Mapping[bytes, bytes]


async def read_streams(
    client: "redis.Redis", positions: Mapping[str, str], *, block_s: float, count: int = 1000
) -> list[Entry]:
    """The entries after these positions, in order within each stream; empty when none came within `block_s`.

    Raises `RedisError` or `OSError` when Redis does not answer.
    """
    streams: dict[Any, Any] = dict(positions)
    reply: Any = await client.xread(streams, count=count, block=round(block_s * 1000))
    return [
        Entry(stream.decode(), position.decode(), fields or {})
        for stream, entries in reply or ()
        for position, fields in entries
    ]
