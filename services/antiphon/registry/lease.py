"""A worker's own lease: said every second, forgotten three seconds after it was said last."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import redis.asyncio as redis
from redis.exceptions import RedisError

from antiphon.registry.client import Connect, open_client
from antiphon.registry.keys import BEAT_S, LEASE_S, STREAM_ENTRIES, Keys
from antiphon.registry.records import Lease

logger = logging.getLogger(__name__)

# KEYS: lease, leases. ARGV: worker, incarnation, lease as JSON, TTL in ms, entries to keep. 0: another incarnation's.
_RENEW = """
local held = redis.call('GET', KEYS[1])
if held then
  local ok, lease = pcall(cjson.decode, held)
  if ok and type(lease) == 'table' and lease.incarnation ~= ARGV[2] then return 0 end
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '0-*', 'worker', ARGV[1], 'lease', ARGV[3])
return 1
"""

# KEYS: lease, leases. ARGV: worker, incarnation, entries to keep.
_RELEASE = """
local held = redis.call('GET', KEYS[1])
if not held then return 0 end
local ok, lease = pcall(cjson.decode, held)
if ok and type(lease) == 'table' and lease.incarnation ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '0-*', 'worker', ARGV[1], 'lease', '')
return 1
"""


class LeaseKeeper:
    """Keeps one worker's lease alive for as long as `run` does.

    Args:
        redis_url: The registry.
        namespace: Of the registry's keys.
        worker_id: Unique in the namespace; a pod's name.
        lease: Gives what the worker says of itself now; called at every beat, on the loop.
        on_replaced: Called once when another process holds the lease that was ours: drain and leave.
        connect: Opens its client.
    """

    def __init__(
        self,
        redis_url: str,
        namespace: str,
        worker_id: str,
        lease: Callable[[], Lease],
        on_replaced: Callable[[], None] | None = None,
        connect: Connect = open_client,
    ) -> None:
        self._client: redis.Redis = connect(redis_url, namespace=namespace)
        self._worker = worker_id
        self._lease = lease
        self._on_replaced = on_replaced
        self._keys = Keys(namespace)
        self._nudged = asyncio.Event()
        self._state = "new"  # new, held, waiting (another incarnation's is alive), away (no Redis), replaced

    @property
    def held(self) -> bool:
        """Whether the lease was written at the last beat."""
        return self._state == "held"

    def nudge(self) -> None:
        """Say what changed at once instead of at the next beat. Never blocks."""
        self._nudged.set()

    async def run(self) -> None:
        """Renew the lease until cancelled, then take it back.

        Never raises for want of Redis: it tries again at every beat. A live lease of another incarnation under this id
        is waited out. Returns, after `on_replaced`, when another incarnation has taken a lease that was held here.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time()
        try:
            while self._state != "replaced":
                self._nudged.clear()
                await self._beat()
                if loop.time() >= deadline:  # not after a nudge: the beat keeps its own time
                    deadline = max(deadline + BEAT_S, loop.time())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self._nudged.wait()
        finally:
            await self._release()

    async def _beat(self) -> None:
        lease = self._lease()
        keys = (self._keys.lease(self._worker), self._keys.leases)
        arguments = (self._worker, lease.incarnation, lease.model_dump_json(), round(LEASE_S * 1000), STREAM_ENTRIES)
        was_held = self._state in ("held", "lost")
        try:
            written = await self._client.eval(_RENEW, len(keys), *keys, *arguments)
        except (RedisError, OSError) as error:
            self._become("lost" if was_held else "away", type(error).__name__)
            return
        if written:
            self._become("held")
        elif was_held:
            self._become("replaced")
            if self._on_replaced is not None:
                self._on_replaced()
        else:
            self._become("waiting")

    def _become(self, state: str, cause: str = "") -> None:
        if state == self._state:
            return
        self._state = state
        message, level = _SAID[state]
        logger.log(level, message, extra={"worker": self._worker, "cause": cause})

    async def _release(self) -> None:
        keys = (self._keys.lease(self._worker), self._keys.leases)
        try:
            async with asyncio.timeout(1.0):
                if self._state == "held":
                    incarnation = self._lease().incarnation
                    await self._client.eval(_RELEASE, len(keys), *keys, self._worker, incarnation, STREAM_ENTRIES)
                await self._client.aclose()
        except (RedisError, OSError) as error:
            # TimeoutError is an OSError. The lease ends by itself.
            logger.info("lease left to expire", extra={"worker": self._worker, "cause": type(error).__name__})


_SAID = {
    "held": ("lease held", logging.INFO),
    "waiting": ("another process holds this worker's lease: waiting until it ends", logging.WARNING),
    "away": ("registry out of reach: trying again at every beat", logging.WARNING),
    "lost": ("registry out of reach: the lease will lapse; trying again at every beat", logging.WARNING),
    "replaced": ("another process took this worker's lease: leaving", logging.ERROR),
}
