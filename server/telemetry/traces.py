"""OpenTelemetry's spans of calls, sent to where its own environment variables say.

A span is named as its method and tells, beside OpenTelemetry's attributes of a call, the router, session, decision and
arm. No feature, no text of a refusal and no credential ever comes into one.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bandit.errors import InvalidInput
from bandit.types import RouterSettings
from pointsman.v1 import routing_pb2
from server.release import RELEASE

_CLOSE_SECONDS = 3.0
_LONGEST_ID = 256
_NOTED = ("router", "session_id", "decision_id", "arm")
_HEADERS = ("traceparent", "tracestate")
_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
"""What OpenTelemetry takes for an error of the server's; other codes are the caller's affair."""


class Traces:
    """See `Tracing`."""

    def __init__(self, exporters: str, environment: Mapping[str, str]) -> None:
        """`exporters` are names with commas between, such as `otlp`. Raises InvalidInput where one is not installed, or
        refuses what its variables say."""
        self._exporters = [_exporter(name.strip(), environment) for name in exporters.split(",")]
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        for exporter in self._exporters:
            try:
                self._provider.add_span_processor(BatchSpanProcessor(exporter))
            except ValueError as error:
                raise InvalidInput("OTEL_BSP_*", str(error)) from error
        self._tracer = self._provider.get_tracer("pointsman", RELEASE)
        self._caller = TraceContextTextMapPropagator()
        # What callers send as their trace is quoted there, whatever it is.
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)

    def begin(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> "TracedCall":
        """See `Tracing`."""
        carried = {key: value for key, value in metadata if key in _HEADERS and isinstance(value, str)}
        service, _, name = method.rpartition("/")
        span = self._tracer.start_span(
            method,
            context=self._caller.extract(carried),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        return TracedCall(self._tracer, span)

    async def close(self) -> None:
        """See `Tracing`."""
        closing = asyncio.get_running_loop().run_in_executor(None, self._provider.shutdown)
        done, _ = await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
        if not done:
            # An exporter that has been shut down gives up what it is trying.
            for exporter in self._exporters:
                exporter.shutdown()
        await closing


class TracedCall:
    """See `Call`."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._sampled = span.is_recording()
        self._about: dict[str, str] = {}
        self._code = grpc.StatusCode.OK

    @property
    def trace_id(self) -> str:
        """See `Call`."""
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def note(self, message: Message) -> None:
        """See `Call`."""
        if not self._sampled:
            return
        if isinstance(message, routing_pb2.EscalateResponse):
            message = message.next
        fields = message.DESCRIPTOR.fields_by_name
        for name in _NOTED:
            field = fields.get(name)
            if field is None or field.type != FieldDescriptor.TYPE_STRING:
                continue
            value = getattr(message, name)
            if name == "router" and message.DESCRIPTOR.file is routing_pb2.DESCRIPTOR:
                value = value or RouterSettings().id
            # What is longer is no id, and will be refused.
            if value and isinstance(value, str) and len(value) <= _LONGEST_ID:
                self._about[f"pointsman.{name}"] = value

    def refused(self, code: grpc.StatusCode) -> None:
        """See `Call`."""
        self._code = code

    def part(self, name: str) -> trace.Span | None:
        """See `Call`."""
        if not self._sampled:
            return None
        return self._tracer.start_span(name, context=trace.set_span_in_context(self._span))

    def ended(self, task: "asyncio.Task[Any]") -> None:
        """See `Call`."""
        if not self._sampled:
            return
        code = grpc.StatusCode.CANCELLED if task.cancelled() else self._code
        self._span.set_attributes({**self._about, "rpc.grpc.status_code": code.value[0]})
        if code in _FAULTS:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


def _exporter(name: str, environment: Mapping[str, str]) -> SpanExporter:
    """The exporter that OpenTelemetry's variables name, which configures itself by others of them."""
    variable = "OTEL_TRACES_EXPORTER"
    if name == "otlp":
        variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        variable = next(filter(environment.get, variables), variables[0])
        protocol = environment.get(variable) or "grpc"
        name = f"otlp_proto_{protocol.removesuffix('/protobuf')}"
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        try:
            exporter = found.load()()
        except Exception as error:  # of its own, and of the library's beneath it
            raise InvalidInput(
                "OTEL_EXPORTER_OTLP_*", f"the exporter {name!r} refuses its settings: {error}"
            ) from error
        assert isinstance(exporter, SpanExporter), found
        return exporter
    raise InvalidInput(variable, f"no exporter {name!r} is installed")


def _resource() -> Resource:
    """What is said of this process, where the environment does not say otherwise."""
    found = Resource.create({SERVICE_VERSION: RELEASE} if RELEASE else {})
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return found.merge(Resource({SERVICE_NAME: "pointsman"}))
    return found
