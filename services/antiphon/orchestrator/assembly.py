"""Puts an orchestrator's parts together, and takes them apart again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from antiphon.adapters.vad.silero import SileroVad
from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.admission import Admission
from antiphon.orchestrator.config import DEFAULT, AssistantConfig, OrchestratorConfig, WorkersConfig
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.metrics import OrchestratorMetrics
from antiphon.orchestrator.names import Names
from antiphon.orchestrator.responders import make_responder
from antiphon.orchestrator.sessions import SessionKeeper
from antiphon.orchestrator.workers.channels import WorkerChannels
from antiphon.orchestrator.workers.fleet import Fleet
from antiphon.orchestrator.workers.recogniser import RoutedRecogniser
from antiphon.orchestrator.workers.synthesiser import RoutedSynthesiser
from antiphon.registry.demand import DemandKeeper
from antiphon.registry.snapshot import RegistryReader


@asynccontextmanager
async def open_context(config: OrchestratorConfig) -> AsyncIterator[Context]:
    """The parts, alive for as long as the block runs.

    Raises `AntiphonError(INVALID_REQUEST)` for a secret that cannot be read.
    """
    metrics = OrchestratorMetrics(CollectorRegistry())
    reader = RegistryReader(config.registry.url, config.registry.namespace)
    metrics.watch_registry(reader)
    names = Names(config.aliases, config.model_defaults(), lambda: reader.snapshot)
    async with _alone(), AsyncExitStack() as stack:
        channels = WorkerChannels(_token(config.workers))
        stack.push_async_callback(channels.aclose)
        responders = {}
        for name, assistant in (config.assistants or {DEFAULT: AssistantConfig()}).items():
            responders[name] = make_responder(assistant.responder)
            stack.push_async_callback(responders[name].aclose)
        sessions = SessionKeeper.of(config)
        stack.push_async_callback(sessions.aclose)
        metrics.orchestrator.info({"id": sessions.owner})
        demand = DemandKeeper(config.registry.url, config.registry.namespace, sessions.owner)

        def note_demand(task: Task, model: str, reason: str) -> None:
            demand.note(task, model, reason)
            metrics.lacking.labels(model, reason).inc()

        fleet = Fleet(reader, channels, names, note_demand=note_demand)
        stack.push_async_callback(fleet.aclose)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        # Should one of them fail, the process ends: without any of them it would be of no use, and seem to be.
        for name, work in (("sessions", sessions.run()), ("registry-reader", reader.run()), ("demand", demand.run())):
            stack.callback(tasks.create_task(work, name=name).cancel)
        yield Context(
            config=config,
            recogniser=RoutedRecogniser(fleet),
            synthesiser=RoutedSynthesiser(fleet),
            responders=responders,
            vad=SileroVad(),
            snapshot=lambda: reader.snapshot,
            admission=Admission(config.server, metrics),
            metrics=metrics,
            sessions=sessions,
        )


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    """An error of the block as it is, not in the group that a task group makes even of one."""
    try:
        yield
    except ExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def _token(workers: WorkersConfig) -> str:
    if workers.token_file is None:
        return ""
    try:
        return workers.token_file.read_text().strip()
    except OSError as error:
        raise AntiphonError(
            Reason.INVALID_REQUEST, f"Cannot read workers.token_file {workers.token_file}: {error.strerror}."
        ) from None
