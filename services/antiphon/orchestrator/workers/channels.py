"""gRPC channels to workers: one for each address, kept while in use and a while longer."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from antiphon.telemetry.tracing import Metadata, inject

IDLE_S = 60.0
"""A channel that nobody used for so long is closed."""
CLOSE_S = 1.0

# With gRPC's own flow control a client that does not read takes 43 s of audio; with these two, 0.2 to 0.3 s.
_BACK_PRESSURE = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384))
# Workers come back on the same address after a restart: gRPC's own backoff, up to 120 s, would not notice.
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
# Not more often than a worker allows without data (5 s); stream deadlines notice a hung worker sooner.
_KEEPALIVE = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 2_000))


@dataclass(slots=True)
class _Channel:
    channel: grpc.aio.Channel
    users: int = 0
    used_s: float = 0.0


class WorkerChannels:
    """The channels of one orchestrator. Made and used on one event loop.

    Args:
        token: The bearer token that workers ask for; empty: none.
    """

    def __init__(self, token: str = "") -> None:
        self._token = token
        self._channels: dict[str, _Channel] = {}

    @property
    def metadata(self) -> Metadata:
        """What goes with every call: the token, and the trace context of this moment."""
        token = (("authorization", f"Bearer {self._token}"),) if self._token else ()
        return inject(token)

    @contextlib.contextmanager
    def use(self, address: str) -> Iterator[grpc.aio.Channel]:
        """The channel to `host:port`; it is not closed while the block runs."""
        held = self._channels.get(address)
        if held is None:
            options = (*_BACK_PRESSURE, *_RECONNECT, *_KEEPALIVE)
            held = self._channels[address] = _Channel(grpc.aio.insecure_channel(address, options=options))
        held.users += 1
        try:
            yield held.channel
        finally:
            held.users -= 1
            held.used_s = asyncio.get_running_loop().time()

    async def close_idle(self) -> None:
        """Close the channels that nobody has used lately."""
        now = asyncio.get_running_loop().time()
        idle = [a for a, held in self._channels.items() if not held.users and now - held.used_s > IDLE_S]
        for held in [self._channels.pop(address) for address in idle]:  # first: nobody takes one that is to be closed
            await held.channel.close()

    async def aclose(self) -> None:
        """Close all of them; calls that still run are cancelled. Bounded."""
        channels, self._channels = self._channels, {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                for held in channels.values():
                    await held.channel.close()
