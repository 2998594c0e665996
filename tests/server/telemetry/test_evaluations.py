"""Evaluations over OTLP as rewards: sent by OpenTelemetry's own exporter, by hand, twice, and by those who may not."""

import http.client
import json
import math

import pytest

from bandit.errors import InvalidInput
from pointsman.v1 import routing_pb2 as pb

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="OpenTelemetry is not installed")
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from server.telemetry.evaluations import EVENT, reward

CONFIG = """
[telemetry.evaluations]
resolved = [0, 1]
TaskAdherence = [1, 5]
[security]
tokens = true
[[routers]]
id = "default"
policy = "uniform"
[[routers]]
id = "theirs"
policy = "uniform"
[[arms]]
id = "a"
[[arms]]
id = "b"
"""


@pytest.fixture(scope="module")
def server(serving, tokens, token, no_rewarder):
    return serving(tokens.data_dir, CONFIG)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, tokens_of):
    return tokens_of(tmp_path_factory.mktemp("evaluations") / "data")


@pytest.fixture(scope="module")
def token(tokens):
    return tokens.create("route", "reward", "read", routers=("default",))


@pytest.fixture(scope="module")
def no_rewarder(tokens):
    return tokens.create("route", "read")


@pytest.fixture(scope="module")
def select(server, token):
    def select(session_id: str) -> pb.SelectResponse:
        return server.routing.Select(
            pb.SelectRequest(session_id=session_id), metadata=[("authorization", f"Bearer {token}")]
        )

    return select


@pytest.fixture(scope="module")
def outcome(server, token):
    def outcome(decision_id: str) -> pb.Outcome:
        found = server.routing.GetDecision(
            pb.GetDecisionRequest(decision_id=decision_id), metadata=[("authorization", f"Bearer {token}")]
        )
        return found.outcome

    return outcome


def record(at=1, **attributes):
    told = {name.replace("__", "."): value for name, value in attributes.items()}
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return {
        "timeUnixNano": str(at),
        "eventName": EVENT,
        "attributes": [{"key": key, "value": {kinds[type(value)]: value}} for key, value in told.items()],
    }


def export(*records, resource=()):
    return {
        "resourceLogs": [{"resource": {"attributes": list(resource)}, "scopeLogs": [{"logRecords": list(records)}]}]
    }


@pytest.fixture(scope="module")
def send(server, token):
    def send(body, content_type="application/json", token=token, **headers):
        connection = http.client.HTTPConnection(server.http, timeout=30)
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        given = {"Content-Type": content_type, "Authorization": f"Bearer {token}"}
        connection.request("POST", "/v1/logs", sent, {**given, **headers})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        is_json = response.headers["Content-Type"].startswith("application/json")
        return response.status, json.loads(answer) if is_json else answer

    return send


def evaluation(decision_id, name="resolved", **more):
    told = {"gen_ai__evaluation__name": name, "pointsman__decision_id": decision_id}
    return record(**{**told, **more})


def test_the_exporter_of_opentelemetry_rewards(server, token, select, outcome):
    chosen = select("exported")
    provider = LoggerProvider(Resource({"gen_ai.conversation.id": "exported"}))
    exporter = OTLPLogExporter(
        endpoint=f"http://{server.http}/v1/logs", headers={"Authorization": f"Bearer {token}"}, compression=None
    )
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = provider.get_logger("judge")
    logger.emit(LogRecord(event_name="something.else", body="not of interest"))
    for name, told in (
        ("TaskAdherence", {"gen_ai.evaluation.score.value": 4.0}),
        ("Relevance", {"gen_ai.evaluation.score.value": 3, "gen_ai.evaluation.explanation": "mostly"}),
    ):
        logger.emit(LogRecord(event_name=EVENT, attributes={"gen_ai.evaluation.name": name, **told}))
    provider.shutdown()
    told = outcome(chosen.decision_id)
    assert told.success == 0.75
    assert told.metrics == {"Relevance": 3.0}


