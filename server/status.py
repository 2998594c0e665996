"""One table: what went wrong → the gRPC status that says so."""

import itertools
import logging
from datetime import timedelta

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from bandit.errors import AlreadyThere, InvalidInput, NoEligibleArm, Unknown, WrongOrder
from server.auth.access import Forbidden, Unauthenticated
from server.intake import Taken
from server.overload import Overloaded, TooLate
from server.rounds import RepeatConflict
from server.store.errors import StoreError

_log = logging.getLogger(__name__)

_DETAILS = "grpc-status-details-bin"
_MOST_DETAILS = 10

_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (Unknown, grpc.StatusCode.NOT_FOUND),
    (WrongOrder, grpc.StatusCode.FAILED_PRECONDITION),
    (NoEligibleArm, grpc.StatusCode.FAILED_PRECONDITION),
    (AlreadyThere, grpc.StatusCode.ALREADY_EXISTS),
    (RepeatConflict, grpc.StatusCode.ALREADY_EXISTS),
    (Taken, grpc.StatusCode.ALREADY_EXISTS),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooLate, grpc.StatusCode.DEADLINE_EXCEEDED),
    (NotImplementedError, grpc.StatusCode.UNIMPLEMENTED),
    (StoreError, grpc.StatusCode.UNAVAILABLE),
)


def code_of(error: Exception) -> grpc.StatusCode:
    """The code of an error; what is not in the table is a defect and INTERNAL."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def status_of(error: Exception) -> status_pb2.Status:
    """The status of an error, details included, which is parted from its frames; see `tell`. A defect is logged."""
    code = code_of(error)
    if code is grpc.StatusCode.INTERNAL:
        _log.error("defect", exc_info=error)
        status = status_pb2.Status(code=code.value[0], message="a defect of the server; it is logged")
    else:
        status = status_pb2.Status(code=code.value[0], message=_short(str(error)), details=_details(error))
    _part(error)
    return status


def tell(context: "grpc.aio.ServicerContext[object, object]", error: Exception) -> None:
    """Has the call end with the error's status when its handler returns.

    A call counts among those that its connection may have at once until nothing holds it; held by a cycle it does until
    garbage is collected, and clients that erred often enough were refused. So grpc's own `abort` is not for here, for
    the call keeps what that raises, and errors are parted from their frames: in one of them may be the future that had
    the error.
    """
    status = status_of(error)
    context.set_code(code_of(error))
    context.set_details(status.message)
    context.set_trailing_metadata(((_DETAILS, status.SerializeToString()),))


def _part(error: BaseException) -> None:
    error.__traceback__ = None
    for behind in (error.__cause__, error.__context__):
        if behind is not None:
            _part(behind)


def _details(error: Exception) -> list[any_pb2.Any]:
    match error:
        case InvalidInput(field=field, why=why):
            return [_packed(_bad_request(field, why))]
        case Unknown(field=field):
            return [_packed(_bad_request(field, str(error)))]
        case NoEligibleArm(reasons=reasons):
            failure = error_details_pb2.PreconditionFailure()
            for arm, why in itertools.islice(reasons.items(), _MOST_DETAILS):
                failure.violations.add(type="ARM_INELIGIBLE", subject=arm, description=_short(why, 100))
            return [_packed(failure)]
        case Overloaded(retry_seconds=seconds):
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromTimedelta(timedelta(seconds=seconds))
            return [_packed(retry)]
    return []


def _short(text: str, most: int = 2000) -> str:
    """A status travels in headers, which are refused beyond 8 KiB, and its text travels twice."""
    return text if len(text) <= most else f"{text[:most]}…"


def _bad_request(field: str, why: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation(field=_short(field, 500), description=_short(why, 500))
    return error_details_pb2.BadRequest(field_violations=[violation])


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
