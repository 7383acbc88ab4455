"""What one worker is told: the catalogue, and what it should hold of it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from antiphon.registry.client import Connect, last_position, open_client, read_streams
from antiphon.registry.keys import BEAT_S, Keys
from antiphon.registry.records import FORMAT, ModelRecord, RecordReader, Want

LOOK_S = 2.0
"""How often it looks by itself: a stream that began anew says nothing to those who wait beyond its end."""
RETRY_S = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """What the operator says to one worker."""

    epoch: int
    models: Mapping[str, ModelRecord] = field(default_factory=dict)
    want: Want | None = None
    """None: nothing was said of this worker yet."""


class PlacementReader:
    """Tells a worker of its placement, and of every change, for as long as `run` does.

    The stream of changes only says when to read again: a worker reads the catalogue and its own want, and nothing of
    the other workers. While `meta` is missing (an emptied Redis), or has an epoch below one that was seen, what was
    told before stands.

    Args:
        redis_url: The registry.
        namespace: Of its keys.
        worker_id: Whose want is read.
        on_change: Called on the loop with each placement that differs from the one before.
        connect: Opens its clients.
    """

    def __init__(
        self,
        redis_url: str,
        namespace: str,
        worker_id: str,
        on_change: Callable[[Placement], None],
        connect: Connect = open_client,
    ) -> None:
        self._client: redis.Redis = connect(redis_url, namespace=namespace)
        self._tail: redis.Redis = connect(redis_url, namespace=namespace, block_s=BEAT_S)
        self._keys = Keys(namespace)
        self._worker = worker_id
        self._on_change = on_change
        self._records = RecordReader()
        self._told: Placement | None = None
        self._models: Mapping[str, ModelRecord] = {}
        self._models_read: tuple[bytes | None, str] = (None, "")  # the nonce, and the last change, when they were read
        self._position = "0-0"
        self._trouble = ""

    async def run(self) -> None:
        """Follow the registry until cancelled.

        Never raises for want of Redis: what was told before stands, and it tries again.
        """
        try:
            while True:
                try:
                    self._tell(await self._read())
                    await self._until_changed()
                except (RedisError, OSError) as error:
                    self._say(f"registry out of reach: {type(error).__name__}")
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._client.aclose()
            await self._tail.aclose()

    async def _read(self) -> Placement | None:
        """What is said now; None when it is not to be believed. The catalogue is read only when something changed."""
        keys = self._keys
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.meta)
            pipe.hget(keys.want, self._worker)
            pipe.xrevrange(keys.changes, count=1)
            meta, want, last = await pipe.execute()
        self._position = last_position(last)
        epoch = self._epoch(meta)
        if epoch is None:
            return None
        if self._models_read != (read := (meta.get(b"nonce"), self._position)):
            models: Any = await self._client.hgetall(keys.models)
            self._models = self._catalogue(models)
            self._models_read = read
        return Placement(epoch, self._models, self._want(want))

    def _catalogue(self, fields: Mapping[bytes, bytes]) -> Mapping[str, ModelRecord]:
        """The records that can be read; one that cannot stays as it was."""
        models = {}
        for key, value in fields.items():
            name = key.decode(errors="replace")
            record = self._records.read(ModelRecord, name, value) or self._models.get(name)
            if record is not None:
                models[name] = record
        return models

    def _want(self, value: bytes | None) -> Want | None:
        """What is wanted; as before when it cannot be read."""
        if value is None:
            return None
        return self._records.read(Want, self._worker, value) or (self._told.want if self._told is not None else None)

    def _epoch(self, meta: Mapping[bytes, bytes]) -> int | None:
        try:
            epoch, form = int(meta[b"epoch"]), int(meta[b"format"])
        except (KeyError, ValueError):
            self._say("registry is empty or its meta is malformed")
            return None
        if form > FORMAT:
            self._say("registry's format is newer than this worker")
            return None
        if self._told is not None and epoch < self._told.epoch:
            self._say("registry's epoch is older than one seen before")
            return None
        self._say("")
        return epoch

    def _tell(self, placement: Placement | None) -> None:
        if placement is not None and placement != self._told:
            self._told = placement
            self._on_change(placement)

    async def _until_changed(self) -> None:
        """Return when something that concerns this worker has changed, or a while is over."""
        until = asyncio.get_running_loop().time() + LOOK_S
        while asyncio.get_running_loop().time() < until:
            entries = await read_streams(self._tail, {self._keys.changes: self._position}, block_s=BEAT_S)
            if any(self._concerns(entry.fields) for entry in entries):
                return
            if entries:
                self._position = entries[-1].position

    def _concerns(self, fields: Mapping[bytes, bytes]) -> bool:
        kind = fields.get(b"kind")
        return kind in (b"models", b"reset") or (kind == b"want" and fields.get(b"name") == self._worker.encode())

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            logger.warning("placement stands as it was", extra={"worker": self._worker, "cause": trouble})
        self._trouble = trouble
