"""The one tree of errors, and the one table of what each means to a caller.

Every error that leaves a process has a `Reason`: a word that machines act on. The table gives its gRPC status code, its
HTTP status and whether trying again (perhaps elsewhere) can help. Third-party errors are translated once, at the
border where they enter.
"""

from dataclasses import dataclass
from enum import StrEnum

import grpc

DOMAIN = "antiphon.dev"


class Reason(StrEnum):
    """Why something was refused or failed; the `reason` of `google.rpc.ErrorInfo` and the `code` of JSON errors."""

    INVALID_REQUEST = "INVALID_REQUEST"
    AUDIO_FORMAT = "AUDIO_FORMAT"
    TEXT_TOO_LONG = "TEXT_TOO_LONG"
    UPLOAD_TOO_LARGE = "UPLOAD_TOO_LARGE"
    UTTERANCE_TOO_LONG = "UTTERANCE_TOO_LONG"
    STREAM_TOO_LONG = "STREAM_TOO_LONG"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    MODEL_UNKNOWN = "MODEL_UNKNOWN"
    STREAM_UNKNOWN = "STREAM_UNKNOWN"
    SESSION_UNKNOWN = "SESSION_UNKNOWN"
    MODEL_LOADING = "MODEL_LOADING"
    LOAD_FAILED = "LOAD_FAILED"
    WORKER_FULL = "WORKER_FULL"
    DRAINING = "DRAINING"
    NO_WORKER = "NO_WORKER"
    WORKER_LOST = "WORKER_LOST"
    TIMEOUT = "TIMEOUT"
    RESPONDER_FAILED = "RESPONDER_FAILED"
    ENGINE_FAULT = "ENGINE_FAULT"
    EPOCH_STALE = "EPOCH_STALE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reason means on each border."""

    grpc_code: grpc.StatusCode
    http_status: int
    retryable: bool


_CODE = grpc.StatusCode
MEANINGS: dict[Reason, Meaning] = {
    Reason.INVALID_REQUEST: Meaning(_CODE.INVALID_ARGUMENT, 400, False),
    Reason.AUDIO_FORMAT: Meaning(_CODE.INVALID_ARGUMENT, 400, False),
    Reason.TEXT_TOO_LONG: Meaning(_CODE.INVALID_ARGUMENT, 400, False),
    Reason.UPLOAD_TOO_LARGE: Meaning(_CODE.OUT_OF_RANGE, 413, False),
    Reason.UTTERANCE_TOO_LONG: Meaning(_CODE.OUT_OF_RANGE, 400, False),
    Reason.STREAM_TOO_LONG: Meaning(_CODE.OUT_OF_RANGE, 400, False),
    Reason.UNAUTHENTICATED: Meaning(_CODE.UNAUTHENTICATED, 401, False),
    Reason.MODEL_UNKNOWN: Meaning(_CODE.NOT_FOUND, 404, False),
    Reason.STREAM_UNKNOWN: Meaning(_CODE.NOT_FOUND, 404, False),
    Reason.SESSION_UNKNOWN: Meaning(_CODE.NOT_FOUND, 404, False),
    Reason.MODEL_LOADING: Meaning(_CODE.UNAVAILABLE, 503, True),
    Reason.LOAD_FAILED: Meaning(_CODE.FAILED_PRECONDITION, 503, True),
    Reason.WORKER_FULL: Meaning(_CODE.RESOURCE_EXHAUSTED, 429, True),
    Reason.DRAINING: Meaning(_CODE.UNAVAILABLE, 503, True),
    Reason.NO_WORKER: Meaning(_CODE.UNAVAILABLE, 503, True),
    Reason.WORKER_LOST: Meaning(_CODE.UNAVAILABLE, 503, True),
    Reason.TIMEOUT: Meaning(_CODE.DEADLINE_EXCEEDED, 504, True),
    Reason.RESPONDER_FAILED: Meaning(_CODE.UNAVAILABLE, 502, True),
    Reason.ENGINE_FAULT: Meaning(_CODE.INTERNAL, 500, True),
    Reason.EPOCH_STALE: Meaning(_CODE.FAILED_PRECONDITION, 409, False),
    Reason.INTERNAL: Meaning(_CODE.INTERNAL, 500, False),
}


class AntiphonError(Exception):
    """An error with a reason, a sentence that is safe to show, and a hint when to try again."""

    reason: Reason

    def __init__(self, reason: Reason, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_ms = retry_after_ms

    @property
    def meaning(self) -> Meaning:
        """What this error means on each border."""
        return MEANINGS[self.reason]

    @property
    def retryable(self) -> bool:
        """Whether trying again, perhaps on another worker, can help."""
        return self.meaning.retryable

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"AntiphonError({self.reason}, {self.message!r})"
