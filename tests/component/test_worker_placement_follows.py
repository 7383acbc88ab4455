"""What a worker reads of the registry: its placement, every change of it, and nothing that must not be believed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from antiphon.contracts.models import ModelSpec
from antiphon.registry.client import open_client
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.keys import Keys
from antiphon.registry.placement import Placement, PlacementReader
from antiphon.registry.records import ModelRecord, ModelRef, Want
from antiphon.registry.writer import RegistryWriter
from antiphon.worker.config import WorkerConfig
from antiphon.worker.server import Worker

pytestmark = [pytest.mark.component, pytest.mark.timeout(60)]

NAMESPACE = "test"


def record(name: str) -> ModelRecord:
    return ModelRecord.of(ModelSpec(name=name, task="tts", engine="mock"))


def hold(*names: str) -> Want:
    return Want(hold=tuple(ModelRef(name=name) for name in names))


class Followed:
    """A writer, a reader, and what the reader told."""

    def __init__(self, url: str) -> None:
        self.client: Any = open_client(url, block_s=10)
        self.keys = Keys(NAMESPACE)
        self.writer = RegistryWriter(url, NAMESPACE)
        self.reader = PlacementReader(url, NAMESPACE, "w1", self.take)
        self.told: list[Placement] = []
        self.changed = asyncio.Event()

    def take(self, placement: Placement) -> None:
        self.told.append(placement)
        self.changed.set()

    async def until(self, condition: Callable[[Placement], bool]) -> Placement:
        async with asyncio.timeout(10):
            while not (self.told and condition(self.told[-1])):
                self.changed.clear()
                await self.changed.wait()
        return self.told[-1]


@contextlib.asynccontextmanager
async def followed() -> AsyncIterator[Followed]:
    async with EmbeddedValkey() as valkey:
        made = Followed(valkey.url)
        tasks = [asyncio.create_task(made.writer.run()), asyncio.create_task(made.reader.run())]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await made.client.aclose()


async def test_a_worker_is_told_of_what_concerns_it_and_of_nothing_else() -> None:
    async with followed() as made:
        made.writer.set_models([record("a"), record("b")])
        made.writer.put_want("w1", hold("a"))
        first = await made.until(lambda placement: placement.want == hold("a"))
        assert set(first.models) == {"a", "b"} and first.epoch == made.writer.epoch
        made.writer.put_want("w2", hold("b"))
        made.writer.put_want("w1", hold("a", "b"))
        await made.until(lambda placement: placement.want == hold("a", "b"))
        made.writer.set_models([record("a")])
        await made.until(lambda placement: set(placement.models) == {"a"})
        assert all(placement.want != hold("b") for placement in made.told)


async def test_a_stale_epoch_and_an_emptied_registry_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with followed() as made:
        made.writer.set_models([record("a")])
        made.writer.put_want("w1", hold("a"))
        said = await made.until(lambda placement: placement.want == hold("a"))
        # Somebody with an older epoch writes over it, past the script that would refuse it.
        async with made.client.pipeline(transaction=True) as pipe:
            pipe.hset(made.keys.meta, "epoch", str(said.epoch - 1))
            pipe.hset(made.keys.want, "w1", hold().model_dump_json())
            fields = {"nonce": "x", "kind": "want", "name": "w1", "value": "{}"}
            pipe.xadd(made.keys.changes, fields, "0-*")
            await pipe.execute()
        async with asyncio.timeout(10):
            while "epoch is older" not in caplog.text + "".join(str(getattr(r, "cause", "")) for r in caplog.records):
                await asyncio.sleep(0.05)
        assert made.told[-1].want == hold("a")
        await made.client.flushall()
        again = hold("a", "b")
        made.writer.put_want("w1", again)
        await made.until(lambda placement: placement.want == again)
        assert all(placement.want in (hold("a"), again) and "a" in placement.models for placement in made.told[1:])


async def test_a_record_that_cannot_be_read_leaves_what_was_known() -> None:
    async with followed() as made:
        made.writer.set_models([record("a")])
        made.writer.put_want("w1", hold("a"))
        said = await made.until(lambda placement: placement.want == hold("a"))
        async with made.client.pipeline(transaction=True) as pipe:
            pipe.hset(made.keys.want, "w1", '{"hold": 7}')
            pipe.hset(made.keys.models, mapping={"a": "{", "b": record("b").model_dump_json()})
            fields = {"nonce": "x", "kind": "models", "name": "b", "value": "{}"}
            pipe.xadd(made.keys.changes, fields, "0-*")
            await pipe.execute()
        told = await made.until(lambda placement: "b" in placement.models)
        assert told.models["a"] == said.models["a"] and told.want == said.want


async def test_a_worker_is_ready_when_it_was_placed_and_holds_what_it_should() -> None:
    async with EmbeddedValkey() as valkey:
        writer = RegistryWriter(valkey.url, NAMESPACE, adopt="local")
        writer.set_models([record("a"), record("b")])
        writing = asyncio.create_task(writer.run())
        config = WorkerConfig(worker_id="w1", port=0, metrics_port=None, redis_url=valkey.url, namespace=NAMESPACE)
        try:
            async with Worker(config) as worker, grpc.aio.insecure_channel(worker.address) as channel:
                health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
                async with asyncio.timeout(10):
                    while len(worker.models.views()) < 2:
                        await asyncio.sleep(0.02)
                status = (await health.Check(health_pb2.HealthCheckRequest())).status
                assert status == health_pb2.HealthCheckResponse.NOT_SERVING
                writer.put_want("w1", hold("a"))
                async for answer in health.Watch(health_pb2.HealthCheckRequest(), timeout=10):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        break
                assert worker.models.view("a").state == "warm" and worker.models.view("b").state == "absent"
                assert worker.lease().epoch == writer.epoch
        finally:
            writing.cancel()
            await asyncio.wait((writing,))
