"""A real server that asks for tokens: every method, every scope, every router, and whoever tries to get around them."""

import json
import socket
import threading
import time

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pointsman import Client, retry_seconds
from pointsman.requests import select_request
from pointsman.v1 import admin_pb2, events_pb2, routing_pb2
from server.auth import rights
from server.auth.grants import Scope
from server.cli import main

CONFIG = """
[security]
tokens = true
[[routers]]
id = "ours"
policy = "uniform"
[[routers]]
id = "theirs"
policy = "uniform"
[[arms]]
id = "a"
[[arms]]
id = "b"
"""
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, tokens_of):
    return tokens_of(tmp_path_factory.mktemp("guarded") / "data")


@pytest.fixture(scope="module")
def all_scopes(tokens):
    """A token for each scope alone, and one for all of them, on router `ours` and on all."""
    made = {(scope, routers): tokens.create(scope, routers=routers) for scope in Scope for routers in ((), ("ours",))}
    made["all", ()] = tokens.create(*Scope)
    made["all", ("ours",)] = tokens.create(*Scope, routers=("ours",))
    return made


@pytest.fixture(scope="module")
def guarded(serving, tokens, all_scopes):
    return serving(tokens.data_dir, CONFIG)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def code_of(call) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in (routing_pb2, admin_pb2, events_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def call(server, name: str, request: bytes, metadata) -> grpc.StatusCode:
    method = METHODS[name]
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    stub = getattr(server.channel, kind)(name)
    sent = iter([request]) if method.client_streaming else request
    return code_of(lambda: list(stub(sent, timeout=10, metadata=metadata)))


def of_router(name: str, router: str) -> bytes:
    """A request of a method about a router, which changes nothing if it is let in."""
    if name.endswith("CreateRouter"):
        return admin_pb2.CreateRouterRequest(router=router).SerializeToString()
    if name.endswith("BatchSelect"):
        return routing_pb2.BatchSelectRequest(router=router).SerializeToString()
    return GetMessageClass(METHODS[name].input_type)(router=router).SerializeToString()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_open_to_its_scope_alone_and_on_the_tokens_routers(guarded, all_scopes, name):
    right = rights.of(name)
    assert right is not None and right.scope is not None, "every method of ours asks for something"
    for metadata in ((), bearer("pointsman_x_y"), (("authorization", "Bearer"),)):
        assert call(guarded, name, b"\xff", metadata) is UNAUTHENTICATED, "before a message is looked at"
    for (scope, routers), token in all_scopes.items():
        for router in ("ours", "theirs"):
            found = call(guarded, name, of_router(name, router), bearer(token))
            allowed = scope in (right.scope, "all") and (not routers or router in routers)
            if name.endswith("BatchSelect") and scope in (right.scope, "all"):
                allowed = True  # its items are looked at by themselves
            assert (found not in (UNAUTHENTICATED, DENIED)) == allowed, (scope, routers, router, found)
            assert found is not grpc.StatusCode.UNKNOWN and found is not grpc.StatusCode.INTERNAL


def test_a_batch_is_answered_item_by_item(guarded, tokens, all_scopes):
    items = [select_request(router=router) for router in ("ours", "theirs", "", "ours")]
    request = routing_pb2.BatchSelectRequest(router="theirs", requests=items)
    response = guarded.routing.BatchSelect(request, metadata=bearer(all_scopes[Scope.ROUTE, ("ours",)]))
    assert [item.status.code for item in response.responses] == [0, 7, 7, 0]
    assert response.responses[0].response.decision_id


def test_a_decision_of_another_router_is_not_found_by_its_id(guarded, all_scopes):
    whole, ours = bearer(all_scopes["all", ()]), bearer(all_scopes["all", ("ours",)])
    theirs = guarded.routing.Select(select_request(router="theirs", session_id="shared"), metadata=whole)
    guarded.routing.Select(select_request(router="ours", session_id="shared"), metadata=whole)
    last = last_sequence(guarded, whole)
    ids = {"decision_id": theirs.decision_id}
    signals = routing_pb2.ProgressSignals(turns=1)
    left = routing_pb2.ESCALATION_REASON_USER_REQUEST
    for session in ({}, {"session_id": "shared"}):
        asked = [
            lambda s=session: guarded.routing.Escalate(
                routing_pb2.EscalateRequest(router="ours", reason=left, **ids, **s), metadata=ours
            ),
            lambda s=session: guarded.routing.ReportProgress(
                routing_pb2.ReportProgressRequest(router="ours", signals=signals, **ids, **s), metadata=ours
            ),
        ]
        assert [code_of(one) for one in asked] == [grpc.StatusCode.NOT_FOUND] * 2
    reward = routing_pb2.RewardRequest(router="ours", success=1.0, **ids)
    assert code_of(lambda: guarded.routing.Reward(reward, metadata=ours)) is grpc.StatusCode.NOT_FOUND
    read = routing_pb2.GetDecisionRequest(router="ours", **ids)
    assert code_of(lambda: guarded.routing.GetDecision(read, metadata=ours)) is grpc.StatusCode.NOT_FOUND
    assert last_sequence(guarded, whole) == last


def last_sequence(server, metadata) -> int:
    request = admin_pb2.GetRouterRequest(router="ours")
    return server.admin.GetRouter(request, metadata=metadata).router.last_sequence


def test_the_whole_log_is_for_those_who_may_read_all_routers(guarded, all_scopes):
    def export(token, **fields):
        return code_of(lambda: list(guarded.events.ExportEvents(events_pb2.ExportEventsRequest(**fields),
                                                                metadata=bearer(token))))  # fmt: skip

    ours = all_scopes["all", ("ours",)]
    assert export(ours, router="ours") is grpc.StatusCode.OK
    assert export(ours, router="ours", all_routers=True) is DENIED
    assert export(all_scopes[Scope.READ, ()], all_routers=True) is grpc.StatusCode.OK
    event = events_pb2.Event(router="theirs", kind="decided")
    smuggled = [events_pb2.ImportEventsRequest(router="ours", events=[event])]
    assert code_of(lambda: guarded.events.ImportEvents(iter(smuggled), metadata=bearer(ours))) is DENIED
    listed = admin_pb2.ListRoutersRequest()
    assert code_of(lambda: guarded.admin.ListRouters(listed, metadata=bearer(ours))) is DENIED


def test_headers_that_try_to_get_around(guarded, all_scopes):
    good = all_scopes["all", ()]
    request = admin_pb2.GetRouterRequest(router="ours")

    def get(*metadata) -> grpc.StatusCode:
        return code_of(lambda: guarded.admin.GetRouter(request, metadata=metadata, timeout=10))

    ok = ("authorization", f"Bearer {good}")
    assert get(ok) is grpc.StatusCode.OK
    assert get(("authorization", f"bEARER {good}")) is grpc.StatusCode.OK
    wrong = [
        (ok, ok),
        (ok, ("authorization", "Bearer x")),
        (("authorization", "Bearer x"), ok),
        (("authorization-bin", f"Bearer {good}".encode()),),
        (("x-authorization", f"Bearer {good}"),),
        (("authorization", f"Basic {good}"),),
        (("authorization", f"Bearer {good},Bearer {good}"),),
        (("authorization", good),),
        (("authorization", ""),),
        (("authorization", f"Bearer {good.upper()}"),),
        (("authorization", "Bearer " + "x" * 6000),),
    ]
    for metadata in wrong:
        assert get(*metadata) is UNAUTHENTICATED, metadata
    # Beyond what grpc takes of headers, or what may stand in one, the call does not come to us.
    huge = get(("authorization", "Bearer " + "x" * 1_000_000))
    assert huge in (grpc.StatusCode.RESOURCE_EXHAUSTED, UNAUTHENTICATED)
    for value in (b"Bearer \xff\xfe\x00", f"Bearer {good}\n".encode(), f"Bearer {good}\r\nx: y".encode(), b"\x00"):
        assert b"Bearer" not in by_hand(guarded.grpc, value)
    assert get(ok) is grpc.StatusCode.OK


def by_hand(address: str, authorization: bytes) -> bytes:
    """What comes back over HTTP/2 on a GetRouter with a header that no client library would send."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/pointsman.v1.Admin/GetRouter",
        b":authority": b"x",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
        b"authorization": authorization,
    }
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        connection.sendall(frame(1, 4, 1, b"".join(literal(*header) for header in headers.items())))
        connection.sendall(frame(0, 1, 1, bytes(5)))
        connection.settimeout(0.5)
        came = b""
        try:
            while data := connection.recv(65536):
                came += data
        except OSError:
            pass
        return came


def test_health_is_open_and_reflection_is_for_whoever_is_known(guarded, all_scopes):
    health = health_pb2_grpc.HealthStub(guarded.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    watched = health.Watch(health_pb2.HealthCheckRequest())
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    assert code_of(lambda: list(reflection.ServerReflectionInfo(iter(asked)))) is UNAUTHENTICATED
    answers = list(reflection.ServerReflectionInfo(iter(asked), metadata=bearer(all_scopes[Scope.REWARD, ("ours",)])))
    assert "pointsman.v1.Routing" in [service.name for service in answers[0].list_services_response.service]


def test_a_token_ends_when_it_is_revoked_or_expires_and_a_new_one_begins_without_a_restart(guarded, tokens, all_scopes):
    whole = bearer(all_scopes["all", ()])
    request = admin_pb2.GetRouterRequest(router="ours")

    def get(token) -> grpc.StatusCode:
        return code_of(lambda: guarded.admin.GetRouter(request, metadata=bearer(token)))

    token = tokens.create("read", "route")
    soon = tokens.create("read", flags=("--days", str(3 / 86_400)))
    until(lambda: get(token) is grpc.StatusCode.OK)
    following = guarded.events.ExportEvents(
        events_pb2.ExportEventsRequest(all_routers=True, follow=True), metadata=bearer(token)
    )
    seen = []
    reader = threading.Thread(target=lambda: seen.append(code_of(lambda: seen.extend(following))))
    reader.start()
    until(lambda: seen)
    tokens.revoke(token)
    until(lambda: get(token) is UNAUTHENTICATED)
    after = last_sequence(guarded, whole)
    guarded.routing.Select(select_request(router="ours"), metadata=whole)
    reader.join(20)
    assert seen[-1] is UNAUTHENTICATED, "the stream ends with the token"
    assert max(event.sequence for chunk in seen[:-1] for event in chunk.events) <= after
    until(lambda: get(soon) is UNAUTHENTICATED)
    assert get(all_scopes["all", ()]) is grpc.StatusCode.OK


def until(there, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sessions_are_begun_no_faster_than_the_token_says(guarded, tokens):
    slow, free = (tokens.create("route", "read", flags=flags) for flags in (("--sessions-per-second", "0.01"), ()))
    until(lambda: code_of(lambda: guarded.admin.GetRouter(admin_pb2.GetRouterRequest(router="ours"),
                                                          metadata=bearer(free))) is grpc.StatusCode.OK)  # fmt: skip

    def select(token, **fields):
        return guarded.routing.Select(select_request(router="ours", **fields), metadata=bearer(token))

    first = select(slow, session_id="slow-1", request_id="r1")
    with pytest.raises(grpc.RpcError) as refused:
        select(slow, session_id="slow-2", request_id="r2")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 50 < retry_seconds(refused.value) <= 100
    # What began already goes on, and a repeat is a repeat; neither is a session begun.
    assert select(slow, session_id="slow-1", request_id="r1") == first
    assert select(slow, session_id="slow-1").reason == routing_pb2.SELECT_REASON_STICKY
    batch = routing_pb2.BatchSelectRequest(requests=[select_request(router="ours"), select_request(router="ours")])
    answers = guarded.routing.BatchSelect(batch, metadata=bearer(slow)).responses
    assert [answer.status.code for answer in answers] == [8, 8]
    assert answers[0].status.details[0].type_url.endswith("google.rpc.RetryInfo")
    for i in range(20):
        select(free, session_id=f"free-{i}")
    # The request that was refused left nothing behind: somebody else may use its id.
    assert select(free, session_id="slow-2", request_id="r2").attempt == 1


def test_commands_bring_a_token(guarded, all_scopes, monkeypatch, capsys):
    status = ["status", "--server", guarded.grpc, "--router", "ours"]
    assert main(status) == 1
    assert "UNAUTHENTICATED: a bearer token is required" in capsys.readouterr().err
    assert main([*status, "--token", all_scopes[Scope.READ, ("ours",)]]) == 0
    monkeypatch.setenv("POINTSMAN_TOKEN", all_scopes[Scope.READ, ()])
    assert main(["status", "--server", guarded.grpc]) == 0
    assert "theirs" in capsys.readouterr().out
    out = str(guarded.data_dir.with_name("exported"))
    assert main(["export", out, "--server", guarded.grpc, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] > 0
    assert main(["status", "--server", "example.org:50051"]) == 2
    assert "--token: is not sent in plaintext to example.org:50051" in capsys.readouterr().err


def test_the_client_brings_a_token(guarded, all_scopes):
    with Client(guarded.grpc, router="ours", token=all_scopes[Scope.ROUTE, ("ours",)]) as client:
        choice = client.select({"category": "bugfix"})
        with pytest.raises(grpc.RpcError) as refused:
            client.reward(decision_id=choice.decision_id, success=1.0)
    assert refused.value.code() is DENIED
    assert "lacks the scope 'reward'" in refused.value.details()
