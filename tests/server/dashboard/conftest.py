"""A server with traffic, and whoever asks its dashboard."""

import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from pointsman.v1 import routing_pb2 as pb

TWO_ROUTERS = """
[[routers]]
id = "main"
seed = 7
baseline_arm = "c"
[[routers]]
id = "other"
policy = "uniform"
[[arms]]
id = "a"
input_usd_per_million = 1.0
output_usd_per_million = 4.0
figures = [{ success_rate = 0.6, cost_usd = 0.2 }]
[[arms]]
id = "b"
figures = [{ success_rate = 0.5, cost_usd = 0.1 }]
[[arms]]
id = "c"
figures = [{ success_rate = 0.8, cost_usd = 1.0 }]
"""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Browser:
    """Asks as the page does."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.cookie = ""

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            given["Cookie"] = self.cookie
        connection.request(method, path, body, given)
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        connection.close()
        if (cookie := response.headers.get("Set-Cookie")) is not None:
            self.cookie = cookie.partition(";")[0]
        return answer

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json()

    def post(self, path: str, body: object, **changed: str) -> Answer:
        headers = {
            "Content_Type": "application/json",
            "Origin": f"http://{self._address}",
            "X_Pointsman_CSRF": self.get("/api/state")["csrf"],
        }
        return self.ask("POST", path, json.dumps(body).encode(), **{**headers, **changed})


@pytest.fixture(scope="package")
def busy(serving, tmp_path_factory):
    """A server with two routers, of which one has had sessions of every kind."""
    server = serving(tmp_path_factory.mktemp("busy") / "data", TWO_ROUTERS)
    live(server.routing, "main", 60)
    return server


@pytest.fixture
def browser(busy) -> Browser:
    return Browser(busy.http)


def live(routing: Any, router: str, sessions: int, name: Callable[[int], str] = "session-{}".format) -> None:
    """Sessions that succeed, fail, move on, are corrected, and stay open: one in five of each."""
    left = pb.ESCALATION_REASON_VERIFIED_FAILURE
    for i in range(sessions):
        features = {"category": pb.FeatureValue(category="xy"[i % 2])}
        choice = routing.Select(pb.SelectRequest(router=router, session_id=name(i), features=features))
        kind = i % 5
        if kind == 1:
            outcome = pb.AttemptOutcome(cost_usd=0.25)
            escalate = pb.EscalateRequest(router=router, session_id=name(i), reason=left, outcome=outcome)
            routing.Escalate(escalate)
        if kind != 4:
            told = {"router": router, "session_id": name(i), "success": float(kind != 2), "cost_usd": 0.5}
            routing.Reward(pb.RewardRequest(**told, final=True))
        if kind == 3:
            routing.Reward(pb.RewardRequest(router=router, decision_id=choice.decision_id, success=0.0))
