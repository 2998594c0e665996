"""Traces as the rest of the server sees them, whether or not there are any: OpenTelemetry is imported where they are
wanted alone.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    # The child processes, which write their logs as the server does, need neither.
    import grpc
    from google.protobuf.message import Message

_log = logging.getLogger(__name__)

_ASKING = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Part(Protocol):
    """A part of a call that takes time."""

    def end(self) -> None:
        """It is over."""
        ...


class Call(Protocol):
    """The span of a call that is under way."""

    @property
    def trace_id(self) -> str:
        """Of the trace that it belongs to, in 32 hexadecimal digits."""
        ...

    def note(self, message: "Message") -> None:
        """Takes from a request or response which router, session, decision and arm it is about, and nothing else."""
        ...

    def refused(self, code: "grpc.StatusCode") -> None:
        """It ends with that code."""
        ...

    def part(self, name: str) -> Part | None:
        """Begins a part of it; None where the call is not sampled."""
        ...

    def ended(self, task: Any) -> None:
        """It is over, and so is the task that it ran in."""
        ...


class Tracing(Protocol):
    """Makes a span of each call."""

    def begin(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> Call:
        """A call of `package.Service/Method` begins; its metadata may say of what trace it is a part."""
        ...

    async def close(self) -> None:
        """Sends what is left, as far as that does not take long."""
        ...


current: ContextVar[Call | None] = ContextVar("current", default=None)
"""The call that is being answered; None where calls are not traced."""


def begin_part(name: str) -> Part | None:
    """Begins a part of the current call; None where that is not traced."""
    call = current.get()
    return call.part(name) if call is not None else None


def asked_by(environment: Mapping[str, str] = os.environ) -> str:
    """The one of OpenTelemetry's variables that asks for traces; empty: none does."""
    exporters = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporters:
        return "OTEL_TRACES_EXPORTER" if exporters != "none" else ""
    return next(filter(environment.get, _ASKING), "")


def open_tracing(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """What OpenTelemetry's own variables ask for; None where they do not, or where it is not installed.

    Raises InvalidInput naming a variable that cannot be followed.
    """
    asking = asked_by(environment)
    if not asking:
        return None
    try:
        from server.telemetry.traces import Traces
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        _log.warning("%s asks for traces, which need OpenTelemetry: pip install 'pointsman[otel]'", asking)
        return None
    return Traces(environment.get("OTEL_TRACES_EXPORTER") or "otlp", environment)
