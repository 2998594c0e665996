"""The demo, run as a person would, only shorter."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest

from bandit.errors import InvalidInput
from bandit.types import Arm, Figure
from sim import fleet

CATEGORIES = {"easy": 0.9, "hard": 0.4}


def arm(name: str, **rates: float) -> Arm:
    figures = [Figure(category=category, success_rate=rate, cost_usd=1.0) for category, rate in rates.items()]
    return Arm(id=name, figures=tuple(figures))


def test_it_brings_every_session_to_its_end_and_prints_json_only() -> None:
    command = [sys.executable, "-m", "server.cli", "demo", "--sessions", "120", "--agents", "8", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["sessions"] == 120
    assert 0.0 < result["pointsman"]["success_rate"] <= 1.0
    best = result["always"][result["best_arm"]]
    saved = 1.0 - result["pointsman"]["cost_usd_per_session"] / best["cost_usd_per_session"]
    assert result["saved_share"] == pytest.approx(saved)
    assert sum(result["first_arm_share"].values()) == pytest.approx(1.0)


def test_its_world_keeps_to_the_figures() -> None:
    """The surprise, 0.4 logits where the attenuated slope is at most 1 / 6.5, moves a rate by .062: four times that."""
    world = fleet.world([arm("a", **CATEGORIES)], n_tasks=8000, seed=1)
    category = np.array([task.features["category"] for task in world.tasks])
    for name, rate in CATEGORIES.items():
        assert world.success[category == name].mean() == pytest.approx(rate, abs=0.25)
    # The mean of 8,000 log-normals of spread .82 has a standard error of .011.
    assert world.cost_usd.mean() == pytest.approx(1.0, abs=0.05)


def test_failures_come_together() -> None:
    world = fleet.world([arm("a", any=0.6), arm("b", any=0.6)], n_tasks=4000, seed=2)
    a, b = world.success.T
    assert b[a == 0].mean() < b.mean() - 0.1


def test_an_arm_without_figures_is_named() -> None:
    with pytest.raises(InvalidInput, match="b"):
        fleet.world([arm("a", any=0.6), arm("b")], n_tasks=10, seed=3)


def test_whoever_wants_to_look_finds_the_dashboard_until_the_demo_is_ended() -> None:
    command = [sys.executable, "-m", "server.cli", "demo", "--serve", "--sessions", "20", "--agents", "4"]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as demo:
        assert demo.stdout is not None
        page = next(found[1] for line in demo.stdout if (found := re.search(r"dashboard is at (http://\S+/)", line)))
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert b"Pointsman" in answer.read()
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(page, timeout=10)
