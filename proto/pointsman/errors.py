"""What a failed call says, taken out of its status."""

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status code of a failed call; UNKNOWN where the error carries none."""
    code = getattr(error, "code", None)
    found = code() if callable(code) else None
    return found if isinstance(found, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def field_violations(error: grpc.RpcError) -> list[tuple[str, str]]:
    """Which fields of the request were wrong, and how: `(field, description)`, in the server's order.

    Read from the `google.rpc.BadRequest` in the status details of INVALID_ARGUMENT and NOT_FOUND; empty where
    the error carries none. Works for sync and asyncio errors.
    """
    found = []
    for detail in _details(error):
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [(violation.field, violation.description) for violation in bad.field_violations]
    return found


def retry_seconds(error: grpc.RpcError) -> float | None:
    """After how many seconds a busy server asks to be called again, from the `google.rpc.RetryInfo` in the status
    details; None where it does not."""
    for detail in _details(error):
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToTimedelta().total_seconds()
    return None


def _details(error: grpc.RpcError) -> list[any_pb2.Any]:
    trailing = getattr(error, "trailing_metadata", None)
    return [
        detail
        for key, value in (trailing() if callable(trailing) else None) or ()
        if key == _DETAILS
        for detail in status_pb2.Status.FromString(value).details
    ]
