"""What every call passes on its way in and out: the token, the trace, garbage, and errors as statuses."""

import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.contracts.status import to_status
from antiphon.telemetry.logs import where
from antiphon.telemetry.metrics import WorkerMetrics
from antiphon.telemetry.tracing import extract, tracer
from antiphon.worker.faults import is_lost, told
from antiphon.worker.incoming import Incoming

OURS = "/antiphon.v1."
OPEN = "/grpc.health.v1."
"""Probes carry no token."""

Behaviour = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]

logger = logging.getLogger(__name__)


def read_token(path: Path | None) -> str | None:
    """The bearer token in a file; None for no file. Raises `AntiphonError` when it cannot be read or is empty."""
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AntiphonError(
            Reason.INVALID_REQUEST, f"The token file {path} cannot be read: {error.strerror}."
        ) from None
    if not token:
        raise AntiphonError(Reason.INVALID_REQUEST, f"The token file {path} is empty: write the token into it.")
    return token


class Border(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps every handler of ours; handlers are coroutines that write by `context.write` and raise `AntiphonError`.

    Args:
        token: What callers must show as `authorization: Bearer ...`; None: nothing.
        metrics: Where errors are counted.
    """

    def __init__(self, token: str | None, metrics: WorkerMetrics) -> None:
        self._token = token
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The handler that serves this call."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method.startswith(OPEN):
            return handler
        metadata = tuple(handler_call_details.invocation_metadata or ())
        if not self._is_known(metadata):
            return _with_behaviour(handler, self._refuse)
        if not method.startswith(OURS):
            return handler
        return _with_behaviour(handler, self._guarded(method, metadata, handler))

    def _is_known(self, metadata: tuple[tuple[str, str | bytes], ...]) -> bool:
        if self._token is None:
            return True
        shown = next((value for key, value in metadata if key == "authorization"), "")
        expected = f"Bearer {self._token}".encode()
        return hmac.compare_digest(shown if isinstance(shown, bytes) else shown.encode(), expected)

    async def _refuse(self, _: Any, context: grpc.aio.ServicerContext) -> None:
        error = AntiphonError(
            Reason.UNAUTHENTICATED, "Show the workers' token in the metadata: `authorization: Bearer TOKEN`."
        )
        await self._abort(context, error)

    def _guarded(
        self, method: str, metadata: tuple[tuple[str, str | bytes], ...], handler: grpc.RpcMethodHandler
    ) -> Behaviour:
        serve = (_heard_out if handler.request_streaming else _checked_first)(_behaviour(handler))

        async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
            with tracer.start_as_current_span(method[1:], context=extract(metadata), record_exception=False):
                try:
                    return await serve(request, context)
                except grpc.aio.AbortError:
                    raise
                except Exception as error:
                    await self._answer(method, context, error)

        return guarded

    async def _answer(self, method: str, context: grpc.aio.ServicerContext, error: Exception) -> None:
        if context.cancelled() or is_lost(error):
            logger.info("the caller is gone", extra={"method": method})
            return
        answer = told(error)
        if answer is None:
            logger.error("call failed", extra={"method": method, "cause": where(error)})
            answer = AntiphonError(Reason.INTERNAL, "The worker failed inside; its log says where.")
        await self._abort(context, answer)

    async def _abort(self, context: grpc.aio.ServicerContext, error: AntiphonError) -> None:
        self._metrics.errors.labels(error.reason.value).inc()
        await context.abort_with_status(to_status(error))


class _Garbage:
    """Stands for bytes that are no message."""


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def tolerant(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Garbage()

    return tolerant


def _checked_first(behaviour: Behaviour) -> Behaviour:
    async def checked(request: Any, context: grpc.aio.ServicerContext) -> Any:
        return await behaviour(_checked(request), context)

    return checked


def _heard_out(behaviour: Behaviour) -> Behaviour:
    """The behaviour of a request stream, which ends only when its caller stopped sending."""

    async def heard_out(requests: Any, context: grpc.aio.ServicerContext) -> None:
        async with Incoming(_checked_stream(requests)) as incoming:
            try:
                await behaviour(incoming, context)
            except Exception:
                await incoming.hear_out()
                raise
            await incoming.linger()

    return heard_out


def _checked(request: Any) -> Any:
    """The request. Raises `AntiphonError(INVALID_REQUEST)` where there is garbage instead."""
    if isinstance(request, _Garbage):
        raise AntiphonError(Reason.INVALID_REQUEST, "The bytes are no message of this method: see the .proto files.")
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


_KINDS = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def _behaviour(handler: grpc.RpcMethodHandler) -> Behaviour:
    name, _ = _KINDS[handler.request_streaming, handler.response_streaming]
    behaviour: Behaviour = getattr(handler, name)
    return behaviour


def _with_behaviour(handler: grpc.RpcMethodHandler, behaviour: Behaviour) -> grpc.RpcMethodHandler:
    _, make = _KINDS[handler.request_streaming, handler.response_streaming]
    return make(behaviour, _tolerant(handler.request_deserializer), handler.response_serializer)
