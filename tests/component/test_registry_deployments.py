"""The registry where it lives in earnest: by TLS and with users of few rights, behind Sentinels, in a cluster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis.asyncio as redis
from redis.crc import key_slot
from redis.exceptions import MovedError
from registry_servers import behind_sentinel, by_tls, cluster

from antiphon.registry.client import open_client
from antiphon.registry.keys import Keys
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.records import Lease, ModelRecord, PoolRecord, RecordReader, SessionRecord, Want
from antiphon.registry.sessions import SessionStore
from antiphon.registry.snapshot import RegistryReader, Snapshot
from antiphon.registry.writer import RegistryWriter

pytestmark = [pytest.mark.component, pytest.mark.timeout(60)]

NAMESPACE = "prod"
JOE = ModelRecord(name="joe", task="tts", engine="piper")
HOLD = Want(hold=({"name": "joe"},))  # type: ignore[arg-type]


class Everyone:
    """A writer, a worker, a reader and an orchestrator's sessions, each by its own URL."""

    def __init__(self, operator: str, worker: str, orchestrator: str) -> None:
        self.writer = RegistryWriter(operator, NAMESPACE, adopt="local", place=lambda _: HOLD)
        self.writer.set_models([JOE])
        self.writer.set_pools({"local": PoolRecord(workers=1)})
        self.beats = 0
        self.keeper = LeaseKeeper(worker, NAMESPACE, "w", self.lease)
        self.reader = RegistryReader(orchestrator, NAMESPACE)
        self.client = open_client(orchestrator, namespace=NAMESPACE, block_s=10)  # a busy machine is waited for
        self.sessions = SessionStore(self.client, Keys(NAMESPACE), RecordReader())

    def lease(self) -> Lease:
        self.beats += 1
        return Lease(worker="w", incarnation="a", address="h:1", streams=self.beats)

    async def until(self, condition: Callable[[Snapshot], bool], within_s: float = 10) -> Snapshot:
        snapshot = self.reader.snapshot
        async with asyncio.timeout(within_s):
            while not condition(snapshot):
                snapshot = await self.reader.changed(snapshot.version)
        return snapshot

    async def all_is_well(self, beats: int = 0) -> None:
        """The worker is heard beating, the operator's part stands, a session changes hands."""
        snapshot = await self.until(lambda known: _beats(known) > beats and not known.stale)
        assert snapshot.models == {"joe": JOE}
        assert snapshot.pools == {"local": PoolRecord(workers=1)}
        await self.until(lambda known: known.workers["w"].want == HOLD)
        record = SessionRecord(session_id="s", owner="one", epoch=1, assistant="default")
        assert await self.sessions.save(record, 60)
        claimed = await self.sessions.claim("s", "two", 60)
        assert claimed is not None and (claimed.record.owner, claimed.record.epoch) == ("two", 2)
        assert not claimed.released
        assert not await self.sessions.save(record, 60)
        assert await self.sessions.forget(claimed.record)


def _beats(snapshot: Snapshot) -> int:
    worker = snapshot.workers.get("w")
    return worker.lease.streams if worker is not None and worker.lease is not None else 0


@contextlib.asynccontextmanager
async def everyone(operator: str, worker: str = "", orchestrator: str = "") -> AsyncIterator[Everyone]:
    made = Everyone(operator, worker or operator, orchestrator or operator)
    tasks = [asyncio.create_task(part.run()) for part in (made.writer, made.keeper, made.reader)]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.client.aclose()


async def test_by_tls_each_with_no_more_rights_than_it_needs(tmp_path: Path) -> None:
    async with by_tls(tmp_path) as where, everyone(where.operator, where.worker, where.orchestrator) as all_of_them:
        await all_of_them.all_is_well()
        for url in (where.worker, where.orchestrator):
            async with redis.Redis.from_url(url) as client:
                with pytest.raises(redis.ResponseError, match="(?i)perm"):
                    await client.hset(Keys(NAMESPACE).models, "ann", "{}")


async def test_behind_a_sentinel_through_a_failover(tmp_path: Path) -> None:
    async with behind_sentinel(tmp_path) as where, everyone(where.operator) as all_of_them:
        assert where.fault is not None
        await all_of_them.all_is_well()
        await where.fault()
        await all_of_them.until(lambda snapshot: snapshot.stale)
        gone_at = all_of_them.beats
        await all_of_them.until(lambda snapshot: not snapshot.stale, within_s=20)
        await all_of_them.all_is_well(beats=gone_at)


async def test_in_a_cluster_also_when_its_slot_moves(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        async with everyone(url) as all_of_them:
            await all_of_them.all_is_well()
            slot = key_slot(Keys(NAMESPACE).meta.encode())
            [owner] = [node for node in nodes if await node.client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)]
            heir = nodes[nodes.index(owner) - 1]
            name = await heir.client.execute_command("CLUSTER", "MYID")
            await heir.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)
            async with owner.client.pipeline(transaction=True) as pipe:  # its keys are lost, as with a FLUSHALL
                pipe.flushall()
                pipe.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)
                await pipe.execute()
            with pytest.raises(MovedError):  # whoever asks next is told once, and then asks the right one
                await all_of_them.sessions.read("s")
            await all_of_them.all_is_well(beats=all_of_them.beats)
            assert await heir.client.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
