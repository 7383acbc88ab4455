"""The registry where it lives in earnest: by TLS and with users of few rights, behind Sentinels, in a cluster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis.asyncio as redis
from redis.crc import key_slot
from redis.exceptions import MovedError
from registry_servers import certificate, cluster, redis_binary, sentinel, server

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

RIGHTS = {
    "operator": "~{antiphon:prod}:* +@all -@dangerous",
    "worker": "~{antiphon:prod}:lease:* ~{antiphon:prod}:leases %R~{antiphon:prod}:* -@all +@read +@write +@scripting "
    "+@transaction +@connection +@stream -@dangerous",
    "orchestrator": "~{antiphon:prod}:session:* ~{antiphon:prod}:claims ~{antiphon:prod}:demand:* %R~{antiphon:prod}:* "
    "-@all +@read +@write +@scripting +@transaction +@connection +@stream -@dangerous",
}


class Everyone:
    """A writer, a worker, a reader and an orchestrator's sessions, each by its own URL."""

    def __init__(self, operator: str, worker: str, orchestrator: str) -> None:
        self.writer = RegistryWriter(operator, NAMESPACE, adopt="local", place=lambda _: HOLD)
        self.writer.set_models([JOE])
        self.writer.set_pools({"local": PoolRecord(workers=1)})
        self.beats = 0
        self.keeper = LeaseKeeper(worker, NAMESPACE, "w", self.lease)
        self.reader = RegistryReader(orchestrator, NAMESPACE)
        self.client = open_client(orchestrator, namespace=NAMESPACE)
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
    async with certificate(tmp_path) as (public, private):
        tls = ("--tls-cert-file", str(public), "--tls-key-file", str(private), "--tls-auth-clients", "no")
        ca = f"?ssl_ca_certs={public}"
        listening = server(
            tmp_path,
            *("--port", "0", "--tls-port", "{port}", *tls),
            binary=redis_binary(),
            url=f"rediss://127.0.0.1:{{port}}{ca}",
        )
        async with listening as made:
            for user, rights in RIGHTS.items():
                await made.client.execute_command("ACL", "SETUSER", user, "on", f">{user}-secret", *rights.split())
            urls = {user: f"rediss://{user}:{user}-secret@127.0.0.1:{made.port}/0{ca}" for user in RIGHTS}
            async with everyone(**urls) as all_of_them:
                await all_of_them.all_is_well()
                for user in ("worker", "orchestrator"):
                    client = open_client(urls[user], namespace=NAMESPACE)
                    with pytest.raises(redis.ResponseError, match="(?i)perm"):
                        await client.hset(Keys(NAMESPACE).models, "ann", "{}")
                    await client.aclose()


async def test_behind_a_sentinel_through_a_failover(tmp_path: Path) -> None:
    plain = ("--port", "{port}", "--repl-diskless-sync-delay", "0")
    async with contextlib.AsyncExitStack() as stack:
        master = await stack.enter_async_context(server(tmp_path, *plain))
        behind = (*plain, "--replicaof", f"127.0.0.1 {master.port}")
        replica = await stack.enter_async_context(server(tmp_path, *behind))
        watching = await stack.enter_async_context(sentinel(tmp_path, master, "registry"))
        async with asyncio.timeout(10):
            while (await replica.client.info("replication"))["master_link_status"] != "up":
                await asyncio.sleep(0.05)
            while not (await watching.client.execute_command("SENTINEL", "REPLICAS", "registry")):
                await asyncio.sleep(0.1)
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watching.port}/registry/0"  # the first one is never there
        async with everyone(url) as all_of_them:
            await all_of_them.all_is_well()
            await master.kill()
            await all_of_them.until(lambda snapshot: snapshot.stale)
            gone_at = all_of_them.beats
            await all_of_them.until(lambda snapshot: not snapshot.stale, within_s=20)
            await all_of_them.all_is_well(beats=gone_at)
            assert (await replica.client.info("replication"))["role"] == "master"


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
