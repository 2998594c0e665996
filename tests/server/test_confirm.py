"""A live run, and every decision of it recomputed from the log."""

import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb

CONFIG = """
[router]
policy = "thompson"
draws = 32
seed = 3
[[arms]]
id = "cheap"
capabilities = ["vision"]
figures = [{ success_rate = 0.5, cost_usd = 0.1 }]
[[arms]]
id = "middle"
[[arms]]
id = "dear"
figures = [{ success_rate = 0.8, cost_usd = 1.5 }]
"""


def epoch_of(server) -> int:
    return server.admin.GetRouter(admin_pb2.GetRouterRequest(), timeout=10).router.epoch


def wait_for(holds) -> None:
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends, "waited for in vain"
        time.sleep(0.02)


def live_session(server, number: int) -> list[str]:
    rng = random.Random(number)
    request = pb.SelectRequest(session_id=f"live-{number}")
    request.features["category"].category = rng.choice(["bug", "docs", "test"])
    request.features["files"].number = rng.randrange(9)
    request.features["title"].text = f"number {number}"
    if number % 7 == 0:
        request.pinned_arm = "middle"
    elif number % 11 == 0:
        request.required_capabilities.append("vision")
    choice = server.routing.Select(request, timeout=10)
    decisions = [choice.decision_id]
    if rng.random() < 0.5:
        leave = pb.EscalateRequest(decision_id=choice.decision_id, reason=rng.randint(1, 6))
        leave.features["files"].number = 20
        answer = server.routing.Escalate(leave, timeout=10)
        if answer.HasField("next"):
            decisions.append(answer.next.decision_id)
    reward = pb.RewardRequest(decision_id=decisions[-1], success=float(rng.random() < 0.6), cost_usd=rng.random())
    server.routing.Reward(reward, timeout=10)
    return decisions


@pytest.mark.parametrize(
    ("decided", "waves"), [(300, 3), pytest.param(1000, 5, marks=[pytest.mark.long, pytest.mark.timeout(200)])]
)
def test_every_decision_of_a_live_run_is_confirmed(serving, tmp_path, decided, waves):
    data_dir = tmp_path / "data"
    server = serving(data_dir, CONFIG)
    decisions: list[str] = []
    with ThreadPoolExecutor(24) as pool:
        # In waves: otherwise the run may be over before the fitter has published anything.
        each = 3 * decided // (4 * waves)
        for wave in range(waves):
            epoch = epoch_of(server)
            for some in pool.map(lambda i: live_session(server, i), range(each * wave, each * (wave + 1))):
                decisions += some
            wait_for(lambda before=epoch: epoch_of(server) > before)

    def unconfirmed(decision_id: str) -> str:
        return server.routing.GetDecision(pb.GetDecisionRequest(decision_id=decision_id), timeout=20).unconfirmed_reason

    checked = decisions[:decided]
    assert len(checked) == decided
    assert [why for decision in checked if (why := unconfirmed(decision))] == []
    assert len({server.routing.GetDecision(pb.GetDecisionRequest(decision_id=d)).epoch for d in checked[::10]}) > 2

    # Without the published epochs they are folded anew from the log.
    assert server.stop() == 0
    shutil.rmtree(data_dir / "epochs")
    server = serving(data_dir, CONFIG)
    assert [why for decision in checked[::100] if (why := unconfirmed(decision))] == []
    assert server.stop() == 0
