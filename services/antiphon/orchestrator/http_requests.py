"""What the HTTP routes share: fields that are checked by name, a client that may leave, server-sent events."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from antiphon.contracts.adapters import Task
from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.admission import RETRY_AFTER_MS
from antiphon.orchestrator.api_errors import error_body
from antiphon.orchestrator.context import Context

logger = logging.getLogger(__name__)

Outcome = Literal["completed", "refused", "failed", "abandoned"]

_WATCH_S = 0.25
SLOW_CLIENT_S = 30.0
"""A client that takes nothing for this long is let go: a worker's stream waits for it."""


class FieldError(AntiphonError):
    """A field of a request that cannot be granted."""

    def __init__(self, param: str, message: str, reason: Reason = Reason.INVALID_REQUEST) -> None:
        super().__init__(reason, message)
        self.param = param


class Fields(BaseModel):
    """The fields of a request: those that it does not name are refused, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyFields = TypeVar("AnyFields", bound=Fields)


def parse_fields(kind: type[AnyFields], values: Mapping[str, Any]) -> AnyFields:
    """The fields, checked. Raises `FieldError` for the first that is wrong; it never repeats its value."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in fault["loc"]) or "body"
        message = "this server has no such field" if fault["type"] == "extra_forbidden" else fault["msg"]
        raise FieldError(name, f"{name}: {message}.") from None


MODEL_HEADER = "Antiphon-Model"
"""Of a response: the models that it was made with, the catalogue's own names."""


def model_of(context: Context, task: Task, name: str) -> str:
    """The catalogue's own name of a request's model.

    Raises `FieldError(MODEL_UNKNOWN)`, or `AntiphonError(NO_WORKER)` as long as no catalogue was read.
    """
    model = context.names.model(task, name)
    if model is not None:
        return model
    if context.snapshot().version == 0:
        raise AntiphonError(Reason.NO_WORKER, "The registry was not reached yet.", retry_after_ms=RETRY_AFTER_MS)
    kind = "voice model" if task == "tts" else "recogniser"
    raise FieldError("model", f"There is no {kind} '{name}'.", Reason.MODEL_UNKNOWN)


@asynccontextmanager
async def while_connected(request: web.Request) -> AsyncIterator[None]:
    """Runs its body for as long as the client is there.

    When the client leaves, the body is cancelled; that comes out as `ConnectionResetError`. A cancellation from
    elsewhere stays one.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(_WATCH_S)
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch(), name="watch-client")
    try:
        yield
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:
            raise ConnectionResetError("the client left") from None
        raise
    finally:
        watcher.cancel()


class Reply:
    """A streamed response: begun with its first bytes, so that an error before them still has its own status."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        self.content_type = "application/octet-stream"
        self.models: tuple[str, ...] = ()
        """What it is made with: told in its header."""

    @property
    def begun(self) -> bool:
        """Whether the status has been sent."""
        return self.response.prepared

    async def write(self, data: bytes) -> None:
        """Send, as fast as the client takes it. Raises `ConnectionResetError` when it left, or takes nothing."""
        if not self.begun:
            self.response.headers["Content-Type"] = self.content_type
            if self.models:
                self.response.headers[MODEL_HEADER] = ", ".join(self.models)
            await self.response.prepare(self._request)
        try:
            async with asyncio.timeout(SLOW_CLIENT_S):
                await self.response.write(data)
        except TimeoutError:
            self.abort()
            raise ConnectionResetError("the client does not read") from None

    async def event(self, data: Mapping[str, Any] | str) -> None:
        """Send a server-sent event: JSON, or a bare word."""
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        await self.write(f"data: {text}\n\n".encode())

    def abort(self) -> None:
        """Break the connection off: what was sent must not look like the whole."""
        if self._request.transport is not None:
            self._request.transport.abort()


@dataclass(slots=True)
class Count:
    """How a request ends; a handler says so itself where it answers an error after its first bytes."""

    outcome: Outcome = "completed"


@asynccontextmanager
async def counted(context: Context, api: str, request: web.Request) -> AsyncIterator[Count]:
    """Counts a request by how it ends; a client that leaves ends its body, and is no error of ours.

    Raises `AntiphonError(DRAINING)` while the process is about to go.
    """
    count = Count()
    try:
        with context.admission.request():
            async with while_connected(request):
                yield count
    except ConnectionError:
        count.outcome = "abandoned"
        logger.info("client left before the end", extra={"api": api})
    except AntiphonError as error:
        count.outcome = "refused" if error.meaning.http_status < 500 or error.reason is Reason.DRAINING else "failed"
        raise
    except BaseException:
        count.outcome = "failed"
        raise
    finally:
        context.metrics.audio_requests.labels(api, count.outcome).inc()


async def break_off(context: Context, count: Count, reply: Reply, error: AntiphonError, *, sse: bool) -> None:
    """End a response that has begun so that nobody takes it for the whole: an event that says why, or a broken line.

    Raises `error` itself when nothing was sent: it then still has a status of its own.
    """
    if not reply.begun:
        raise error
    count.outcome = "failed"
    context.metrics.errors.labels(error.reason.value).inc()
    logger.warning("response broke off", extra={"reason": error.reason.value, "cause": error.message})
    if sse:
        await reply.event(error_body(error))
    else:
        reply.abort()
