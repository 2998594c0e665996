"""The subcommand from outside: its JSON, its streams, its refusals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server import cli

THREE = {"success_rate", "cost_usd_per_session", "utility_per_session"}
FOUR = {*THREE, "escalation_rate"}
KEYS = {"name", "seeds", "sessions", "stderr", "second_half", "events_per_second", "calibration"}
OUTCOMES = "task_id,model,success,cost_usd\n" + "".join(
    f"t{i},{model},{int(i % (k + 2) > 0)},{cost}\n"
    for i in range(12)
    for k, (model, cost) in enumerate((("big", 1.0), ("mid", 0.3), ("tiny", 0.05)))
)


@pytest.fixture
def outcomes(tmp_path: Path) -> str:
    path = tmp_path / "outcomes.csv"
    path.write_text(OUTCOMES, encoding="utf-8")
    return str(path)


def test_json_has_the_documented_keys(outcomes: str, capfd: pytest.CaptureFixture[str]) -> None:
    policies = ["uniform", "ladder:tiny>big"]
    given = [word for policy in policies for word in ("--policy", policy)]
    assert cli.main(["simulate", "--outcomes", outcomes, "--seeds", "3", "--jobs", "1", "--json", "-", *given]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert "Policies on 12 tasks" in err
    assert set(result) == {"tasks", "arms", "value", "policies", "references", "paired"}
    assert (result["tasks"], result["arms"], result["value"]) == (12, ["big", "mid", "tiny"], 5.0)
    assert [policy["name"] for policy in result["policies"]] == policies
    for policy in result["policies"]:
        assert set(policy) == FOUR | KEYS
        assert policy["calibration"] is None, "neither foretells anything"
        assert set(policy["stderr"]) == set(policy["second_half"]) == FOUR
        assert policy["utility_per_session"] == pytest.approx(
            5 * policy["success_rate"] - policy["cost_usd_per_session"], abs=1e-12
        )
    references = result["references"]
    assert set(references) == {"always", "best_single", "best_fixed_ladder", "oracle"}
    assert {arm: set(three) for arm, three in references["always"].items()} == dict.fromkeys(result["arms"], THREE)
    assert set(references["best_single"]) == {"arm", *THREE}
    assert set(references["best_fixed_ladder"]) == {"ladder", *THREE}
    assert set(references["oracle"]) == THREE
    against = {"best_single", "best_fixed_ladder", "oracle", "always:big", "always:mid", "always:tiny"}
    assert set(result["paired"]["uniform"]) == against | {"ladder:tiny>big"}
    assert set(result["paired"]["uniform"]["oracle"]) == {"difference", "low", "high"}


def test_a_world_tells_its_optimum_and_a_file_gets_the_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "result.json"
    words = ["simulate", "--world", "independent", "--policy", "uniform", "--seeds", "2", "--sessions", "50"]
    assert cli.main([*words, "--jobs", "1", "--json", str(target)]) == 0
    out, err = capfd.readouterr()
    result = json.loads(target.read_text())
    assert result["optimum"]["best_single"] in result["arms"]
    assert result["policies"][0]["sessions"] == 50
    assert "the best policy that sees the features reaches" in " ".join(out.split())
    assert err == ""


def test_the_subcommand_runs_in_processes_of_its_own(outcomes: str) -> None:
    """As a command, with more than one process: the numbers of one process."""
    words = ["simulate", "--outcomes", outcomes, "--policy", "thompson", "--seeds", "2", "--json", "-"]
    results: list[Any] = []
    for jobs in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "server.cli", *words, "--jobs", jobs], capture_output=True, text=True, check=True
        )
        results.append(json.loads(done.stdout))
        results[-1]["policies"][0].pop("events_per_second")
    assert results[0] == results[1]


def test_a_policy_file_is_a_policy(outcomes: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It says what it is out for; what it is judged by stays `--value`."""
    plain, poor, short = (tmp_path / f"{name}.toml" for name in ("plain", "poor", "short"))
    plain.write_text('policy = "thompson"\n')
    poor.write_text('policy = "thompson"\n[objective]\nvalue_usd = 0.01\n')
    short.write_text('policy = "ladder:tiny>mid>big"\nmax_attempts = 2\n')
    policies = ["thompson", *map(str, (plain, poor, short)), "ladder:tiny>mid"]
    given = [word for policy in policies for word in ("--policy", policy)]
    words = ["simulate", "--outcomes", outcomes, "--seeds", "2", "--sessions", "48", "--jobs", "1", "--json", "-"]
    assert cli.main([*words, *given]) == 0
    result = json.loads(capfd.readouterr().out)
    assert [policy["name"] for policy in result["policies"]] == policies
    for policy in result["policies"]:
        policy.pop("events_per_second")
        policy.pop("name")
        assert policy["utility_per_session"] == pytest.approx(
            5 * policy["success_rate"] - policy["cost_usd_per_session"], abs=1e-12
        )
    thompson, same, frugal, ladder, fixed = result["policies"]
    assert thompson == same
    assert ladder == fixed
    assert frugal["cost_usd_per_session"] < thompson["cost_usd_per_session"]


