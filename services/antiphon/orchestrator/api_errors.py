"""Errors of the HTTP API: OpenAI's shape, our own table's status, and a hint when to try again."""

import logging
import math
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.orchestrator.metrics import OrchestratorMetrics

logger = logging.getLogger(__name__)

_TYPES = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}


def error_body(error: AntiphonError) -> dict[str, Any]:
    """The JSON that tells a caller of an error."""
    status = error.meaning.http_status
    type_ = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = getattr(error, "param", None)
    return {"error": {"message": error.message, "type": type_, "code": error.reason.value, "param": param}}


def error_response(error: AntiphonError) -> web.Response:
    """The response that tells a caller of an error."""
    headers = {}
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_ms / 1000))
    if error.reason is Reason.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(error_body(error), status=error.meaning.http_status, headers=headers)


def error_middleware(metrics: OrchestratorMetrics) -> Middleware:
    """Turns what a handler raises into a typed response, and counts it.

    A fault of ours is logged once, here, and told without its details.
    """

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except AntiphonError as error:
            failure = error
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return _translated(error)
        except Exception:
            logger.exception("request failed", extra={"path": request.path})
            failure = AntiphonError(Reason.INTERNAL, "The server failed at this request; its log says why.")
        metrics.errors.labels(failure.reason.value).inc()
        return error_response(failure)

    return handle


def _translated(error: web.HTTPException) -> web.Response:
    """The framework's own refusals (no such path, a body that is too big) in the same shape."""
    body = {"message": error.reason, "type": "invalid_request_error", "code": Reason.INVALID_REQUEST.value}
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return web.json_response({"error": {**body, "param": None}}, status=error.status, headers=headers)
