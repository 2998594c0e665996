"""The same world and seed give the same decisions in process and through gRPC, with the fitter inline."""

from pathlib import Path

import pytest

from bandit import sampling
from bandit.events import Decided, Event
from pointsman import Client, EscalationReason
from sim import runner, synthetic
from sim.world import Table, Terms

SEED, SESSIONS = 11, 80
TERMS = Terms(value_usd=5.0, detect=0.9, false_alarm=0.1)

Played = list[tuple[str, float, int]]
"""The arm, propensity and epoch of every decision, in order."""


def configuration(world: Table, policy: str) -> str:
    lines = ['[service]\nfitter = "inline"', f'[router]\npolicy = "{policy}"\nseed = {SEED}']
    for arm in world.arms:
        assert arm.price is not None
        lines.append(
            f'[[arms]]\nid = "{arm.id}"\ninput_usd_per_million = {arm.price.input_usd}\n'
            f"output_usd_per_million = {arm.price.output_usd}"
        )
    return "\n".join(lines)


def in_process(world: Table, policy: str, monkeypatch: pytest.MonkeyPatch) -> Played:
    played: Played = []
    feed = runner._Router._feed

    def listening(self: runner._Router, event: Event, session_id: str = "") -> None:
        if isinstance(event, Decided):
            decision = event.decision
            played.append((decision.arm, decision.propensity, decision.epoch))
        feed(self, event, session_id)

    monkeypatch.setattr(runner._Router, "_feed", listening)
    runner.run(world, TERMS, policy, SEED)
    return played


def through_grpc(world: Table, address: str) -> Played:
    """Plays the sessions as the runner's agent does, with the same truths and alarms."""
    played: Played = []
    position = {arm.id: k for k, arm in enumerate(world.arms)}
    with Client(address, timeout_seconds=60.0) as client:
        for i, task in enumerate(runner.tasks_of(SEED, world, None).tolist()):
            session_id = f"{SEED}-{i}"
            features = {name: str(value) for name, value in world.tasks[task].features.items()}
            choice = client.select(features, session_id=session_id)
            while True:
                played.append((choice.arm, choice.propensity, choice.epoch))
                would = world.outcome(task, position[choice.arm], choice.attempt)
                key = f"{session_id}\0{choice.arm}"
                good = sampling.uniform(b"sim success", SEED, key, 0) < (would.success or 0.0)
                raised = TERMS.false_alarm if good else TERMS.detect
                alarm = sampling.uniform(b"sim alarm", SEED, key, 0) < raised
                cost = would.cost_usd
                failed = EscalationReason.ESCALATION_REASON_VERIFIED_FAILURE
                following = client.escalate(choice, reason=failed, cost_usd=cost) if alarm else None
                if following is None:
                    break
                choice = following
            client.reward(decision_id=choice.decision_id, success=float(good), cost_usd=cost, final=True)
    return played


@pytest.mark.parametrize(
    "policy",
    [
        "thompson",
        "vw:squarecb",
        pytest.param("thompson-single", marks=pytest.mark.long),
        pytest.param("linucb", marks=pytest.mark.long),
    ],
)
def test_same_decisions(policy: str, serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = synthetic.sample("correlated", n_tasks=SESSIONS, seed=5)
    server = serving(tmp_path / "data", configuration(world, policy))
    expected = in_process(world, policy, monkeypatch)
    assert len(expected) >= SESSIONS
    assert through_grpc(world, server.grpc) == expected
