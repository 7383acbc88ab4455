"""A worker as a whole: its server, its models, its lease, and how it ends."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from antiphon.adapters import discovery
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.v1 import (
    models_pb2,
    models_pb2_grpc,
    recognition_pb2,
    recognition_pb2_grpc,
    synthesis_pb2,
    synthesis_pb2_grpc,
)
from antiphon.registry.lease import LeaseKeeper
from antiphon.registry.placement import Placement, PlacementReader
from antiphon.registry.records import Lease, ResidentModel
from antiphon.telemetry.logs import configure_logging
from antiphon.telemetry.metrics import WorkerMetrics, metrics_server
from antiphon.worker.border import Border, read_token
from antiphon.worker.config import WorkerConfig
from antiphon.worker.device import device
from antiphon.worker.executor import Executor
from antiphon.worker.loading import EngineLoader, Loader
from antiphon.worker.models import ModelManager
from antiphon.worker.placement import placed_entries
from antiphon.worker.services import Models, SpeechRecognition, SpeechSynthesis
from antiphon.worker.slots import ModelState, ModelView
from antiphon.worker.streams import Streams

LIVENESS = "liveness"
"""What the health service says of this name is that the worker answers, ready or not, until it is told to go."""
SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (synthesis_pb2, "SpeechSynthesis"),
        (recognition_pb2, "SpeechRecognition"),
        (models_pb2, "Models"),
    )
)
MESSAGE_BYTES = 4 << 20
"""The most that one message may have: text and audio stay far below, and have limits of their own."""
LEAVE_SHARE = 0.7
"""After this part of the drain's time, streams are asked to end at their next clause."""
CUT_S = 1.0
"""How long what is left may take to end once it is cancelled."""
HARD_EXIT_S = 10.0

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # two workers on one port is a mistake, not load balancing
    # A caller that vanished without a word is noticed within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

logger = logging.getLogger(__name__)


