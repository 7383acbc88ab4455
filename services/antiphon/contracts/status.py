"""Errors to and from gRPC: `google.rpc.Status` with `ErrorInfo` and, where it helps, `RetryInfo`."""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from antiphon.contracts.errors import DOMAIN, AntiphonError, Reason


def to_status(error: AntiphonError) -> grpc.Status:
    """The status to abort a call with (`context.abort_with_status`)."""
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN))]
    if error.retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    code = code_pb2.Code.Value(error.meaning.grpc_code.name)
    return rpc_status.to_status(status_pb2.Status(code=code, message=error.message, details=details))


def from_call(call: grpc.RpcError) -> AntiphonError:
    """The error behind a failed call: our own reason where the worker gave one, else what its status code says."""
    reason, retry_after_ms = None, None
    try:
        status = rpc_status.from_call(call)
    except ValueError:
        status = None  # trailers that contradict the status line: a proxy's, not a worker's
    for detail in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            reason = Reason(info.reason)
        elif detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    if reason is None:
        reason = _BY_CODE.get(call.code(), Reason.WORKER_LOST)
    return AntiphonError(reason, call.details() or str(call.code()), retry_after_ms=retry_after_ms)


# Codes that gRPC itself gives, when no worker of ours had the last word.
_BY_CODE = {
    grpc.StatusCode.UNAUTHENTICATED: Reason.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_REQUEST,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.WORKER_FULL,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.TIMEOUT,
    grpc.StatusCode.UNIMPLEMENTED: Reason.INVALID_REQUEST,
}


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
