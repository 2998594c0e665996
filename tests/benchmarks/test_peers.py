"""Peers are played on what `simulate` plays, and say so where they cannot be."""

import numpy as np
import pytest

from bandit.types import Arm
from sim import runner
from sim.world import Table, Task, Terms
from tests.benchmarks import measured, peers

RNG = np.random.default_rng(4)
# Chances between 0 and 1, so that it matters which draws are made.
WORLD = Table(
    name="chances",
    arms=(Arm(id="cheap"), Arm(id="dear")),
    tasks=tuple(Task(id=f"t{i}", features={"category": "abc"[i % 3], "files": float(i)}) for i in range(40)),
    success=RNG.random((40, 2)),
    cost_usd=RNG.random((40, 2)) * [0.5, 8.0],
)


@pytest.mark.parametrize("arm", [0, 1])
def test_a_peer_that_takes_one_arm_comes_to_what_always_comes_to(arm: int) -> None:
    stream = peers.Stream(WORLD, Terms(), 3)
    mine = peers.as_run(stream, [arm] * 40, 1.0)
    theirs = runner.run(WORLD, Terms(), f"always:{WORLD.arms[arm].id}", 3)
    np.testing.assert_array_equal(mine.task, theirs.task)
    np.testing.assert_array_equal(mine.success, theirs.success)
    np.testing.assert_array_equal(mine.cost_usd, theirs.cost_usd)


def test_rewards_are_utility_as_a_share_of_the_value_held_within_one() -> None:
    stream = peers.Stream(WORLD, Terms(value_usd=5.0), 0)
    free = (5.0 * stream.success - stream.cost_usd) / 5.0
    assert free.min() < -1.0, "some reward is to be held"
    np.testing.assert_allclose(stream.rewards, np.maximum(free, -1.0))


def test_contexts_stand_in_the_order_of_the_sessions() -> None:
    stream = peers.Stream(WORLD, Terms(), 1)
    assert stream.contexts.shape == (40, 1 + 3 + 1)
    files = [np.arcsinh(WORLD.tasks[i].features["files"]) for i in stream.task.tolist()]
    assert any(np.allclose(column, files) for column in stream.contexts.T)


@pytest.mark.parametrize(
    ("data", "why"), [(None, "no measured outcomes"), (measured.BESIDE, "mabwiser and coba not installed")]
)
def test_what_is_missing_is_said(data, why: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["peers"])
    monkeypatch.setattr(measured, "folder", lambda given: data)
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert peers.main() == 2
    assert why in capsys.readouterr().err