REFUSED = {
    "no world": ([], "--outcomes --world"),
    "both": (["--outcomes", "FILE", "--world", "correlated"], "--world"),
    "missing file": (["--outcomes", "nowhere.csv"], "--outcomes: no file nowhere.csv"),
    "unknown world": (["--world", "nowhere"], "--world: no world 'nowhere'"),
    "tasks of a world": (["--world", "correlated", "--tasks", "FILE"], "--tasks: "),
    "unknown arm": (["--outcomes", "FILE", "--arms", "big,nobody"], "--arms: "),
    "an arm twice": (["--outcomes", "FILE", "--arms", "big,big"], "--arms: "),
    "an empty arm": (["--outcomes", "FILE", "--arms", "big,,mid"], "--arms: "),
    "no arm": (["--outcomes", "FILE", "--arms", ""], "--arms: "),
    "unknown policy": (["--outcomes", "FILE", "--policy", "luck"], "--policy: 'luck'"),
    "no policy": (["--outcomes", "FILE", "--policy", ""], "--policy: ''"),
    "a policy's unknown arm": (["--outcomes", "FILE", "--policy", "always:nobody"], "--policy: 'always:nobody'"),
    "a policy's arm left out": (["--outcomes", "FILE", "--arms", "mid", "--policy", "always:big"], "--policy: "),
    "a policy twice": (["--outcomes", "FILE", "--policy", "uniform", "--policy", "uniform"], "--policy: "),
    "unknown of vw": (["--outcomes", "FILE", "--policy", "vw:luck"], "--policy: 'vw:luck'"),
    "an empty rung": (["--outcomes", "FILE", "--policy", "ladder:big>>mid"], "--policy: 'ladder:big>>mid'"),
    "no policy file": (["--outcomes", "FILE", "--policy", "nowhere.toml"], "--policy: 'nowhere.toml': cannot be read"),
    "not a policy file": (["--outcomes", "FILE", "--policy", "FILE"], "not TOML"),
    "value 0": (["--outcomes", "FILE", "--value", "0"], "--value: "),
    "value nan": (["--outcomes", "FILE", "--value", "nan"], "--value: "),
    "value inf": (["--outcomes", "FILE", "--value", "inf"], "--value: "),
    "detect": (["--outcomes", "FILE", "--detect", "1.1"], "--detect: "),
    "detect nan": (["--outcomes", "FILE", "--detect", "nan"], "--detect: "),
    "false alarm": (["--outcomes", "FILE", "--false-alarm=-0.1"], "--false-alarm: "),
    "attempts": (["--outcomes", "FILE", "--max-attempts", "0"], "--max-attempts: "),
    "seeds": (["--outcomes", "FILE", "--seeds", "1.5"], "--seeds: "),
    "jobs": (["--outcomes", "FILE", "--jobs", "0"], "--jobs: "),
    "sessions": (["--outcomes", "FILE", "--sessions", "many"], "--sessions: "),
    "json": (["--outcomes", "FILE", "--json", "/nowhere/at/all.json"], "--json: "),
    "delay": (["--outcomes", "FILE", "--delay", "-1"], "--delay: "),
    "figures": (["--outcomes", "FILE", "--figures", "x"], "--figures: no file x"),
    "log": (["--outcomes", "FILE", "--log", "/proc/nothing"], "--log: /proc/nothing cannot be used"),
    "ray": (["--outcomes", "FILE", "--ray", "x"], "--ray: "),
    "report": (["--outcomes", "FILE", "--report", "/proc/nothing"], "--report: /proc/nothing cannot be written"),
    "a file for a report": (["--outcomes", "FILE", "--report", "FILE"], "--report: "),
    "no such flag": (["--outcomes", "FILE", "--nonsense"], "--nonsense"),
}


@pytest.mark.parametrize(("words", "named"), REFUSED.values(), ids=REFUSED)
def test_bad_usage_is_refused_in_one_line(
    words: list[str], named: str, outcomes: str, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = cli.main(["simulate", *(outcomes if word == "FILE" else word for word in words)])
    except SystemExit as left:
        code = left.code
    out, err = capfd.readouterr()
    assert code == 2
    assert out == ""
    assert named in err
    assert err.count("\n") == 1


def test_references_on_measured_outcomes(outcomes_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The pool of three models for which the best fixed ladder is published."""
    words = ["simulate", "--outcomes", str(outcomes_folder / "outcomes.parquet"), "--policy", "always:Kimi-K2.6"]
    words += ["--tasks", str(outcomes_folder / "tasks.parquet"), "--prices", str(outcomes_folder / "models.csv")]
    words += ["--arms", "claude-opus-4-7,Kimi-K2.6,MiniMax-M2.7", "--value", "10", "--seeds", "1", "--jobs", "1"]
    assert cli.main([*words, "--json", "-"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["tasks"] == 696
    best = result["references"]["best_fixed_ladder"]
    assert best["utility_per_session"] == pytest.approx(7.793, abs=5e-4)
    assert best["success_rate"] == pytest.approx(0.865, abs=5e-4)
    (ran,) = result["policies"]
    for key in THREE:
        assert ran[key] == pytest.approx(result["references"]["always"]["Kimi-K2.6"][key], abs=1e-9)
