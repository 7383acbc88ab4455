"""The orchestrator as a process: its HTTP application, its start, and its end."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator import models_api, speech_api, transcription_api
from antiphon.orchestrator.admission import Admission
from antiphon.orchestrator.api_errors import error_middleware, error_response
from antiphon.orchestrator.assembly import open_context
from antiphon.orchestrator.auth import KeyRing, auth_middleware
from antiphon.orchestrator.config import OrchestratorConfig
from antiphon.orchestrator.context import Context
from antiphon.orchestrator.readiness import check_ready
from antiphon.orchestrator.transports.websocket.endpoint import RealtimeEndpoint

logger = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long sessions may take to be closed, and then other requests to end."""


def application(context: Context, keys: KeyRing) -> web.Application:
    """The HTTP application: the Realtime WebSocket, the audio and models API, health and metrics."""
    app = web.Application(
        middlewares=[error_middleware(context.metrics), auth_middleware(keys)],
        client_max_size=context.config.server.max_upload_bytes,
    )
    app.add_routes(RealtimeEndpoint(context, keys).routes())
    for api in (speech_api, transcription_api, models_api):
        app.add_routes(api.routes(context))
    app.add_routes(_health(context))
    return app


def _status_application(context: Context) -> web.Application:
    app = web.Application(middlewares=[error_middleware(context.metrics)])
    app.add_routes(_health(context))
    return app


def _health(context: Context) -> list[web.RouteDef]:
    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(request: web.Request) -> web.Response:
        try:
            check_ready(context, models=not _excludes_models(request))
        except AntiphonError as error:
            return error_response(error)
        return web.json_response({"status": "ready"})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(context.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    return [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]


def _excludes_models(request: web.Request) -> bool:
    """Whether it asks with `?exclude=models`, the only thing that can be left out."""
    excluded = request.query.getall("exclude", [])
    if set(excluded) - {"models"}:
        raise AntiphonError(Reason.INVALID_REQUEST, "/readyz can leave out one thing: ?exclude=models.")
    return bool(excluded)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where an orchestrator listens, as base URLs."""

    url: str
    status_url: str
    """For `/healthz`, `/readyz` and `/metrics` of this very process."""


async def serve(config: OrchestratorConfig, *, ready: Callable[[Addresses], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it at once.

    `ready` is told the addresses as soon as connections are taken. Raises `AntiphonError(INVALID_REQUEST)` for a
    configuration that cannot be served.
    """
    keys, server = KeyRing.of(config.server), config.server
    async with open_context(config) as context, AsyncExitStack() as stack:
        status = await _running(_status_application(context), stack)
        main = await _running(application(context, keys), stack)
        site = web.TCPSite(main, server.host, server.port, reuse_port=server.reuse_port)
        url = await _listen(site, main)
        status_url = url
        if server.metrics_port is not None:
            status_url = await _listen(web.TCPSite(status, server.host, server.metrics_port), status)
        told = {"url": url, "status_url": status_url, "owner": context.sessions.owner}
        logger.info("orchestrator serves", extra={**told, "assistants": sorted(context.responders)})
        if ready is not None:
            ready(Addresses(url, status_url))
        await _until_told_to_go(context, site)
    logger.info("orchestrator ended")


async def _running(app: web.Application, stack: AsyncExitStack) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _listen(site: web.TCPSite, runner: web.AppRunner) -> str:
    try:
        await site.start()
    except OSError as error:
        where = site.name.removeprefix("http://")
        raise AntiphonError(
            Reason.INVALID_REQUEST,
            f"Cannot listen on {where}: {os.strerror(error.errno or 0)}. Is another server there?",
        ) from None
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _until_told_to_go(context: Context, site: web.TCPSite) -> None:
    """Wait for a signal, then for the sessions to end; a second signal, or the end of the grace, cuts them off."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        await signals.get()
        if context.config.server.reuse_port:
            await site.stop()  # who connects now reaches the others on this port
        await _drain(context.admission, context.config.server.drain_grace_s, signals)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _drain(admission: Admission, grace_s: float, signals: asyncio.Queue[int]) -> None:
    admission.drain()
    logger.info("orchestrator drains", extra={"sessions": admission.sessions})
    waits = [
        asyncio.create_task(admission.wait_empty(), name="sessions-end"),
        asyncio.create_task(signals.get(), name="second-signal"),
    ]
    try:
        await asyncio.wait(waits, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    admission.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await admission.wait_empty()
