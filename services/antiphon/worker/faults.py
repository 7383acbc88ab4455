"""What goes wrong inside, as what a caller is told."""

import logging

import grpc

from antiphon.contracts.errors import AntiphonError, Reason
from antiphon.telemetry.logs import where

logger = logging.getLogger(__name__)


def engine_fault(error: Exception, model: str) -> AntiphonError:
    """The error for an exception that an engine raised; its text stays here, for it may hold what somebody said."""
    logger.error("engine fault", extra={"model": model, "cause": where(error)})
    return AntiphonError(
        Reason.ENGINE_FAULT,
        f"The engine of model {model!r} failed ({type(error).__name__}): try again, or another worker.",
    )


def is_lost(error: BaseException) -> bool:
    """Whether gRPC says that the call has no other end any more (a write that is cut off raises its private error)."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_lost(inner) for inner in error.exceptions)
    return isinstance(error, grpc.aio.InternalError)


def told(error: BaseException) -> AntiphonError | None:
    """The one error among those that ended a stream that the caller is told; None: it was none of ours."""
    if isinstance(error, AntiphonError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if (found := told(inner)) is not None:
                return found
    return None