class Worker:
    """One worker; an async context manager that serves from entry until exit.

    Args:
        config: All that it is told.
        loader: Brings models in; None: the engines that are installed.
    """

    def __init__(self, config: WorkerConfig, *, loader: Loader | None = None) -> None:
        self.config = config
        self.incarnation = str(uuid.uuid4())
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.port = 0
        """Of gRPC, once entered."""
        self.metrics_port: int | None = None
        self._health = health.aio.HealthServicer()
        self._synthesis_hops = Executor("synthesis", config.synthesis_threads, self.metrics)
        self._recognition_hops = Executor("recognition", config.recognition_threads, self.metrics)
        self._loads = Executor("load", config.load_threads, self.metrics)
        self._closes = Executor("close", 1, self.metrics)
        self._loader = loader or EngineLoader(
            self._loads, self._closes, config.cache, config.loudness_lufs, config.rewrites
        )
        self._keeper: LeaseKeeper | None = None
        self._epoch = 0
        self._placed = asyncio.Event()
        self._device = device()
        self._engines = {entry.name: entry.version for entry in discovery.engines().values()}
        self._must_end = asyncio.Event()
        self._exit = contextlib.AsyncExitStack()
        self.streams = Streams(config.max_streams, self.metrics, on_change=self._nudge)
        self.models = ModelManager(
            config.models,
            self._loader,
            self.metrics,
            memory_budget_mib=config.memory_budget_mib,
            resident_cap=config.resident_cap,
            load_wait_s=config.load_wait_s,
            on_change=self._nudge,
        )

    @property
    def address(self) -> str:
        """`host:port` that others reach it by."""
        host = self.config.advertise_host or self.config.host
        if host in ("0.0.0.0", "::", "[::]"):
            host = socket.gethostname()
        return f"{host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Listen, begin to load what is to be held, and keep the lease.

        Raises:
            AntiphonError: INVALID_REQUEST when it cannot listen as told.
        """
        async with contextlib.AsyncExitStack() as stack:
            for executor in (self._synthesis_hops, self._recognition_hops, self._loads, self._closes):
                stack.callback(executor.close)
            self.metrics_port = stack.enter_context(
                metrics_server(self.metrics.registry, self.config.host, self.config.metrics_port)
            )
            await stack.enter_async_context(self.models)
            server = await self._listen()
            stack.push_async_callback(self._stop, server)
            await stack.enter_async_context(self._background())
            self._exit = stack.pop_all()
        told = {"worker": self.config.worker_id, "address": self.address, "metrics_port": self.metrics_port}
        logger.info("worker listens", extra=told)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop at once: what still runs is cut."""
        await self._exit.__aexit__(kind, error, trace)
        logger.info("worker ended", extra={"worker": self.config.worker_id})

    def drain(self) -> None:
        """Take nothing new from now on, and let `ended` return when the streams are done. Idempotent."""
        self.streams.drain()
        self._must_end.set()

    async def ended(self) -> None:
        """Return when `drain` was asked for and the streams have ended, or the drain's time is over.

        In the last part of it, streams are asked to end at their next clause, so that others go on from there.
        """
        await self._must_end.wait()
        await self._health.enter_graceful_shutdown()
        patience_s = self.config.drain_timeout_s * LEAVE_SHARE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self.streams.ended()
                return
        self.streams.leave()
        try:
            async with asyncio.timeout(self.config.drain_timeout_s - patience_s):
                await self.streams.ended()
        except TimeoutError:
            logger.warning("streams cut at the end of the drain", extra={"streams": len(self.streams)})

    @property
    def _is_placed_by_others(self) -> bool:
        return self.config.redis_url is not None and not self.config.models

    def lease(self) -> Lease:
        """What the worker says of itself now."""
        views = self.models.views()
        held = [view for view in views if view.state is not ModelState.ABSENT]
        used_mib = sum(view.memory_mib for view in views)
        warm = [view for view in views if view.warm_up_ms]
        return Lease(
            worker=self.config.worker_id,
            incarnation=self.incarnation,
            address=self.address,
            engines=self._engines,
            device=self._device,
            memory_mib=self.config.memory_budget_mib,
            memory_free_mib=max(0, self.config.memory_budget_mib - used_mib),
            resident_cap=self.config.resident_cap,
            models=tuple(map(_resident, held)),
            streams=len(self.streams),
            max_streams=self.config.max_streams,
            first_audio_ms=max((view.first_audio_ms or view.warm_up_ms for view in warm), default=0.0),
            real_time_factor=max((view.real_time_factor for view in warm), default=0.0),
            draining=self.streams.draining,
            epoch=self._epoch,
        )

    def _obey(self, placement: Placement) -> None:
        entries = placed_entries(placement)
        held = sum(entry.stay == "held" for entry in entries)
        logger.info("placed", extra={"epoch": placement.epoch, "models": len(entries), "held": held})
        self._epoch = placement.epoch
        self.models.place(entries)
        if placement.want is not None:
            self._placed.set()
        self._nudge()

    def _nudge(self) -> None:
        if self._keeper is not None:
            self._keeper.nudge()

    async def _listen(self) -> grpc.aio.Server:
        config = self.config
        token = read_token(config.token_file)
        if token is None and not config.is_loopback:
            raise AntiphonError(
                Reason.INVALID_REQUEST,
                f"Listening on {config.host} needs a token_file: without a token, only loopback is served.",
            )
        server = grpc.aio.server(interceptors=(Border(token, self.metrics),), options=_OPTIONS)
        voices = SpeechSynthesis(config, self.models, self.streams, self._synthesis_hops, self.metrics)
        ears = SpeechRecognition(config, self.models, self.streams, self._recognition_hops, self.metrics)
        synthesis_pb2_grpc.add_SpeechSynthesisServicer_to_server(voices, server)  # type: ignore[no-untyped-call]
        recognition_pb2_grpc.add_SpeechRecognitionServicer_to_server(ears, server)  # type: ignore[no-untyped-call]
        models_pb2_grpc.add_ModelsServicer_to_server(Models(self.models, self.streams), server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            self.port = server.add_insecure_port(f"{config.host}:{config.port}")
        except RuntimeError:
            raise AntiphonError(
                Reason.INVALID_REQUEST, f"Cannot listen on {config.host}:{config.port}: is the port in use?"
            ) from None
        await self._tell_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        return server

    async def _become_ready(self) -> None:
        """Say that it serves once what it begins with is warm: a probe sends nobody to a cold worker."""
        if self._is_placed_by_others:
            await self._placed.wait()
        await self.models.warm()
        await self._tell_health(health_pb2.HealthCheckResponse.SERVING)
        logger.info("worker ready", extra={"worker": self.config.worker_id, "address": self.address})

    async def _tell_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    async def _stop(self, server: grpc.aio.Server) -> None:
        self.streams.drain()
        await server.stop(CUT_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_S):
                await self.streams.ended()

    @contextlib.asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self.models.run(), name="models"),
            asyncio.create_task(self._become_ready(), name="ready"),
        ]
        url, namespace, name = self.config.redis_url, self.config.namespace, self.config.worker_id
        if url is not None:
            self._keeper = LeaseKeeper(url, namespace, name, self.lease, self.drain)
            tasks.append(asyncio.create_task(self._keeper.run(), name="lease"))
            if self._is_placed_by_others:
                placement = PlacementReader(url, namespace, name, self._obey)
                tasks.append(asyncio.create_task(placement.run(), name="placement"))
        for task in tasks:
            task.add_done_callback(self._end_on_failure)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _end_on_failure(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical("the worker cannot go on", extra={"task": task.get_name()}, exc_info=error)
            self.drain()


def _resident(view: ModelView) -> ResidentModel:
    """A model's view, as the lease has it."""
    return ResidentModel(
        name=view.spec.name,
        digest=view.digest,
        revision=view.revision,
        state=view.state.value,  # type: ignore[arg-type]
        progress=view.progress,
        files=view.files,
        fetched_bytes=view.fetched.done_bytes,
        size_bytes=view.fetched.total_bytes,
        reason=view.reason,
        message=view.message,
        memory_mib=view.memory_mib,
        streams=view.streams,
        served=view.served,
        failed=view.failed,
        first_audio_ms=view.first_audio_ms,
    )


async def serve(config: WorkerConfig, *, on_ended: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and end; a second signal cuts the drain short.

    Args:
        config: All that the worker is told.
        on_ended: Called when the drain is over, before what is left is let go.

    Raises:
        AntiphonError: INVALID_REQUEST when it cannot listen as told.
    """
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    async with Worker(config) as worker:
        draining = asyncio.create_task(worker.ended(), name="drain")

        def ask_to_end() -> None:
            if worker.streams.draining:
                draining.cancel()
            worker.drain()

        for number in signals:
            loop.add_signal_handler(number, ask_to_end)
        try:
            await asyncio.wait((draining,))
        finally:
            draining.cancel()
            for number in signals:
                loop.remove_signal_handler(number)
            on_ended()


def run(config: WorkerConfig) -> None:
    """Serve in a loop of its own until the process is told to end; blocks.

    A thread that does not come back from an engine cannot keep the process: it exits hard ten seconds after the drain.
    """
    configure_logging(as_json=config.log_json, level=config.log_level)
    watchdog = threading.Timer(HARD_EXIT_S, os._exit, (1,))
    watchdog.daemon = True
    asyncio.run(serve(config, on_ended=watchdog.start))
