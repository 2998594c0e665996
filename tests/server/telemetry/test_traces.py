"""Spans of a real server's calls, as a collector gets them: whose children they are, what they say and never say."""

import http.server
import logging
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from bandit.errors import InvalidInput
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed")
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from server.telemetry import tracing

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TEXT = "the quick wombat refactors the parser"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans over gRPC and over HTTP."""

    def __init__(self) -> None:
        self.taken: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self._grpc = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._grpc)
        self.grpc = f"http://127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        self._grpc.start()
        collector = self

        class Taking(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector.taken.append(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taking)
        self.http = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def Export(self, request, context):  # noqa: N802
        self.taken.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[trace_pb2.Span]:
        return [span for one in self.taken for all_ in one.resource_spans for s in all_.scope_spans for span in s.spans]

    def close(self) -> None:
        self._grpc.stop(None)
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def told(span: trace_pb2.Span) -> dict[str, object]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


def test_calls_become_spans_of_the_callers_trace(serving, tmp_path, collector, monkeypatch, tokens_of):
    monkeypatch.setenv(ENDPOINT, collector.grpc)
    token = tokens_of(tmp_path / "data").create("route", "reward", "read")
    server = serving(tmp_path / "data", None, "--tokens")
    trace_id, parent = secrets.token_hex(16), secrets.token_hex(8)
    caller = (("authorization", f"Bearer {token}"), ("traceparent", f"00-{trace_id}-{parent}-01"))
    request = pb.SelectRequest(session_id="s1", features={"title": pb.FeatureValue(text=TEXT)})
    choice = server.routing.Select(request, metadata=caller)
    moved = server.routing.Escalate(
        pb.EscalateRequest(decision_id=choice.decision_id, reason=pb.ESCALATION_REASON_VERIFIED_FAILURE),
        metadata=caller,
    ).next
    with pytest.raises(grpc.RpcError):
        server.routing.Reward(pb.RewardRequest(decision_id="none", success=1.0), metadata=caller)
    with pytest.raises(grpc.RpcError):
        server.routing.Select(request, metadata=(("authorization", "Bearer pointsman_wrong_token"), caller[1]))
    assert server.stop() == 0
    calls = {span.name: [] for span in collector.spans() if span.kind == trace_pb2.Span.SPAN_KIND_SERVER}
    for span in collector.spans():
        assert span.trace_id.hex() == trace_id
        if span.name in calls:
            assert span.parent_span_id.hex() == parent
            calls[span.name].append(span)
    selects, (escalate,), (reward,) = (
        calls[f"pointsman.v1.Routing/{name}"] for name in ("Select", "Escalate", "Reward")
    )
    codes = [told(span)["rpc.grpc.status_code"] for span in selects]
    assert sorted(codes) == [0, grpc.StatusCode.UNAUTHENTICATED.value[0]]
    select = selects[codes.index(0)]
    assert told(select) == {
        "rpc.system": "grpc",
        "rpc.service": "pointsman.v1.Routing",
        "rpc.method": "Select",
        "rpc.grpc.status_code": 0,
        "pointsman.router": "default",
        "pointsman.session_id": "s1",
        "pointsman.decision_id": choice.decision_id,
        "pointsman.arm": choice.arm,
    }
    assert told(escalate)["pointsman.decision_id"] == moved.decision_id
    assert told(escalate)["pointsman.arm"] == moved.arm
    assert told(reward)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert reward.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    (waited,) = (span for span in collector.spans() if span.parent_span_id == select.span_id)
    assert waited.name == "round of group commit"
    assert select.start_time_unix_nano <= waited.start_time_unix_nano < waited.end_time_unix_nano
    assert waited.end_time_unix_nano <= select.end_time_unix_nano
    sent = b"".join(one.SerializeToString() for one in collector.taken)
    for never in (TEXT, token, token.split("_")[-1], "wrong_token"):
        assert never.encode() not in sent
    (named,) = {
        one.value.string_value
        for one in collector.taken[0].resource_spans[0].resource.attributes
        if one.key == "service.name"
    }
    assert named == "pointsman"


def test_whatever_a_caller_says_of_its_trace_is_harmless(serving, tmp_path, collector, monkeypatch, capfd):
    monkeypatch.setenv(ENDPOINT, collector.http)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    server = serving(tmp_path / "data")
    good = f"{'a' * 32}-{'b' * 16}"
    hostile = ["", "-", "0" * 55, f"ff-{good}-01", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{good}-01-more", "x" * 5000]
    hostile += [f"00-{good.upper()}-01", f"00-{good}-zz", "," * 300, "=" * 300, "a=b," * 100]
    for value in hostile:
        for metadata in ((("traceparent", value),), (("traceparent", f"00-{good}-01"), ("tracestate", value))):
            server.routing.Select(pb.SelectRequest(), metadata=metadata)
    server.routing.Select(pb.SelectRequest(), metadata=(("traceparent", f"00-{good}-01"),) * 3)
    with pytest.raises(grpc.RpcError):
        server.routing.Select(pb.SelectRequest(session_id="i" * 5000))
    server.admin.PutArm(admin_pb2.PutArmRequest(arm=admin_pb2.Arm(id="d")))
    assert server.stop() == 0
    spans = [span for span in collector.spans() if span.kind == trace_pb2.Span.SPAN_KIND_SERVER]
    assert len(spans) == 2 * len(hostile) + 3
    assert all(len(span.trace_id) == 16 and span.end_time_unix_nano for span in spans)
    assert not any(len(str(value)) > 256 for span in spans for value in told(span).values())
    attributes = collector.taken[0].resource_spans[0].resource.attributes
    assert [one.value.string_value for one in attributes if one.key == "service.name"] == ["ours"]
    err = capfd.readouterr().err
    assert not any(word in err for word in ("Traceback", "traceparent", "tracestate", "w3c")), err


def test_a_collector_that_is_away_hinders_nothing(serving, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    for protocol in ("grpc", "http/protobuf"):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        server = serving(tmp_path / protocol[:4])
        for _ in range(8):
            server.routing.Select(pb.SelectRequest())
            time.sleep(0.1)
        assert server.stop() == 0
        err = capfd.readouterr().err
        assert "Traceback" not in err and len(err.splitlines()) < 12, err


def test_a_variable_that_cannot_be_followed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    command = [sys.executable, "-m", "server.cli", "serve", "--data-dir", str(tmp_path / "data")]
    command += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("pointsman serve: OTEL_EXPORTER_OTLP_PROTOCOL: no exporter ")


def test_where_nobody_asks_nothing_is_made():
    assert tracing.open_tracing({}) is None
    assert tracing.open_tracing({ENDPOINT: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}) is None
    code = (
        "import sys, server.app; from server.telemetry import tracing; assert tracing.open_tracing({}) is None;"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.trace'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_where_opentelemetry_is_not_installed_that_is_said(monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, "server.telemetry.traces", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with caplog.at_level(logging.WARNING):
        assert tracing.open_tracing({ENDPOINT: "http://127.0.0.1:1"}) is None
    assert "pip install 'pointsman[otel]'" in caplog.text


def test_an_exporter_that_is_not_installed_is_refused():
    with pytest.raises(InvalidInput, match="no exporter 'nobody'"):
        tracing.open_tracing({"OTEL_TRACES_EXPORTER": "nobody"})


def test_settings_that_opentelemetry_refuses_are_one_line(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(InvalidInput, match="refuses its settings"):
        tracing.open_tracing({"OTEL_TRACES_EXPORTER": "otlp"})
