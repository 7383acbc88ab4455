"""Opens Redis clients: one place that knows their timeouts."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, ClusterDownError, MasterDownError, ReadOnlyError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.registry.addresses import Seeds, parse

TIMEOUT_S = 0.5
"""For a command and for a connection: who asks goes on without Redis after that, and tries again by itself."""


_UNREADABLE = "its port or an option cannot be read; write what is special in a password as %XX"

Connect = Callable[..., "redis.Redis"]
"""Opens clients as `open_client` does."""


def open_client(url: str, *, namespace: str = "default", block_s: float = 0.0) -> "redis.Redis":
    """A client that answers in bytes and never retries by itself: each caller has its own rhythm.

    Args:
        url: As `addresses.parse` takes it, with user, password and database where needed.
        namespace: Whose keys it is for: in a cluster, the node that has them is asked.
        block_s: How long its commands may block on the server's side: a tail needs a client of its own.

    Raises:
        AntiphonError: `INVALID_REQUEST` for a URL that does not work.
    """
    address = parse(url)
    try:
        client: redis.Redis = redis.Redis.from_url(
            address.url,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=TIMEOUT_S + block_s,
            socket_connect_timeout=TIMEOUT_S,
            protocol=2,
        )
    except (ValueError, TypeError) as error:
        # What else is said of it may quote a part of a password.
        told = str(error).rstrip(".") if "schemes" in str(error) else _UNREADABLE
        raise AntiphonError(Reason.INVALID_REQUEST, f"The registry's URL is not one that works: {told}.") from None
    pool = client.connection_pool
    bases: tuple[type, ...] = (_Cancellable, pool.connection_class)
    if address.seeds is not None:
        bases = (_Following, *bases)
    traits = {"seeds": address.seeds, "namespace": namespace}
    pool.connection_class = type("Connection", bases, traits)
    return client


class _Following:
    """A connection to whichever server is the master; it asks anew whenever it connects."""

    seeds: Seeds
    namespace: str
    _misled = False

    async def connect(self) -> None:
        """As redis-py's, to the master; first leaves one that said that it is none."""
        if self._misled:
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
        if not self.is_connected:  # type: ignore[attr-defined]
            self.host, self.port = await self.seeds.master(self.namespace, TIMEOUT_S)
            self._misled = False
        await super().connect()  # type: ignore[misc]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's; remembers when the server said that it is not the one to ask."""
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except (AskError, ClusterDownError, MasterDownError, ReadOnlyError):
            self._misled = True
            raise


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


async def after_silence(client: "redis.Redis", stream: str, position: str) -> str:
    """From where to go on with one of our streams that said nothing: from its start, if it began anew below.

    Raises `RedisError` or `OSError` when Redis does not answer.
    """
    last = last_position(await client.xrevrange(stream, count=1))
    return position if sequence_number(last) >= sequence_number(position) else "0-0"


def last_position(entries: Any) -> str:
    """The position of a stream's last entry, as XREVRANGE answers it; `0-0` for a stream without any."""
    return entries[0][0].decode() if entries else "0-0"


def sequence_number(position: str) -> int:
    """Of an entry: those of our streams are `0-<number>`; -1 for any other."""
    milliseconds, _, number = position.partition("-")
    return int(number) if milliseconds == "0" else -1
