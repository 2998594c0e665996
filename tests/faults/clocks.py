"""The wall clock jumps by an hour and back: ids, windows, pacing and what was said before go on as if it had not.

An hour's jump must not close a session an hour early, nor spend a budget anew, nor make an id twice. What waits for a
time of day (an arm that is down until then, a session whose reward is late) may have to wait an hour longer once the
clock has fallen back.
"""

import math
import random
import time
from collections.abc import Callable

from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server.store.sqlite import SqliteReader
from tests.faults.processes import Server, start
from tests.faults.shim import Shim
from tests.faults.trial import Figures, Trial, require

AIM = "the clock jumps by an hour, either way, 58 times: ids, repeats, reward waits and budget unharmed"

_WAIT_SECONDS = 6.0
_CONFIG = f"""
[router]
policy = "uniform"
reward_wait_seconds = {_WAIT_SECONDS}
[router.objective]
budget_usd = 100000.0
budget_period_seconds = 1000000000.0
[[arms]]
id = "a"
[[arms]]
id = "b"
"""
"""The period ends in 2033, so that what is spent in it can be added up whatever the clock says."""


class _Told:
    """What one server was told and has answered, through all jumps."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.answers: dict[str, pb.SelectResponse] = {}
        self.spent_usd = 0.0

    def select(self, name: str) -> pb.SelectResponse:
        answer = self.server.routing.Select(pb.SelectRequest(session_id=name, request_id=name), timeout=30)
        require(answer == self.answers.setdefault(name, answer), f"a repeat of {name} was answered differently")
        return answer

    def reward(self, name: str, cost_usd: float) -> None:
        """The first outcome of a session."""
        decision_id = self.answers[name].decision_id
        self.server.routing.Reward(
            pb.RewardRequest(decision_id=decision_id, success=1.0, cost_usd=cost_usd), timeout=30
        )
        self.spent_usd += cost_usd

    def require_paced(self) -> None:
        router = self.server.admin.GetRouter(admin_pb2.GetRouterRequest()).router
        require(
            abs(router.budget_spent_usd - self.spent_usd) < 1e-6,
            f"{router.budget_spent_usd} spent, not {self.spent_usd}",
        )
        require(math.isfinite(router.budget_price), f"a dollar costs {router.budget_price}")

    def closed(self, name: str) -> bool:
        return self.server.routing.GetSession(pb.GetSessionRequest(session_id=name), timeout=30).closed


def _jump(told: _Told, shim: Shim, number: int, ahead_seconds: float, rng: random.Random) -> None:
    before, after = f"before-{number}", f"after-{number}"
    greatest = max((answer.decision_id for answer in told.answers.values()), default="")
    told.select(before)
    begun = time.monotonic()
    shim.set_clock(ahead_seconds)
    told.select(after)
    require(greatest < told.answers[before].decision_id < told.answers[after].decision_id, "ids are not in order")
    told.select(before)
    told.select(rng.choice(list(told.answers)))
    shown = told.server.routing.GetDecision(pb.GetDecisionRequest(decision_id=told.answers[before].decision_id))
    require(shown.confirmed, f"{before}: {shown.unconfirmed_reason}")
    # The sweep that closes sessions runs several times a second here.
    time.sleep(1.0)
    for name in (before, after):
        closed = told.closed(name)
        # It may go at twice the pace of real time after a jump, and no faster.
        early = time.monotonic() - begun < _WAIT_SECONDS / 2
        require(not (closed and early), f"{name} was closed within {time.monotonic() - begun:.1f} s")
    told.reward(before, cost_usd=rng.randrange(100) / 8)
    told.reward(after, cost_usd=1.0)
    told.require_paced()


def _until(holds: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + 10 * _WAIT_SECONDS
    while not holds():
        require(time.monotonic() < ends, what)
        time.sleep(0.1)


def run(trial: Trial) -> Figures:
    """Jumps, restarts in a wrong hour, and comes back."""
    rng = random.Random(trial.seed)
    jumps = trial.size(full=60, quick=3)
    data_dir = trial.folder / "data"
    with Shim(trial.folder, data_dir) as shim:
        told = _Told(start(data_dir, _CONFIG, environment=shim.environment))
        try:
            told.select("first")
            told.select("never rewarded")
            forth = [3600.0, 0.0] * (jumps // 3)
            for number, ahead_seconds in enumerate(forth):
                _jump(told, shim, number, ahead_seconds, rng)
                trial.tell(number + 1, jumps)
            _until(lambda: told.closed("never rewarded"), "with the right time again a session is never closed")
            # From now on what waits may wait an hour longer.
            for number, ahead_seconds in enumerate([-3600.0, 3600.0, 0.0] * (jumps // 9), len(forth)):
                _jump(told, shim, number, ahead_seconds, rng)
                trial.tell(number + 1, jumps)
            if not trial.quick:
                told.server.kill()
                shim.set_clock(-3600.0)
                told.server = start(data_dir, _CONFIG, environment=shim.environment)
                for name in list(told.answers):
                    told.select(name)
                told.select("an hour before it all")
                told.require_paced()
        finally:
            told.server.kill()
    reader = SqliteReader(data_dir)
    try:
        problems = reader.verify()
        decided = [event.decision_id for event in reader.read(0, 100_000) if event.kind == "decided"]
    finally:
        reader.close()
    require(not problems, f"the log is not whole: {problems[:3]}")
    require(len(set(decided)) == len(decided) == len(told.answers), "an id was made twice")
    return {"jumps": 2 * (jumps // 3) + 3 * (jumps // 9), "decisions": len(decided), "closed_early": 0, "ids_twice": 0}