def test_what_is_sent_twice_counts_once(server, select, outcome, send):
    chosen = select("twice")
    body = export(evaluation(chosen.decision_id, gen_ai__evaluation__score__label="pass", pointsman__final=True))
    as_protobuf = ExportLogsServiceRequest()
    kept = as_protobuf.resource_logs.add().scope_logs.add().log_records.add(event_name=EVENT, time_unix_nano=1)
    for key, value in (
        ("gen_ai.evaluation.name", {"string_value": "resolved"}),
        ("pointsman.decision_id", {"string_value": chosen.decision_id}),
        ("gen_ai.evaluation.score.label", {"string_value": "pass"}),
        ("pointsman.final", {"bool_value": True}),
    ):
        one = kept.attributes.add(key=key)
        for field, told in value.items():
            setattr(one.value, field, told)
    assert send(body) == send(body) == (200, {})
    status, answer = send(as_protobuf.SerializeToString(), "application/x-protobuf")
    assert status == 200 and not ExportLogsServiceResponse.FromString(answer).HasField("partial_success")
    told = outcome(chosen.decision_id)
    assert (told.success, told.revision) == (1.0, 1)


def test_single_events_are_refused_and_the_others_count(select, outcome, send):
    chosen = select("partly")
    score = {"gen_ai__evaluation__score__value": 1.0}
    status, answer = send(
        export(
            evaluation(chosen.decision_id, **score),
            evaluation("nothing", **score),
            evaluation(chosen.decision_id, gen_ai__evaluation__score__value=7.0),
            evaluation(chosen.decision_id, **score, pointsman__router="theirs"),
            evaluation(chosen.decision_id, error__type="timeout"),
        )
    )
    assert status == 200
    assert answer["partialSuccess"]["rejectedLogRecords"] == "3"
    why = answer["partialSuccess"]["errorMessage"]
    assert "'nothing'" in why and "must lie in 0 to 1" in why and "'theirs'" in why
    assert outcome(chosen.decision_id).success == 1.0


@pytest.mark.parametrize(
    ("body", "how", "status"),
    [
        (b"\xff\xfe", {"content_type": "application/x-protobuf"}, 400),
        (b"{", {}, 400),
        (b"[" * 50_000, {}, 400),
        (b"{}", {"content_type": "text/plain"}, 415),
        (b"{}", {"Origin": "http://evil.example"}, 403),
        (b"{}", {"Host": "evil.example"}, 421),
        (b"{}", {"token": "pointsman_no_such"}, 401),
        (b" " * (4 * 1024 * 1024 + 1), {}, 413),
        (b"{}", {}, 200),
    ],
)
def test_what_is_no_export_is_refused(send, body, how, status):
    assert send(body, **how)[0] == status


def test_who_may_not_reward_is_refused(send, no_rewarder):
    assert send(b"{}", token=no_rewarder)[0] == 403


def parsed(**attributes):
    found = logs_pb2.LogRecord(event_name=EVENT, time_unix_nano=1)
    for key, value in attributes.items():
        one = found.attributes.add(key=key.replace("__", "."))
        kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}[type(value)]
        setattr(one.value, kind, value)
    return found


RANGES = {"resolved": (0.0, 1.0), "Harm": (10.0, 0.0)}
GOOD = {
    "gen_ai__evaluation__name": "resolved",
    "gen_ai__evaluation__score__value": 1.0,
    "pointsman__decision_id": "d",
}


def test_an_id_of_its_own_tells_an_event_from_others():
    one, other = (reward(parsed(**GOOD, log__record__uid=uid), {}, RANGES).request_id for uid in ("u1", "u2"))
    assert one != other
    assert reward(parsed(**GOOD), {}, RANGES) == reward(parsed(**GOOD), {}, RANGES)


def test_a_range_may_be_upside_down():
    found = reward(
        parsed(**{**GOOD, "gen_ai__evaluation__name": "Harm", "gen_ai__evaluation__score__value": 2.5}), {}, RANGES
    )
    assert found.success == 0.75


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"gen_ai__evaluation__name": ""}, "gen_ai.evaluation.name"),
        ({"gen_ai__evaluation__name": 3}, "gen_ai.evaluation.name"),
        ({"gen_ai__evaluation__score__value": math.nan}, "gen_ai.evaluation.score.value"),
        ({"gen_ai__evaluation__score__value": True}, "gen_ai.evaluation.score.value"),
        ({"gen_ai__evaluation__score__value": "1"}, "gen_ai.evaluation.score.value"),
        ({"gen_ai__evaluation__score__value": 1.5}, "gen_ai.evaluation.score.value"),
        ({"pointsman__decision_id": ""}, "pointsman.decision_id"),
        ({"pointsman__final": "yes"}, "pointsman.final"),
        ({"log__record__uid": 5}, "log.record.uid"),
    ],
)
def test_what_is_wrong_with_an_event_is_named(change, field):
    with pytest.raises(InvalidInput) as refused:
        reward(parsed(**{**GOOD, **change}), {}, RANGES)
    assert refused.value.field == field
