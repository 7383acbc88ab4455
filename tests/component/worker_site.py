"""Placed workers as processes of their own, their registry, and the part of an orchestrator that finds them."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from registry_cluster import NAMESPACE, PATIENT
from test_orchestrator_load_on_miss import Orchestrator

from antiphon.contracts.models import ModelSpec, revision_digest
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.records import ModelRecord, ModelRef, ResidentModel, Want
from antiphon.registry.writer import RegistryWriter
from antiphon.worker.config import WorkerConfig
from antiphon.worker.server import Worker

WARM = ("warm", "in_use")


def own(spec: ModelSpec) -> ModelRecord:
    """The catalogue's record of a model with one revision."""
    return ModelRecord.of(spec, digest=revision_digest(spec))


class Site:
    """What one test runs against."""

    def __init__(self, registry: EmbeddedValkey) -> None:
        self.url = url = registry.url
        self.lose = registry.stop
        self.writer = RegistryWriter(url, NAMESPACE, adopt="local")
        self.orchestrator = Orchestrator("one", url)
        self.orchestrator.fleet.deadlines = PATIENT

    def place(self, worker: str, *specs: ModelSpec) -> None:
        refs = (ModelRef(name=spec.name, digest=revision_digest(spec)) for spec in specs)
        self.writer.put_want(worker, Want(hold=tuple(refs)))

    def held(self, worker: str, spec: ModelSpec) -> ResidentModel | None:
        known = self.orchestrator.reader.snapshot.workers.get(worker)
        lease = known.lease if known is not None else None
        return lease.resident(spec.name, revision_digest(spec)) if lease is not None else None

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await self.orchestrator.reader.changed(self.orchestrator.reader.snapshot.version)

    async def has(self, worker: str, spec: ModelSpec, condition: Callable[[ResidentModel], Any]) -> ResidentModel:
        """What the worker says of the model, once it says this."""
        await self.until(lambda: (held := self.held(worker, spec)) is not None and condition(held))
        held = self.held(worker, spec)
        assert held is not None
        return held

    async def warm(self, worker: str, spec: ModelSpec) -> ResidentModel:
        return await self.has(worker, spec, lambda held: held.state in WARM)

    async def gone(self, worker: str, spec: ModelSpec) -> None:
        await self.until(lambda: self.held(worker, spec) is None)

    @contextlib.asynccontextmanager
    async def worker(self, name: str, **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
        """A worker, told by its environment; killed at the end if it still runs."""
        told = {"WORKER_ID": name, "PORT": 0, "METRICS_PORT": 0, "REDIS_URL": self.url, "NAMESPACE": NAMESPACE}
        told |= {"MAX_STREAMS": 64, "LOG_LEVEL": "ERROR", "LOUDNESS_LUFS": "none"} | settings
        environment = {f"ANTIPHON_WORKER_{key}": str(value) for key, value in told.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "antiphon.worker", env=os.environ | environment
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()

    def worker_here(self, name: str, **settings: Any) -> Worker:
        """A worker in this process, to be entered."""
        told: dict[str, Any] = {"worker_id": name, "port": 0, "metrics_port": None, "redis_url": self.url}
        return Worker(WorkerConfig(**told | {"namespace": NAMESPACE, "loudness_lufs": None} | settings))


@contextlib.asynccontextmanager
async def site() -> AsyncIterator[Site]:
    async with EmbeddedValkey() as valkey:
        made = Site(valkey)
        tasks = [asyncio.create_task(made.writer.run()), asyncio.create_task(made.orchestrator.reader.run())]
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await made.orchestrator.fleet.aclose()
            await made.orchestrator.channels.aclose()
