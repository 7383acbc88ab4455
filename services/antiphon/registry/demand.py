"""What callers asked for and no worker held: said by each orchestrator, for whoever decides what is placed where."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis.asyncio as redis
from redis.exceptions import RedisError

from antiphon.contracts.adapters import Task
from antiphon.registry.client import Connect, open_client
from antiphon.registry.keys import BEAT_S, DEMAND_S, Keys
from antiphon.registry.records import Demand

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Lack:
    demand: Demand
    asked_s: float
    written: int = 0
    """The count that the registry was told."""


class DemandKeeper:
    """Counts what lacked, and tells the registry of it for as long as `run` does.

    Demand that nobody repeated for `DEMAND_S` is over: it expires in the registry, and is counted from zero again.

    Args:
        redis_url: The registry.
        namespace: Of its keys.
        orchestrator: Who says so; unique in the namespace.
        now_ms: Wall clock.
        connect: Opens its client.
    """

    def __init__(
        self,
        redis_url: str,
        namespace: str,
        orchestrator: str,
        now_ms: Callable[[], int] = lambda: round(time.time() * 1000),
        connect: Connect = open_client,
    ) -> None:
        self._client: redis.Redis = connect(redis_url, namespace=namespace)
        self._keys = Keys(namespace)
        self._orchestrator = orchestrator
        self._now_ms = now_ms
        self._lacks: dict[str, _Lack] = {}

    def note(self, task: Task, model: str, reason: str) -> None:
        """One more stream asked for a model that no worker held. Never blocks."""
        now = asyncio.get_running_loop().time()
        lack = self._lacks.get(model)
        if lack is None or now - lack.asked_s > DEMAND_S:
            lack = _Lack(Demand(task=task, model=model, count=0, since_ms=self._now_ms()), now)
            self._lacks[model] = lack
        lack.demand = lack.demand.model_copy(update={"count": lack.demand.count + 1, "reason": reason})
        lack.asked_s = now

    async def run(self) -> None:
        """Write what was noted, every second, until cancelled. Never raises for want of Redis: demand is said again."""
        try:
            while True:
                await asyncio.sleep(BEAT_S)
                try:
                    await self._write()
                except (RedisError, OSError) as error:
                    logger.info("demand not written", extra={"cause": type(error).__name__})
        finally:
            await self._client.aclose()

    async def _write(self) -> None:
        now = asyncio.get_running_loop().time()
        self._lacks = {model: lack for model, lack in self._lacks.items() if now - lack.asked_s <= DEMAND_S}
        for model, lack in self._lacks.items():
            if lack.written == lack.demand.count:
                continue
            count, key = lack.demand.count, self._keys.demand(model)
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hset(key, self._orchestrator, lack.demand.model_dump_json())
                pipe.pexpire(key, round(DEMAND_S * 1000))
                await pipe.execute()
            lack.written = count
