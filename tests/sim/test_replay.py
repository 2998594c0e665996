"""`pointsman replay` from its flags to its JSON and exit status."""

import dataclasses
import json
import random
import re
import shlex
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pytest

from bandit import epoch_file
from bandit.events import Decided, Escalated, Event, Rewarded
from bandit.learner import Learner
from server.cli import main
from sim import log_reader, references
from sim.logged import Log
from sim.replay import Asked, replay
from sim.world import Terms
from tests.sim.logs import ARMS, Timed, events_of, world, write

FIGURE = {"estimate", "low", "high", "anytime_low", "anytime_high"}
THREE = {"success_rate", "cost_usd_per_session", "utility_per_session"}


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(events_of("uniform", sessions=3_000), tmp_path_factory.mktemp("uniform"))


def run(*flags: str, json_file: Path | None = None) -> int:
    return main(["replay", *flags, *(["--json", str(json_file)] if json_file is not None else [])])


def test_the_document_has_its_keys(uniform: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    status = run(
        "--events", str(uniform), "--candidate", "always:b", "--candidate", "ladder:a>c", "--baseline", "always:a",
        "--gate", "utility >= baseline - 100", json_file=out,
    )  # fmt: skip
    assert status == 0
    document = json.loads(out.read_text())
    assert set(document) >= {"events", "decisions", "candidates", "baseline", "diagnostics"}
    assert [candidate["name"] for candidate in document["candidates"]] == ["always:b", "ladder:a>c"]
    for candidate in document["candidates"]:
        assert candidate["estimator"] == "dr"
        assert candidate["gate"]["verdict"] == "pass"
        assert set(candidate["others"]) == {"ips", "snips", "dm", "switch-dr", "dr-shrinkage"}
        for three in (candidate, candidate["difference"], *candidate["others"].values(), document["baseline"]):
            for metric in THREE:
                assert set(three[metric]) == FIGURE
                assert three[metric]["low"] <= three[metric]["estimate"] <= three[metric]["high"]
    assert set(document["diagnostics"]) >= {
        "effective_sample_size", "max_weight", "mean_weight", "min_propensity", "unsupported_decisions",
        "missing_rewards",
    }  # fmt: skip


def test_fixed_rules_come_to_what_the_world_says(uniform: Path) -> None:
    """Each within its 95 % interval widened by half, 2.9 standard errors: a false failure in 270."""
    table, terms = world(), Terms()
    with Log(uniform) as log:
        result = replay(log, Asked(candidates=["always:b", "ladder:a>c", "ladder:c>b>a"]))
    for candidate, ladder in zip(result.candidates, ((1,), (0, 2), (2, 1, 0)), strict=True):
        expected = references.along(ladder, table.success, table.cost_usd, terms)
        figure = candidate.utility_per_session
        half = 1.5 * (figure.high - figure.low) / 2.0
        assert abs(figure.estimate - expected.utility(terms).mean()) < half


def test_replaying_the_logged_policy_changes_nothing(uniform: Path) -> None:
    with Log(uniform) as log:
        (candidate,) = replay(log, Asked(candidates=["uniform"])).candidates
    assert candidate.diagnostics.mean_weight == pytest.approx(1.0, abs=1e-12)
    assert candidate.diagnostics.effective_sample_size == pytest.approx(3_000)
    gap = candidate.difference.success_rate
    assert gap.low < 0.0 < gap.high
    assert gap.high - gap.low < 0.02


def test_processes_give_what_one_gives(uniform: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_NUMBERS_IN_PIECE", 5_000)
    asked = Asked(candidates=["ladder:a>c", "linucb"], baseline="always:b", gate="utility >= baseline")
    told: list[int] = []
    with Log(uniform) as log, Log(uniform, threads=2) as threaded:
        alone = replay(log, asked)
        assert replay(threaded, asked, jobs=2, on_sessions=told.append) == alone
    assert sum(told) == alone.sessions
    assert len(told) > 10


def test_a_learning_policy_is_fitted_on_the_first_half(uniform: Path) -> None:
    with Log(uniform) as log:
        result = replay(log, Asked(candidates=["thompson-single", "linucb"]))
    for candidate in result.candidates:
        assert candidate.sessions == 1_500
        # It has learned something: better than choosing at random among the arms, which a single attempt comes to.
        assert candidate.success_rate.high > 0.5


def learned_gate(log: Path, epoch: Path) -> int:
    return run("--events", str(log), "--candidate", str(epoch), "--gate", "cost <= baseline + 100")


def test_a_saved_epoch_is_scored_as_it_is(uniform: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner = Learner()
    with Log(uniform) as log:
        for number, at_us, session_id, event in log.events_until(200):
            learner.feed(number, event, session_id, at_us)
    assert learner.vintage is not None
    path = tmp_path / "1.epoch"
    name = epoch_file.EpochId("default", learner.vintage.policy_version, learner.vintage.epoch)
    path.write_bytes(epoch_file.pack(name, learner.epoch_seq, learner.snapshot()))
    assert run("--events", str(uniform), "--candidate", str(path)) == 0
    # It knows the sessions that it has learned from too well, but not those of another router or of later.
    assert learned_gate(uniform, path) == 4
    assert "it may have learned from" in " ".join(capsys.readouterr().out.split())
    later = tmp_path / "later"
    later.mkdir()
    first = f"(SELECT min(seq) FROM '{uniform}/*.parquet' WHERE seq > {learner.epoch_seq} AND attempt = 1)"
    settings = "kind IN ('router_put', 'arm_put')"
    duckdb.execute(
        f"COPY (SELECT * FROM '{uniform}/*.parquet' WHERE seq >= {first} OR {settings})"
        f" TO '{later}/1.parquet' (FORMAT parquet)"
    )
    assert learned_gate(later, path) == 0
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert run("--events", str(uniform), "--candidate", str(path)) == 2


def test_policy_files_and_values_count(uniform: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('policy = "ladder:a>b>c"\nmax_attempts = 1\n')
    with Log(uniform) as log:
        result = replay(log, Asked(candidates=[str(path), "always:a"], value_usd=2.0))
    file, plain = result.candidates
    assert file.utility_per_session.estimate == pytest.approx(plain.utility_per_session.estimate, rel=1e-9)
    assert file.utility_per_session.estimate == pytest.approx(
        2.0 * file.success_rate.estimate - file.cost_usd_per_session.estimate, rel=1e-9
    )


def test_exit_status_follows_the_gate(uniform: Path, tmp_path: Path) -> None:
    asked = ("--events", str(uniform), "--candidate", "always:b")
    assert run(*asked) == 0
    assert run(*asked, "--gate", "cost <= baseline + 100") == 0
    assert run(*asked, "--gate", "cost >= baseline + 100") == 3
    assert run(*asked, "--gate", "success >= 0.9 * baseline and cost >= baseline + 100") == 3
    assert run(*asked, "--baseline", "always:b", "--gate", "success >= baseline") == 4


def test_a_gate_refuses_where_the_log_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(events_of("always:a", sessions=700), tmp_path / "log")
    assert run("--events", str(log), "--candidate", "always:b", "--gate", "success >= baseline - 1") == 4
    assert "less than 500" in " ".join(capsys.readouterr().out.split())
    few = write(events_of("uniform", sessions=200), tmp_path / "few")
    assert run("--events", str(few), "--candidate", "uniform", "--gate", "success >= baseline - 1") == 4


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--candidate", "nonsense"), "--candidate"),
        (("--candidate", "always:zebra"), "--candidate"),
        (("--candidate", "always:a", "--baseline", "always:zebra"), "--baseline"),
        (("--candidate", "always:a", "--gate", "success > 1"), "--gate"),
        (("--candidate", "always:a", "--router", "other"), "--router"),
        (("--candidate", "always:a", "--candidate", "always:a"), "--candidate"),
        (("--candidate", "always:a", "--json", "/nowhere/at/all.json"), "--json"),
        (("--candidate", "missing.toml"), "--candidate"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    flags: tuple[str, ...], named: str, uniform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--events", str(uniform), *flags) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_the_readmes_commands_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Replay.*?\n(.*?)^## ", readme, re.M | re.S)
    commands = re.findall(r"^pointsman (.*?)(?: {4}#.*)?$", section, re.M)
    assert [command.split()[0] for command in commands] == ["simulate", "replay", "replay"]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert main(shlex.split(command)) == 0


def test_the_report_is_one_page_with_its_pictures_beside(uniform: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    asked = ("--events", str(uniform), "--candidate", "always:b", "--candidate", "ladder:a>c")
    assert run(*asked, "--gate", "cost <= baseline", "--report", str(folder)) in (0, 3, 4)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "")
    assert "ladder:a&gt;" in page
    assert len(list(folder.glob("*.png"))) == 1 + 2 * 3 == page.count("<figure>")
    (folder / "mine.png").write_bytes(b"not of a report")
    assert run("--events", str(uniform), "--candidate", "always:c", "--report", str(folder)) == 0
    assert len(list(folder.glob("*.png"))) == 1 + 3 + 1
    assert (folder / "mine.png").exists()
    (tmp_path / "file").write_text("in the way")
    assert run(*asked, "--report", str(tmp_path / "file")) == 2


def test_json_on_standard_output_is_nothing_else(uniform: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--events", str(uniform), "--candidate", "always:b", json_file=Path("-")) == 0
    assert json.loads(capsys.readouterr().out)["candidates"][0]["gate"] is None


def test_a_log_with_days_missing_decides_no_gate(
    uniform: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        timed
        for timed in events_of("uniform", sessions=3_000)
        if not (isinstance(timed[1], Decided) and timed[1].decision.attempt == 2 and timed[2].endswith("7"))
    ]
    log = write(events, tmp_path / "log")
    asked = ("--candidate", "always:b", "--gate", "success >= baseline - 1")
    assert run("--events", str(uniform), *asked) == 0
    assert run("--events", str(log), *asked) == 4
    assert "not all decisions are there" in " ".join(capsys.readouterr().out.split())


def test_a_result_that_cannot_be_written_is_one_line(uniform: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a disk without room")
    assert run("--events", str(uniform), "--candidate", "always:b", json_file=Path("/dev/full")) == 2
    assert "--json: /dev/full cannot be written" in capsys.readouterr().err


SINGLE = Terms(max_attempts=1)
TAKEN = {True: {"a": 0.1, "b": 0.8, "c": 0.1}, False: {"a": 0.4, "b": 0.2, "c": 0.4}}
"""How likely arms are taken, by whether a task is among the first thirty."""


def forgetful(target: Path, lost: str) -> Path:
    """A log of single attempts, uniform, of which something was never told."""
    events = events_of("uniform", SINGLE, sessions=3_000)
    arms = {e.decision.decision_id: e.decision.arm for _, e, _ in events if isinstance(e, Decided)}

    def told(event: Event) -> Event:
        if not isinstance(event, Rewarded | Escalated):
            return event
        outcome = event.outcome
        if lost == "cost":
            outcome = msgspec.structs.replace(outcome, cost_usd=None, usage=None)
        elif lost == "success" or (arms[event.decision_id] == "b" and outcome.success == 0.0):
            outcome = msgspec.structs.replace(outcome, success=None)
        return msgspec.structs.replace(event, outcome=outcome)

    # An alarm says that it failed: none is raised here.
    return write([(at, told(e), name) for at, e, name in events if not isinstance(e, Escalated)], target)


@pytest.mark.parametrize(
    ("lost", "gate", "why"),
    [
        ("success", "success >= baseline - 1", "success was told in an effective sample of 0 sessions"),
        ("success", "cost <= baseline + 100", ""),
        ("cost", "cost <= baseline + 100", "cost was told in an effective sample of 0 sessions"),
        ("cost", "utility >= baseline - 100", "cost was told in an effective sample of 0 sessions"),
        ("cost", "success >= baseline - 1", ""),
        ("failures of b", "success >= baseline - 1", "success was not told in"),
        ("failures of b", "cost <= baseline + 100", ""),
    ],
)
def test_a_gate_rests_on_what_was_told(
    lost: str, gate: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = forgetful(tmp_path / "log", lost)
    assert run("--events", str(log), "--candidate", "always:b", "--gate", gate) == (4 if why else 0)
    assert why in " ".join(capsys.readouterr().out.split())


def test_rewards_lost_alike_on_both_sides_do_not_stop_a_gate(tmp_path: Path) -> None:
    lots = random.Random(0)
    events = [
        timed
        for timed in events_of("uniform", SINGLE, sessions=3_000)
        if not isinstance(timed[1], Escalated) and not (isinstance(timed[1], Rewarded) and lots.random() < 0.2)
    ]
    log = write(events, tmp_path / "log")
    assert run("--events", str(log), "--candidate", "always:b", "--gate", "success >= baseline - 1") == 0


def test_a_baseline_that_was_seldom_done_decides_no_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(events_of("uniform", sessions=1_800), tmp_path / "log")
    asked = ("--events", str(log), "--candidate", "always:b", "--gate", "success >= baseline - 1")
    assert run(*asked, "--baseline", "always:a") == 0
    capsys.readouterr()
    assert run(*asked, "--baseline", "ladder:c>b>a") == 4
    assert "of the baseline: the effective sample is" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("averaged", [False, True])
def test_propensities_that_are_true_on_average_only_decide_no_gate(
    averaged: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arm b is taken more often where tasks are small, and easy: how often it is taken all in all is no propensity."""
    alike = world()
    small = np.arange(len(alike.tasks)) < 30
    table = dataclasses.replace(alike, success=np.where(small, 0.8, 0.2)[:, None].repeat(len(ARMS), axis=1))
    lots = random.Random(0)
    events: list[Timed] = []
    kept: dict[str, float] = {}
    mean = {arm: sum(chance[arm] for chance in TAKEN.values()) / len(TAKEN) for arm in ARMS}
    for at, event, name in events_of("uniform", SINGLE, sessions=9_000, table=table):
        if isinstance(event, Decided):
            chances = TAKEN[int(event.decision.situation.features["size"]) < 30]  # type: ignore[arg-type]
            # Kept as often as makes a uniform log one of these chances.
            if lots.random() >= chances[event.decision.arm]:
                continue
            kept[name] = 1.0
            logged = mean if averaged else chances
            scores = tuple(
                msgspec.structs.replace(score, propensity=logged[score.arm]) for score in event.decision.scores
            )
            decision = msgspec.structs.replace(event.decision, scores=scores, propensity=logged[event.decision.arm])
            event = msgspec.structs.replace(event, decision=decision)
        elif name and name not in kept:
            continue
        events.append((at, event, name))
    log = write(events, tmp_path / "log")
    asked = ("--events", str(log), "--candidate", "always:b", "--gate", "cost <= baseline + 100")
    assert run(*asked) == (4 if averaged else 0)
    assert ("propensities are not those of every context" in " ".join(capsys.readouterr().out.split())) == averaged
