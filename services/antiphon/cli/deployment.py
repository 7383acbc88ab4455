"""A registry, workers and an orchestrator on this machine, as one thing that starts and ends."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from redis.exceptions import RedisError

from antiphon.adapters.discovery import find_engine
from antiphon.adapters.weights import resolve
from antiphon.cli.children import Child
from antiphon.cli.embedded import UpOptions, complete_config, wants_own_registry
from antiphon.cli.orchestrators import ANTIPHON, Orchestrators, shared_port
from antiphon.cli.placement import want_of
from antiphon.cli.running import Running
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.models import ModelSpec
from antiphon.contracts.status import from_call
from antiphon.contracts.urls import without_secrets
from antiphon.contracts.v1.models_pb2 import DescribeModelRequest
from antiphon.contracts.v1.models_pb2_grpc import ModelsStub
from antiphon.orchestrator.config import OrchestratorConfig, RegistryConfig
from antiphon.orchestrator.workers.channels import WorkerChannels
from antiphon.registry.client import open_client
from antiphon.registry.embedded import EmbeddedValkey
from antiphon.registry.records import Lease, ModelRecord, Want, WorkerRecord
from antiphon.registry.snapshot import RegistryReader, Snapshot
from antiphon.registry.writer import RegistryWriter

POOL = "local"
_CACHE = "models"
GRACE_S = 5.0
"""For running conversations, once it is told to end; then for running streams."""
_STOP_S = GRACE_S + 7.0
"""For a child to end: its grace, and what it needs to let go of everything."""
_ASK_S = 3.0
_REACH_S, _POLL_S = 5.0, 0.2
"""How long a registry that others keep may take to answer; how often it is asked."""


@dataclass(frozen=True, slots=True)
class _Living:
    """A worker that keeps its lease."""

    record: WorkerRecord
    lease: Lease
    want: Want | None
    """None: it is not placed yet."""

    def should_hold(self, model: str) -> bool:
        """Whether the model is to be held here."""
        return self.want is None or any(held.name == model for held in self.want.hold)


class Deployment:
    """What runs, and how to reach it."""

    def __init__(
        self, config: OrchestratorConfig, reader: RegistryReader, orchestrators: Orchestrators, workers: list[Child]
    ) -> None:
        self.config = config
        self.orchestrators = orchestrators
        self.workers = workers
        self._reader = reader

    @property
    def url(self) -> str:
        """Where the orchestrators listen; empty before they do."""
        return self.orchestrators.url

    @property
    def children(self) -> list[Child]:
        """All of its processes but the registry."""
        return [*self.orchestrators.children, *self.workers]

    @property
    def snapshot(self) -> Snapshot:
        """What the registry says now."""
        return self._reader.snapshot

    def loading(self) -> dict[str, float]:
        """How far each model is on its way, 0 to 1: on the worker, of those that should hold it, that is last."""
        names = [spec.name for spec in self.config.models if spec.residency.policy != "OnDemand"]
        workers = self._workers()
        if not workers:
            return dict.fromkeys(names, 0.0)
        holders = {name: [worker.lease for worker in workers if worker.should_hold(name)] for name in names}
        return {name: min(_progress(lease, name) for lease in leases) for name, leases in holders.items() if leases}

    async def ready(self) -> None:
        """Wait until it takes calls: every model loaded, the orchestrators listening.

        Raises:
            AntiphonError: When a model cannot be loaded, or an orchestrator does not come up.
        """
        await self.orchestrators.listening()
        await self.loaded()
        await self.orchestrators.ready()
        for child in self.children:
            child.settled = True

    async def loaded(self) -> None:
        """Wait until every worker holds what it should.

        Raises:
            AntiphonError: LOAD_FAILED when one cannot, with the cause.
        """
        snapshot = self.snapshot
        while min(self.loading().values(), default=1.0) < 1.0:
            for worker in self._workers():
                failed = next((model for model in worker.lease.models if model.state == "failed"), None)
                if failed is not None:
                    raise AntiphonError(Reason.LOAD_FAILED, await self._cause(worker.record.address, failed.name))
            snapshot = await self._reader.changed(snapshot.version)

    def _workers(self) -> list[_Living]:
        snapshot = self.snapshot
        return [
            _Living(worker.record, worker.lease, worker.want)
            for worker in snapshot.workers.values()
            if worker.lease is not None
        ]

    async def _cause(self, address: str, model: str) -> str:
        """Why a worker could not load a model, in its own words."""
        file = self.config.workers.token_file
        channels = WorkerChannels("" if file is None else (await asyncio.to_thread(file.read_text)).strip())
        try:
            with channels.use(address) as channel:
                stub = ModelsStub(channel)  # type: ignore[no-untyped-call]
                request = DescribeModelRequest(name=model)
                status = await stub.DescribeModel(request, metadata=channels.metadata, timeout=_ASK_S)
                return f"The model {model} cannot be loaded: {status.message}"
        except grpc.RpcError as error:
            raise from_call(error) from error
        finally:
            await channels.aclose()


def _progress(lease: Lease, name: str) -> float:
    model = lease.resident(name)
    if model is None:
        return 0.0
    return 1.0 if model.state in ("warm", "in_use") else min(model.progress, 0.99)


@asynccontextmanager
async def deployed(options: UpOptions, warn: Callable[[str], None]) -> AsyncIterator[Deployment]:
    """Everything started; not yet ready. Leaving the block, or cancelling it, ends all of it within the grace.

    Args:
        options: What to start.
        warn: Told, in a sentence, of what goes wrong and is mended.

    Raises:
        AntiphonError: For options or a file that are not valid, or a part that does not start.
    """
    config = complete_config(options)
    for spec in config.models:
        find_engine(spec.task, spec.engine)  # or say at once what is not installed, of those loaded on demand too
    async with AsyncExitStack() as stack:
        valkey: EmbeddedValkey | None = None
        if wants_own_registry(config, options):
            valkey = await stack.enter_async_context(EmbeddedValkey())
            config = config.model_copy(update={"registry": config.registry.model_copy(update={"url": valkey.url})})
        else:
            await _reach(config.registry)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-up-")))
        reader = RegistryReader(config.registry.url, config.registry.namespace)
        logs = options.data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        server = config.server
        if options.orchestrators > 1:
            port = stack.enter_context(shared_port(server.host, server.port))
            server = server.model_copy(update={"port": port})
        served = config.model_copy(update={"server": server})
        orchestrators = Orchestrators(served, options.orchestrators, folder, logs, warn)
        workers = [_worker(config, options, number, logs, warn) for number in range(1, options.workers + 1)]
        deployment = Deployment(config, reader, orchestrators, workers)
        running = Running(options.data_dir, config.registry.url, config.registry.namespace)
        async with asyncio.TaskGroup() as tasks:
            kept = [tasks.create_task(_write(deployment, options.data_dir / _CACHE), name="registry-writer")]
            kept += [tasks.create_task(reader.run(), name="registry-reader")]
            if valkey is not None:
                kept += [tasks.create_task(_keep(valkey, warn), name="registry-server")]
            kept += [tasks.create_task(child.supervise(), name=child.name) for child in deployment.children]
            try:
                with running.noted():
                    yield deployment
            finally:
                await _stop(deployment)
                for task in kept:
                    task.cancel()


async def _reach(registry: RegistryConfig) -> None:
    """Wait for a registry that others keep. Raises `AntiphonError(NO_WORKER)` when it does not answer in time."""
    client, trouble = open_client(registry.url, namespace=registry.namespace), ""
    try:
        async with asyncio.timeout(_REACH_S):
            while True:
                try:
                    await client.ping()
                    return
                except (RedisError, OSError) as error:
                    trouble = str(error).rstrip(".")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        message = f"The registry at {without_secrets(registry.url)} does not answer: {trouble or 'it says nothing'}."
        raise AntiphonError(Reason.NO_WORKER, message) from None
    finally:
        await client.aclose()


async def _keep(registry: EmbeddedValkey, warn: Callable[[str], None]) -> None:
    """Start a registry that has ended again; it is filled within a second or two, and calls go on meanwhile."""
    while True:
        status = await registry.wait()
        warn(f"The registry ended (status {status}); it is started again.")
        await registry.start()


async def _write(deployment: Deployment, cache: Path) -> None:
    """Keep catalogue, membership and placement true; what each model can do is told once its weights are there."""
    config = deployment.config
    catalogue = [ModelRecord.of(spec) for spec in config.models]

    def place(lease: Lease) -> Want:
        return want_of(catalogue, lease)

    writer = RegistryWriter(config.registry.url, config.registry.namespace, adopt=POOL, place=place)
    writer.set_models(catalogue)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run(), name="registry-run")
        await deployment.loaded()
        catalogue[:] = [await _described(spec, cache) for spec in config.models]
        writer.set_models(catalogue)


async def _described(spec: ModelSpec, cache: Path) -> ModelRecord:
    if spec.residency.policy == "OnDemand":
        return ModelRecord.of(spec)  # its weights may not be there yet
    files = await resolve(spec.artifact, cache, lambda _: None)
    engine = find_engine(spec.task, spec.engine)
    return ModelRecord.of(spec, await asyncio.to_thread(engine.describe, files, spec.engine_config))


async def _stop(deployment: Deployment) -> None:
    """First the orchestrators, which end the calls; then the workers, which are then idle."""
    await asyncio.gather(*(child.stop(_STOP_S, urge_s=GRACE_S) for child in deployment.orchestrators.children))
    await asyncio.gather(*(child.stop(_STOP_S) for child in deployment.workers))


def _worker(
    config: OrchestratorConfig, options: UpOptions, number: int, logs: Path, warn: Callable[[str], None]
) -> Child:
    name = f"worker-{number}"
    told = {
        "WORKER_ID": name,
        "PORT": "0",
        "METRICS_PORT": "0",
        "MODELS": "[]",  # the registry says what there is
        "REDIS_URL": config.registry.url,
        "NAMESPACE": config.registry.namespace,
        "CACHE": str(options.data_dir / _CACHE),
        "DRAIN_TIMEOUT_S": str(GRACE_S),
    }
    if config.workers.token_file is not None:
        told["TOKEN_FILE"] = str(config.workers.token_file)
    environment = {f"ANTIPHON_WORKER_{key}": value for key, value in told.items()}
    return Child(name, [*ANTIPHON, "worker"], environment=environment, log=_fresh(logs / f"{name}.log"), warn=warn)


def _fresh(log: Path) -> Path:
    log.write_bytes(b"")
    return log
