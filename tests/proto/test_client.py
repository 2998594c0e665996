"""The clients against a real server with a servicer that plays a script. Each test runs once per client."""

import asyncio
import inspect
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from pointsman import AsyncClient, Client, EscalationReason, Text, Usage, field_violations, requests, select_request
from pointsman.v1 import admin_pb2, admin_pb2_grpc, routing_pb2_grpc
from pointsman.v1 import routing_pb2 as pb

Answer = Message | grpc.StatusCode | status_pb2.Status


class Service(routing_pb2_grpc.RoutingServicer, admin_pb2_grpc.AdminServicer):
    """Answers every method by the next answer of the script and remembers what it was asked."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.asked: list[Any] = []
        self.metadata: list[dict[str, str | bytes]] = []

    def play(self, request: Message, context: grpc.ServicerContext) -> Any:
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        answer = self.script.pop(0)
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "as scripted")
        if isinstance(answer, status_pb2.Status):
            context.set_trailing_metadata((("grpc-status-details-bin", answer.SerializeToString()),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, answer.message)
        return answer

    Select = BatchSelect = Escalate = ReportProgress = Reward = GetSession = GetDecision = play
    ListArms = PutArm = play


class Blocking:
    """An `AsyncClient` whose methods can be called like those of a `Client`."""

    def __init__(self, target: str, **settings: Any) -> None:
        async def make() -> AsyncClient:
            return AsyncClient(target, **settings)

        self.loop = asyncio.new_event_loop()
        try:
            self.client = self.loop.run_until_complete(make())
        except ValueError:
            self.loop.close()
            raise

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        return lambda *args, **kwargs: self.loop.run_until_complete(method(*args, **kwargs))

    def __enter__(self) -> "Blocking":
        self.loop.run_until_complete(self.client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.loop.run_until_complete(self.client.__aexit__(kind, error, traceback))
        self.loop.close()


@pytest.fixture
def service() -> Service:
    # Abstract in the stubs only: at run time a method that is left out answers UNIMPLEMENTED.
    return Service()  # type: ignore[abstract]


@pytest.fixture
def target(service: Service) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    routing_pb2_grpc.add_RoutingServicer_to_server(service, server)
    admin_pb2_grpc.add_AdminServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(params=[Client, Blocking], ids=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_features_become_values_of_their_kind(connect: Any, target: str, service: Service) -> None:
    service.script = [pb.SelectResponse(decision_id="d", arm="a")]
    features = {"files": 3, "new": True, "kind": "bugfix", "title": Text("fix it"), "vector": [1.0, 2.5]}
    with connect(target, router="r", token="secret") as client:
        assert client.select(features, session_id="s", deny=["b"], max_cost_usd=0.0).arm == "a"
    asked = service.asked[0]
    assert {name: value.WhichOneof("value") for name, value in asked.features.items()} == {
        "files": "number",
        "new": "flag",
        "kind": "category",
        "title": "text",
        "vector": "embedding",
    }
    assert asked.features["files"].number == 3
    assert list(asked.features["vector"].embedding.values) == [1.0, 2.5]
    assert (asked.router, asked.session_id, list(asked.deny)) == ("r", "s", ["b"])
    assert asked.HasField("max_cost_usd") and len(asked.request_id) == 32
    assert service.metadata[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize("value", [None, b"bytes", {"a": 1}, object()])
def test_a_feature_of_no_kind_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match="'odd'"):
        select_request({"odd": value})


def test_unavailable_is_retried_with_the_same_request_id(connect: Any, target: str, service: Service) -> None:
    down = grpc.StatusCode.UNAVAILABLE
    service.script = [down, down, pb.RewardResponse(accepted_revision=7)]
    with connect(target) as client:
        assert client.reward(decision_id="d", success=0.0, final=True) == 7
    assert len(service.asked) == 3
    assert service.asked[0] == service.asked[1] == service.asked[2]
    assert service.asked[0].request_id
    assert service.asked[0].HasField("success") and not service.asked[0].HasField("cost_usd")


def test_calls_have_request_ids_of_their_own(connect: Any, target: str, service: Service) -> None:
    service.script = [pb.RewardResponse() for _ in range(3)]
    with connect(target) as client:
        client.reward(decision_id="d", success=1.0)
        client.reward(decision_id="d", success=1.0)
        client.reward(decision_id="d", success=1.0, request_id="mine")
    ids = [asked.request_id for asked in service.asked]
    assert len(set(ids)) == 3 and ids[2] == "mine"


def test_retries_are_bounded(connect: Any, target: str, service: Service) -> None:
    service.script = [grpc.StatusCode.UNAVAILABLE] * 9
    with connect(target, retries=2) as client, pytest.raises(grpc.RpcError) as raised:
        client.get_session("s")
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(service.asked) == 3


@pytest.mark.parametrize("code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_an_answer_is_not_retried(connect: Any, target: str, service: Service, code: grpc.StatusCode) -> None:
    service.script = [code]
    with connect(target, baseline_arm="a") as client, pytest.raises(grpc.RpcError) as raised:
        client.select()
    assert raised.value.code() is code
    assert len(service.asked) == 1


def test_pauses_grow_and_stay_bounded() -> None:
    longest = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    found = list(requests.pauses(len(longest), Random(1)))
    assert all(half / 2 <= pause <= half for pause, half in zip(found, longest, strict=True))


def test_no_pause_reaches_beyond_the_deadline() -> None:
    class Down(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAVAILABLE

    assert requests.next_pause(Down(), iter([0.5]), 0.6) == 0.5
    assert requests.next_pause(Down(), iter([0.5]), 0.4) is None
    assert requests.next_pause(grpc.RpcError(), iter([0.5]), 0.6) is None


def test_field_violations_are_decoded(connect: Any, target: str, service: Service) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="cost_usd", description="must be 0 or more")
    bad.field_violations.add(field="success", description="must be at most 1")
    status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="bad")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="first, and not a BadRequest"))
    status.details.add().Pack(bad)
    service.script = [status]
    with connect(target) as client, pytest.raises(grpc.RpcError) as raised:
        client.reward(decision_id="d", cost_usd=-1.0, success=2.0)
    assert field_violations(raised.value) == [("cost_usd", "must be 0 or more"), ("success", "must be at most 1")]


def test_field_violations_of_a_plain_error_are_empty(connect: Any, target: str, service: Service) -> None:
    service.script = [grpc.StatusCode.NOT_FOUND]
    with connect(target) as client, pytest.raises(grpc.RpcError) as raised:
        client.get_decision("nobody")
    assert field_violations(raised.value) == field_violations(grpc.RpcError()) == []


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nobody listens, held so that nobody else will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_baseline_stands_in_and_is_unlogged(connect: Any, nowhere: str) -> None:
    with connect(nowhere, baseline_arm="old", retries=1) as client:
        choice = client.select({"kind": "docs"}, session_id="s")
        assert choice == pb.SelectResponse(
            session_id="s", arm="old", propensity=1.0, reason=pb.SELECT_REASON_BASELINE, attempt=1
        )
        assert client.escalate(choice, reason=EscalationReason.ESCALATION_REASON_STRUGGLING) is None
        assert client.report_progress(choice, pb.ProgressSignals()).action == pb.PROGRESS_ACTION_CONTINUE
        assert client.reward(decision_id=choice.decision_id, success=1.0) is None
        assert client.select(pinned_arm="mine").arm == "mine"


def test_baseline_stands_in_for_a_service_that_hangs(connect: Any, silent: str) -> None:
    with connect(silent, baseline_arm="old", timeout_seconds=0.2) as client:
        assert client.select().reason == pb.SELECT_REASON_BASELINE


def test_baseline_does_not_override_the_caller(connect: Any, nowhere: str) -> None:
    with connect(nowhere, baseline_arm="old", retries=0) as client:
        for rules in ({"deny": ["old"]}, {"allow": ["new"]}):
            with pytest.raises(grpc.RpcError):
                client.select(**rules)
        allowed, denied = client.batch_select([select_request(session_id="s"), select_request(deny=["old"])])
    assert allowed.response.arm == "old"
    assert denied.status.code == grpc.StatusCode.UNAVAILABLE.value[0]


def test_without_baseline_the_error_is_raised(connect: Any, nowhere: str) -> None:
    with connect(nowhere, retries=0) as client, pytest.raises(grpc.RpcError) as raised:
        client.select()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_reward_takes_one_id(connect: Any, target: str) -> None:
    with connect(target) as client:
        for ids in ({}, {"decision_id": "d", "session_id": "s"}):
            with pytest.raises(ValueError, match="decision_id or session_id"):
                client.reward(success=1.0, **ids)


def test_escalate_answers_next_or_exhausted(connect: Any, target: str, service: Service) -> None:
    left = pb.SelectResponse(decision_id="d1", arm="a")
    service.script = [
        pb.EscalateResponse(next=pb.SelectResponse(decision_id="d2", arm="b")),
        pb.EscalateResponse(exhausted=pb.Exhausted(stop_propensity=1.0)),
    ]
    reason = pb.ESCALATION_REASON_VERIFIED_FAILURE
    with connect(target) as client:
        moved = client.escalate(left, reason=reason, cost_usd=0.5, usage=Usage(input_tokens=9), features={"n": 1})
        assert moved.arm == "b"
        assert client.escalate("d2", reason=reason) is None
    first, second = service.asked
    assert (first.decision_id, second.decision_id) == ("d1", "d2")
    assert (first.outcome.cost_usd, first.outcome.usage.input_tokens) == (0.5, 9)
    assert not first.outcome.HasField("latency_seconds")
    assert first.features["n"].number == 1


def test_what_is_needed_is_told(connect: Any, target: str, service: Service) -> None:
    service.script = [pb.SelectResponse(decision_id="d"), pb.EscalateResponse(next=pb.SelectResponse(arm="b"))]
    with connect(target) as client:
        client.select(required_capabilities=["vision"], context_tokens=0)
        reason = EscalationReason.ESCALATION_REASON_UNAVAILABLE
        client.escalate("d", reason=reason, required_capabilities=["tools"], context_tokens=9, endpoint="east")
    first, second = service.asked
    assert first.HasField("context_tokens") and list(first.required_capabilities) == ["vision"]
    assert (list(second.required_capabilities), second.context_tokens, second.endpoint) == (["tools"], 9, "east")


def test_any_method_can_be_called_and_changes_are_safe_to_retry(connect: Any, target: str, service: Service) -> None:
    service.script = [grpc.StatusCode.UNAVAILABLE, admin_pb2.PutArmResponse(), admin_pb2.PutArmResponse()]
    bare = admin_pb2.PutArmRequest(router="r", arm=admin_pb2.Arm(id="a"))
    with connect(target) as client:
        admin = client.client.admin if isinstance(client, Blocking) else client.admin
        client.call(admin.PutArm, bare)
        client.call(admin.PutArm, admin_pb2.PutArmRequest(request_id="mine"))
    first, again, mine = service.asked
    assert first == again and len(first.request_id) == 32 and mine.request_id == "mine"
    assert not bare.request_id, "the caller's message is left as it was"


def test_batch_items_get_request_ids(connect: Any, target: str, service: Service) -> None:
    result = pb.BatchSelectResult(response=pb.SelectResponse(arm="a"))
    service.script = [pb.BatchSelectResponse(responses=[result, result])]
    bare = pb.SelectRequest(session_id="s")
    with connect(target, router="r") as client:
        assert client.batch_select([bare, select_request(request_id="mine")]) == [result, result]
    first, second = service.asked[0].requests
    assert first.request_id and second.request_id == "mine"
    assert service.asked[0].router == "r"
    assert not bare.request_id, "the caller's message is left as it was"


def test_reads_and_arms(connect: Any, target: str, service: Service) -> None:
    arm = admin_pb2.Arm(id="a", prices=admin_pb2.Prices(input_usd_per_million=1.0))
    service.script = [
        pb.GetSessionResponse(session_id="s"),
        pb.GetDecisionResponse(decision_id="d", confirmed=True),
        pb.ReportProgressResponse(action=pb.PROGRESS_ACTION_STOP),
        admin_pb2.ListArmsResponse(arms=[arm]),
        admin_pb2.PutArmResponse(arm=arm),
    ]
    with connect(target) as client:
        assert client.get_session("s").session_id == "s"
        assert client.get_decision("d").confirmed
        assert client.report_progress("d", pb.ProgressSignals(turns=3)).action == pb.PROGRESS_ACTION_STOP
        assert client.list_arms(include_retired=True) == [arm]
        assert client.put_arm(arm) == arm
    assert service.asked[2].signals.turns == 3
    assert service.asked[3].include_retired
    assert service.asked[4].request_id


@pytest.mark.parametrize("settings", [{"timeout_seconds": 0.0}, {"timeout_seconds": float("nan")}, {"retries": -1}])
def test_settings_are_checked(connect: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        connect("127.0.0.1:1", **settings)


def test_a_channel_of_the_callers_stays_open(target: str, service: Service) -> None:
    service.script = [pb.GetSessionResponse(), pb.GetSessionResponse()]
    with grpc.insecure_channel(target) as channel:
        for _ in range(2):
            with Client(channel=channel) as client:
                client.get_session("s")


def test_both_clients_have_the_same_methods() -> None:
    def public(client: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: list(inspect.signature(method).parameters.values())
            for name, method in inspect.getmembers(client, inspect.isfunction)
            # `call` differs in the kind of method it takes.
            if not name.startswith("_") and name != "call"
        }

    assert public(Client) == public(AsyncClient)
