"""Leases, the writer and the snapshot against a real Valkey: what comes, goes, dies and returns."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.exceptions import ConnectionError

from antiphon.cli.tables import staleness
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.metrics import OrchestratorMetrics
from antiphon.registry.client import open_client
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.keys import LEASE_S, Keys
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.records import Lease, ModelRecord, WorkerRecord
from antiphon.registry.snapshot import RegistryReader, Snapshot
from antiphon.registry.writer import RegistryWriter

pytestmark = pytest.mark.component

NAMESPACE = "test"
JOE = ModelRecord(name="joe", task="tts", engine="piper", aliases=("tts-1",))


class Registry:
    """One Valkey, one reader, and whatever a test starts beside them."""

    def __init__(self, valkey: EmbeddedValkey) -> None:
        self.valkey = valkey
        self.client = open_client(valkey.url, block_s=10)  # a busy machine is waited for
        self.keys = Keys(NAMESPACE)
        self.reader = RegistryReader(valkey.url, NAMESPACE)
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, running: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(running))
        return self.tasks[-1]

    def writer(self, **settings: Any) -> RegistryWriter:
        writer = RegistryWriter(self.valkey.url, NAMESPACE, **settings)
        writer.set_models([JOE])
        return writer

    def keeper(self, incarnation: str, on_replaced: Callable[[], None] | None = None, **said: Any) -> LeaseKeeper:
        lease = Lease(worker="w", incarnation=incarnation, address=f"{incarnation}:1", **said)
        return LeaseKeeper(self.valkey.url, NAMESPACE, "w", lambda: lease, on_replaced)

    async def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        snapshot = self.reader.snapshot
        async with asyncio.timeout(15):
            while not condition(snapshot):
                snapshot = await self.reader.changed(snapshot.version)
        return snapshot

    async def stays(self, condition: Callable[[Snapshot], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                snapshot = self.reader.snapshot
                while True:
                    assert condition(snapshot)
                    snapshot = await self.reader.changed(snapshot.version)

    async def holder(self) -> str:
        value = await self.client.get(self.keys.lease("w"))
        return Lease.model_validate_json(value).incarnation if value else ""


@contextlib.asynccontextmanager
async def registry() -> AsyncIterator[Registry]:
    async with asyncio.timeout(60), EmbeddedValkey() as valkey:
        made = Registry(valkey)
        made.start(made.reader.run())
        try:
            yield made
        finally:
            for task in made.tasks:
                task.cancel()
            await asyncio.gather(*made.tasks, return_exceptions=True)
            await made.client.aclose()


def alive(snapshot: Snapshot) -> bool:
    worker = snapshot.workers.get("w")
    return worker is not None and worker.lease is not None


def dead(snapshot: Snapshot) -> bool:
    return not alive(snapshot)


def says(streams: int) -> Callable[[Snapshot], bool]:
    def condition(snapshot: Snapshot) -> bool:
        lease = snapshot.workers["w"].lease
        return lease is not None and lease.streams == streams

    return condition


async def test_a_worker_announces_itself_and_takes_its_lease_back() -> None:
    async with registry() as made:
        made.start(made.writer(adopt="local").run())
        lease = made.start(made.keeper("a", max_streams=4).run())
        snapshot = await made.until(alive)
        assert snapshot.workers["w"].record == WorkerRecord(address="a:1", pool="local")
        assert not snapshot.stale and snapshot.model("tts", "tts-1") == JOE and snapshot.model("asr", "joe") is None
        began = asyncio.get_running_loop().time()
        lease.cancel()
        await made.until(dead)
        assert asyncio.get_running_loop().time() - began < 1  # said, not waited for
        assert not await made.holder()


async def test_a_worker_that_falls_silent_is_dead_after_its_lease() -> None:
    async with registry() as made:
        writer = made.writer()
        writer.put_worker("w", WorkerRecord(address="h:1"))
        made.start(writer.run())
        lease = Lease(worker="w", incarnation="a").model_dump_json()
        await made.client.set(made.keys.lease("w"), lease, px=round(LEASE_S * 1000))
        began = asyncio.get_running_loop().time()
        await made.until(alive)
        await made.until(dead)
        assert LEASE_S - 0.5 < asyncio.get_running_loop().time() - began < LEASE_S + 2
        made.start(made.keeper("b").run())
        assert (await made.until(alive)).workers["w"].lease is not None


async def test_a_nudge_says_it_at_once_and_beats_keep_their_time() -> None:
    async with registry() as made:
        made.start(made.writer(adopt="local").run())
        streams = 0
        keeper = LeaseKeeper(
            made.valkey.url, NAMESPACE, "w", lambda: Lease(worker="w", incarnation="a", address="h:1", streams=streams)
        )
        made.start(keeper.run())
        await made.until(alive)
        began = asyncio.get_running_loop().time()
        for streams in range(1, 9):
            keeper.nudge()
            await made.until(says(streams))
        assert asyncio.get_running_loop().time() - began < 0.9
        await made.stays(alive, LEASE_S + 1)


async def test_redis_dies_and_comes_back_empty() -> None:
    async with registry() as made:
        made.start(made.writer(adopt="local").run())
        made.start(made.keeper("a").run())
        await made.until(alive)
        await made.valkey.stop()
        await made.until(lambda snapshot: snapshot.stale)
        await made.stays(lambda snapshot: alive(snapshot) and snapshot.stale, LEASE_S + 1)
        assert made.reader.snapshot.model("tts", "joe") == JOE
        assert made.reader.age_s > LEASE_S and "this was true" in staleness(made.reader)
        await made.valkey.start()
        began = asyncio.get_running_loop().time()
        await made.until(lambda snapshot: not snapshot.stale)
        assert asyncio.get_running_loop().time() - began < 4
        assert made.reader.age_s < LEASE_S and not staleness(made.reader)
        await made.stays(alive, LEASE_S + 1)


async def test_a_flush_loses_nothing() -> None:
    async with registry() as made:
        writer = made.writer(adopt="local")
        made.start(writer.run())
        made.start(made.keeper("a").run())
        await made.until(alive)
        epoch = writer.epoch
        await made.client.flushall()
        await made.stays(lambda snapshot: alive(snapshot) and snapshot.model("tts", "joe") == JOE, LEASE_S + 2)
        assert not made.reader.snapshot.stale and made.reader.snapshot.epoch >= epoch


async def test_an_emptied_registry_without_its_writer_is_not_believed() -> None:
    async with registry() as made:
        writing = made.start(made.writer(adopt="local").run())
        made.start(made.keeper("a").run())
        await made.until(alive)
        writing.cancel()
        await made.client.flushall()
        await made.until(lambda snapshot: snapshot.stale)
        await made.stays(lambda snapshot: alive(snapshot) and snapshot.model("tts", "joe") == JOE, 2)


async def test_changes_are_pushed_and_removals_too() -> None:
    async with registry() as made:
        writer = made.writer()
        made.start(writer.run())
        await made.until(lambda snapshot: "joe" in snapshot.models)
        began = asyncio.get_running_loop().time()
        writer.set_models([JOE.model_copy(update={"name": "ann"})])
        writer.put_worker("x", WorkerRecord(address="h:1"))
        await made.until(lambda snapshot: set(snapshot.models) == {"ann"} and "x" in snapshot.workers)
        writer.put_worker("x", WorkerRecord(address="h:1", draining=True))
        await made.until(lambda snapshot: snapshot.workers["x"].record.draining)
        writer.remove_worker("x")
        await made.until(lambda snapshot: not snapshot.workers)
        assert asyncio.get_running_loop().time() - began < 2


async def test_a_newcomer_waits_out_the_lease_of_another_process() -> None:
    async with registry() as made:
        first = made.start(made.keeper("a").run())
        while await made.holder() != "a":
            await asyncio.sleep(0.01)
        made.start(made.keeper("b").run())
        await asyncio.sleep(1.5)
        assert await made.holder() == "a"
        first.cancel()
        async with asyncio.timeout(3):
            while await made.holder() != "b":
                await asyncio.sleep(0.05)


async def test_a_process_that_was_replaced_is_told_and_leaves() -> None:
    async with registry() as made:
        replaced = asyncio.Event()
        first = made.start(made.keeper("a", replaced.set).run())
        while await made.holder() != "a":
            await asyncio.sleep(0.01)
        other = Lease(worker="w", incarnation="b").model_dump_json()
        await made.client.set(made.keys.lease("w"), other)
        async with asyncio.timeout(3):
            await replaced.wait()
            await first
        assert await made.holder() == "b"


async def test_a_deposed_writer_is_refused_and_says_so() -> None:
    async with registry() as made:
        old = made.writer(epoch_floor=0)
        writing = made.start(old.run())
        await made.until(lambda snapshot: snapshot.epoch == 1)
        new = made.writer(epoch_floor=0)
        new.set_models([JOE.model_copy(update={"name": "ann"})])
        made.start(new.run())
        with pytest.raises(AntiphonError) as raised:
            async with asyncio.timeout(5):
                await writing
        assert raised.value.reason is Reason.EPOCH_STALE
        snapshot = await made.until(lambda snapshot: set(snapshot.models) == {"ann"})
        assert snapshot.epoch == 2


async def test_an_older_epoch_is_not_believed() -> None:
    async with registry() as made:
        writing = made.start(made.writer(epoch_floor=100).run())
        await made.until(lambda snapshot: snapshot.epoch == 101)
        writing.cancel()
        await made.client.flushall()
        stale = made.writer(epoch_floor=5)
        stale.set_models([])
        made.start(stale.run())
        await made.until(lambda snapshot: snapshot.stale)
        await made.stays(lambda snapshot: snapshot.epoch == 101 and "joe" in snapshot.models, 2)


async def test_malformed_records_are_skipped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    values = [b"", b"{", b"[]", b"\xff\xfe", b'{"name": 1}', b"9" * 10_000_000]
    kinds = ("ModelRecord", "WorkerRecord", "Lease")
    async with registry() as made:
        made.start(made.writer(adopt="local").run())
        made.start(made.keeper("a").run())
        await made.until(alive)
        for number, value in enumerate(values):
            await made.client.hset(made.keys.models, f"bad-{number}", value)
            await made.client.hset(made.keys.workers, f"bad-{number}".encode() + b"\xff", value)
            await made.client.xadd(made.keys.leases, {"worker": f"bad-{number}", "lease": value or b"{"}, id="0-*")
        await made.until(lambda _: all(made.reader.malformed.get(kind) == len(values) for kind in kinds))
        await made.stays(alive, 6)  # past another full read
        assert set(made.reader.snapshot.models) == {"joe"}
        assert made.reader.malformed == dict.fromkeys(kinds, len(values))
        metrics = OrchestratorMetrics(CollectorRegistry())
        metrics.watch_registry(made.reader)
        told = metrics.registry.get_sample_value("antiphon_registry_malformed_records_total", {"kind": "Lease"})
        assert told == len(values)
        said = [record for record in caplog.records if record.name == "antiphon.registry.records"]
        assert len(said) == 4 * len(values)  # the writer reads leases as well


async def test_what_a_newer_or_a_confused_writer_left_is_not_believed() -> None:
    async with registry() as made:
        writing = made.start(made.writer(adopt="local").run())
        made.start(made.keeper("a").run())
        await made.until(alive)
        writing.cancel()
        for meta in ({"format": "99"}, {"format": "x"}, {"epoch": "not a number", "format": "1"}):
            await made.client.hset(made.keys.meta, mapping=meta)
            await made.client.delete(made.keys.models)
            await made.client.delete(made.keys.changes)
            await made.client.xadd(made.keys.changes, {"nonsense": "x"}, id="0-900")
            await made.until(lambda snapshot: snapshot.stale)
            assert made.reader.snapshot.model("tts", "joe") == JOE and alive(made.reader.snapshot)


async def test_a_gap_in_a_stream_is_healed_by_reading_all_again() -> None:
    async with registry() as made:
        writer = made.writer()
        made.start(writer.run())
        await made.until(lambda snapshot: "joe" in snapshot.models)
        ann = JOE.model_copy(update={"name": "ann"})
        async with made.client.pipeline(transaction=True) as pipe:
            pipe.hset(made.keys.models, "ann", ann.model_dump_json())
            pipe.xadd(made.keys.changes, {"kind": "models", "nonce": "x", "name": "lost", "value": ""}, id="0-90")
            await pipe.execute()
        began = asyncio.get_running_loop().time()
        await made.until(lambda snapshot: "ann" in snapshot.models)
        assert asyncio.get_running_loop().time() - began < 2


async def test_the_server_is_gone_when_it_was_stopped() -> None:
    async with EmbeddedValkey() as valkey:
        assert valkey.pid is not None
    assert valkey.pid is None
    client = open_client(valkey.url, block_s=10)
    with pytest.raises(ConnectionError):
        await client.ping()
    await client.aclose()
