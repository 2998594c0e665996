"""Other projects' formats: what Vowpal Wabbit makes of what is written, and what is made of what others wrote."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vowpalwabbit import Workspace

from bandit import record
from bandit.errors import InvalidInput
from bandit.events import ArmPut, Closed, Decided, Erased, Escalated, Event, Rewarded, RouterPut
from bandit.types import (
    Arm,
    ArmScore,
    Bar,
    BarKind,
    Decision,
    EscalationReason,
    Features,
    Offer,
    Outcome,
    RouterSettings,
    SelectReason,
    Situation,
    Text,
)
from sim import runner
from sim.event_log import EventLog
from sim.formats import dsjson, files, obp_csv, obp_npz, rounds
from sim.formats.rounds import Range
from sim.formats.sessions import Sessions
from sim.world import Table, Task, Terms

ARMS = ("a", "b", "c")
ROUTER = RouterSettings()


def world(n_tasks: int = 300) -> Table:
    """Arm a resolves x, arm b resolves y, arm c both now and then and for more."""
    rng = np.random.default_rng(0)
    category = np.arange(n_tasks) % 2
    success = np.column_stack((category == 0, category == 1, rng.random(n_tasks) < 0.5)).astype(float)
    return Table(
        name="two",
        arms=tuple(Arm(id=name) for name in ARMS),
        tasks=tuple(Task(id=f"t{i}", features={"category": "xy"[i % 2], "size": float(i)}) for i in range(n_tasks)),
        success=success,
        cost_usd=rng.exponential((0.2, 0.3, 1.0), (n_tasks, 3)),
    )


def simulated(target: Path, policy: str) -> Path:
    with EventLog(target, 0) as log:
        runner.run(world(), Terms(), policy, 0, None, log=log.add)
    return target


def written(events: list[tuple[Event, str]], target: Path) -> Path:
    with EventLog(target, 0) as log:
        for seq, (event, session_id) in enumerate(events, start=1):
            log.add(seq, seq * 1_000_000, event, session_id)
    return target


def decided(session_id: str, attempt: int, arm: str, features: Features, **other: object) -> Decided:
    even = tuple(ArmScore(arm=name, propensity=p) for name, p in zip(ARMS, (0.5, 0.3, 0.2), strict=True))
    scores = other.pop("scores", even)
    situation = Situation(
        router="default",
        seed=0,
        session_id=session_id,
        attempt=attempt,
        attempts_left=3,
        features=features,
        offers=tuple(Offer(arm=name) for name in ARMS),
        objective=ROUTER.objective,
        exploration_floor=0.02,
        draws=1,
        alpha=1.0,
    )
    fields: dict = {"reason": SelectReason.SAMPLED} | other
    return Decided(
        decision=Decision(
            decision_id=f"{session_id}/{attempt}",
            situation=situation,
            arm=arm,
            propensity=next(score.propensity for score in scores if score.arm == arm),
            scores=scores,
            policy="uniform",
            policy_version="1",
            epoch=0,
            epoch_hash="",
            **fields,
        )
    )


def rewarded(session_id: str, success: float | None, cost_usd: float | None = None, revision: int = 1) -> Rewarded:
    outcome = Outcome(success=success, cost_usd=cost_usd)
    return Rewarded(session_id=session_id, outcome=outcome, revision=revision, final=True)


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Path:
    """One log with everything in it that matters to writers."""
    features: Features = {"category": "x", "size": 2.0, "urgent": True, "_odd": 1e300, "title": Text("fix the bug")}
    failed = EscalationReason.VERIFIED_FAILURE
    barred = (
        ArmScore(arm="a", propensity=0.0, bar=Bar(BarKind.TRIED, "tried")),
        ArmScore(arm="b", propensity=0.25),
        ArmScore(arm="c", propensity=0.75),
    )
    events: list[tuple[Event, str]] = [
        (RouterPut(settings=ROUTER), ""),
        *((ArmPut(arm=Arm(id=name)), "") for name in ARMS),
        (decided("escalated", 1, "a", features), "escalated"),
        (decided("late", 1, "b", features), "late"),
        (
            Escalated(
                decision_id="escalated/1", reason=failed, outcome=Outcome(cost_usd=0.5), next_decision_id="escalated/2"
            ),
            "escalated",
        ),
        (decided("escalated", 2, "c", {}, scores=barred), "escalated"),
        (rewarded("escalated", 1.0, 2.0), "escalated"),
        (rewarded("late", 0.0, 0.25), "late"),
        (rewarded("late", 1.0, revision=2), "late"),
        (decided("erased", 1, "a", {"category": "secret", "size": 1.0}), "erased"),
        (rewarded("erased", 0.5), "erased"),
        (Erased(session_id="erased"), "erased"),
        (decided("pinned", 1, "a", features, reason=SelectReason.PINNED), "pinned"),
        (rewarded("pinned", 1.0), "pinned"),
        (decided("silent", 1, "a", features), "silent"),
        (Closed(session_id="silent"), "silent"),
        (decided("given up", 1, "b", features), "given up"),
        (Escalated(decision_id="given up/1", reason=failed, outcome=Outcome(cost_usd=0.5)), "given up"),
    ]
    return written(events, tmp_path_factory.mktemp("told") / "log")


def exported(log: Path, target: Path, **how: object) -> list[dict]:
    with Sessions(log) as sessions:
        dsjson.write(sessions, target, **({"reward": "utility", "value_usd": None} | how))
    return [json.loads(line) for line in target.read_text().splitlines()]


# --- Vowpal Wabbit -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    return simulated(tmp_path_factory.mktemp("single") / "log", "thompson-single")


@pytest.fixture(scope="module")
def plain(single) -> list[tuple]:
    """Of the log, without any of our code: features, arm, propensities, utility at $5."""
    return duckdb.sql(
        f"""SELECT d.features, list_position(d.arms, d.arm) - 1, d.propensities, 5 * r.success - r.cost_usd
        FROM '{single}/*.parquet' AS d JOIN '{single}/*.parquet' AS r USING (session_id)
        WHERE d.kind = 'decided' AND r.kind = 'rewarded' AND r.success IS NOT NULL ORDER BY d.seq"""
    ).fetchall()


def wabbit(file: Path, options: str) -> tuple[float, list[dict[int, float]]]:
    """The progressive loss that Vowpal Wabbit says, and what it predicted before it learned from each line."""
    predictions = file.with_suffix(".predictions")
    vw = Workspace(f"--dsjson -q sa --quiet -d {file} -p {predictions} {options}")
    loss = vw.get_sum_loss() / vw.get_weighted_examples()
    vw.finish()
    lines = [line.split()[0] for line in predictions.read_text().splitlines() if line]
    return loss, [{int(k): float(p) for k, p in (cell.split(":") for cell in line.split(","))} for line in lines]


def test_vowpal_wabbit_estimates_what_inverse_propensity_weighting_does(single, plain, tmp_path):
    assert len(plain) == 300
    file = tmp_path / "log.dsjson"
    exported(single, file)

    def ips(policy: Callable[[int, int], float]) -> float:
        return -float(np.mean([policy(i, arm) * utility / p[arm] for i, (_, arm, p, utility) in enumerate(plain)]))

    vw = Workspace(f"--dsjson -q sa --quiet -d {file} --cb_adf -t")
    first = vw.get_sum_loss() / vw.get_weighted_examples()
    vw.finish()
    # Untaught, cb_adf takes the first action, and cb_explore_adf draws among equals. It counts in single precision.
    assert first == pytest.approx(ips(lambda _, arm: float(arm == 0)), rel=1e-5)
    assert wabbit(file, "--cb_explore_adf -t --epsilon 0")[0] == pytest.approx(ips(lambda *_: 1 / 3), rel=1e-5)
    for kind in ("ips", "dm", "mtr", "dr"):
        loss, predicted = wabbit(file, f"--cb_explore_adf --epsilon 0.1 --cb_type {kind}")
        assert loss == pytest.approx(ips(lambda i, arm, said=predicted: said[i][arm]), rel=1e-4)


def test_of_the_policy_that_was_logged_it_estimates_the_mean(tmp_path):
    file = tmp_path / "log.dsjson"
    lines = exported(simulated(tmp_path / "log", "uniform"), file, reward="success")
    first = [line for line in lines if line["Attempt"] == 1]
    file.write_text("".join(json.dumps(line) + "\n" for line in first))
    mean = float(np.mean([line["_label_cost"] for line in first]))
    assert wabbit(file, "--cb_explore_adf -t --epsilon 0")[0] == pytest.approx(mean, rel=1e-5)


def test_vowpal_wabbit_can_tell_arms_apart_by_what_is_shared(tmp_path):
    file = tmp_path / "log.dsjson"
    lines = exported(simulated(tmp_path / "log", "uniform"), file)
    _, predicted = wabbit(file, "--cb_explore_adf --epsilon 0")
    late = [(line, said) for line, said in zip(lines, predicted, strict=True) if line["Attempt"] == 1][-50:]
    best = [line["c"]["_multi"][max(said, key=said.get)]["_tag"] for line, said in late]
    assert best == ["a" if line["c"]["shared"]["category"] == "x" else "b" for line, _ in late]


def test_what_is_written_of_a_decision(told, tmp_path):
    lines = {line["EventId"]: line for line in exported(told, tmp_path / "log.dsjson")}
    # The pinned one and the one without a verdict are left out; an alarm without a verdict is a failure.
    assert list(lines) == ["escalated/1", "escalated/2", "late/1", "erased/1", "given up/1"]
    assert lines["late/1"] | {"c": None} == {
        "_label_cost": -4.75,  # the latest revision's success at what the router said it is worth, and the dollars
        "_label_probability": 0.3,
        "_label_Action": 2,
        "_labelIndex": 1,
        "o": [{"EventId": "late/1", "v": {"success": 1.0, "cost_usd": 0.25}}],
        "Timestamp": "1970-01-01T00:00:06.000000Z",
        "Version": "1",
        "EventId": "late/1",
        "SessionId": "late",
        "Attempt": 1,
        "a": [2, 1, 3],
        "p": [0.3, 0.5, 0.2],
        "c": None,
    }
    shared = lines["late/1"]["c"]["shared"]
    assert {name: shared.pop(name) for name in ("category", "size", "urgent", "._odd")} == {
        "category": "x",
        "size": 2.0,
        "urgent": True,
        "._odd": 1e18,
    }
    # A text is what is learned from it, and nothing of its words.
    assert {name[:8] for name in shared} == {"t:title#"}
    assert "fix" not in (tmp_path / "log.dsjson").read_text()
    assert [arm["_tag"] for arm in lines["escalated/2"]["c"]["_multi"]] == ["b", "c"]
    assert (lines["escalated/2"]["_label_Action"], lines["escalated/2"]["p"]) == (2, [0.75, 0.25])
    assert lines["escalated/1"]["_label_cost"] == 0.5
    assert lines["escalated/2"]["_label_cost"] == 1.5 - 5.0  # of two dollars for both attempts
    assert lines["erased/1"]["c"]["shared"] == {}
    assert "secret" not in (tmp_path / "log.dsjson").read_text()
    worth = exported(told, tmp_path / "log.dsjson", value_usd=2.0)
    assert worth[2]["_label_cost"] == -1.75
    assert exported(told, tmp_path / "log.dsjson", reward="success")[2]["_label_cost"] == -1.0
    with Sessions(told) as sessions:
        counts = dsjson.write(sessions, tmp_path / "log.dsjson", reward="success", value_usd=None)
    assert counts == (5, 1, 1)
    assert wabbit(tmp_path / "log.dsjson", "--cb_explore_adf")[0] < 0.0


# --- there and back ----------------------------------------------------------------------------------------------


def events_of(log: Path) -> list[Event]:
    rows = duckdb.sql(f"SELECT {', '.join(record.LOGGED)} FROM '{log}/*.parquet' ORDER BY seq").fetchall()
    logged = [record.unflatten(row) for row in rows]
    return [record.decode(row["kind"], row["body"], row["private"]).event for row in logged]


def rounds_of(log: Path) -> list[tuple]:
    """Arms, propensities, arm, and what came of it."""
    found = [event for event in events_of(log) if isinstance(event, Decided | Rewarded)]
    return [
        (
            [score.arm for score in event.decision.scores if score.bar is None],
            [score.propensity for score in event.decision.scores if score.bar is None],
            event.decision.arm,
            event.decision.propensity,
            told.outcome.success,
            told.outcome.cost_usd,
        )
        for event, told in zip(found[::2], found[1::2], strict=True)
    ]


@pytest.mark.parametrize("name", ["log.dsjson", "log.dsjson.gz", "log.npz"])
def test_out_and_in_again_gives_the_same_decisions(single, tmp_path, name):
    module = obp_npz if name.endswith("npz") else dsjson
    target = tmp_path / name
    with Sessions(single) as sessions:
        module.write(sessions, target, reward="utility", value_usd=None)
    first = target.read_bytes()
    assert rounds.write(module.read(target, Range()), tmp_path / "back", "theirs") == (300, 3)
    assert rounds_of(tmp_path / "back") == rounds_of(single)
    again = [event for event in events_of(tmp_path / "back") if isinstance(event, Decided)]
    if module is dsjson:
        before = [event for event in events_of(single) if isinstance(event, Decided)]
        assert [e.decision.situation.features for e in again] == [e.decision.situation.features for e in before]
    assert {event.decision.situation.router for event in again} == {"theirs"}
    with Sessions(single) as sessions:
        module.write(sessions, target, reward="utility", value_usd=None)
    assert target.read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "back"])


# --- somebody else's dsjson --------------------------------------------------------------------------------------

THEIRS: dict = {
    "_label_cost": -0.25,
    "_label_probability": 0.8000001,
    "_label_Action": 2,
    "_labelIndex": 1,
    "o": [{"v": 1.0, "EventId": "e1"}],
    "Timestamp": "2021-02-04T16:31:29.2460001Z",
    "Version": "1",
    "EventId": "e1",
    "a": [2, 1],
    "c": {
        "FromUrl": [{"hour": "night", "visits": 3}],
        "vector": [0.5, 1.5],
        "note": {"_text": "two words"},
        "paid": True,
        "_synthetic": False,
        "_multi": [{"_tag": "news", "i": {"topic": "x"}}, {"i": {"id": 7}}],
    },
    "p": [0.8, 0.2],
    "VWState": {"m": "somewhere/1"},
}


def read_back(tmp_path: Path, lines: list[dict | bytes], rewards: Range | None = None) -> list[tuple]:
    source = tmp_path / "in.dsjson"
    source.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    rounds.write(dsjson.read(source, rewards or Range()), tmp_path / "out", "theirs")
    return rounds_of(tmp_path / "out")


def test_a_foreign_line_is_understood(tmp_path):
    skipped = THEIRS | {"_skipLearn": True, "EventId": "e0"}
    ((arms, propensities, arm, propensity, success, cost_usd),) = read_back(tmp_path, [skipped, b"", THEIRS])
    assert (arms, arm, propensity, success, cost_usd) == (["news", "7"], "7", 0.8000001, 0.25, None)
    assert propensities == [0.2, 0.8000001]
    (event,) = (event for event in events_of(tmp_path / "out") if isinstance(event, Decided))
    features = dict(event.decision.situation.features)
    assert features.pop("note").hashed  # what is learned from a text, not the text
    assert features == {"FromUrl.hour": "night", "FromUrl.visits": 3.0, "vector": (0.5, 1.5), "paid": True}
    at = duckdb.sql(f"SELECT epoch_us(\"at\") FROM '{tmp_path}/out/*.parquet' WHERE kind = 'decided'").fetchall()
    assert at == [(1612456289246000,)]


def test_rewards_of_any_range_are_mapped(tmp_path):
    found = read_back(tmp_path, [THEIRS | {"_label_cost": -3.0}], Range(low=-5.0, high=5.0))
    assert found[0][4] == pytest.approx(0.8)


def without(*path: str) -> dict:
    line = json.loads(json.dumps(THEIRS))
    inner = line
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return line


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"{", "line"),
        (b"[]", "line"),
        (b"\xff", "line"),
        (b'{"_label_cost": NaN}', "line"),
        (b'{"c":' + b'{"a":' * 100_000, "line"),
        (b'{"_label_cost": 1e999}', "_label_cost"),
        (without("_label_cost"), "_label_cost"),
        (THEIRS | {"_label_cost": "-1"}, "_label_cost"),
        (THEIRS | {"_label_cost": 0.5}, "_label_cost"),
        (without("_label_probability"), "_label_probability"),
        (THEIRS | {"_label_probability": 0}, "_label_probability"),
        (THEIRS | {"_label_probability": 1.2}, "_label_probability"),
        (THEIRS | {"_label_probability": 0.7}, "p"),
        (without("_label_Action"), "_label_Action"),
        (THEIRS | {"_label_Action": 0, "_labelIndex": None}, "_label_Action"),
        (THEIRS | {"_label_Action": 3, "_labelIndex": None}, "_label_Action"),
        (THEIRS | {"_labelIndex": 0}, "_labelIndex"),
        (without("a"), "a"),
        (THEIRS | {"a": [2, 2]}, "a"),
        (THEIRS | {"a": [2, 3]}, "a"),
        (without("p"), "p"),
        (THEIRS | {"p": [0.8]}, "p"),
        (THEIRS | {"p": [0.8, 0.1]}, "propensities"),
        (THEIRS | {"p": [0.8, -0.2]}, "propensities"),
        (without("c"), "c"),
        (without("c", "_multi"), "c._multi"),
        (THEIRS | {"c": {"_multi": [1, 2]}}, "c._multi"),
        (THEIRS | {"c": {"_multi": [{"_tag": "x"}, {"id": "x"}]}}, "arm"),
        (THEIRS | {"c": THEIRS["c"] | {"_multi": [{"_tag": "x\n"}, {}]}}, "arm"),
        (THEIRS | {"c": THEIRS["c"] | {"odd": [1, "x"]}}, "c.odd"),
        (THEIRS | {"c": THEIRS["c"] | {"shared": {"paid": 1}}}, "c.paid"),
        (THEIRS | {"c": THEIRS["c"] | {"big": 10**400}}, "c.big"),
        (THEIRS | {"c": THEIRS["c"] | {f"f{i}": i for i in range(300)}}, "features"),
        (THEIRS | {"c": THEIRS["c"] | {"_slots": []}}, "c._slots"),
        (THEIRS | {"_outcomes": []}, "_outcomes"),
        (THEIRS | {"pdrop": 0.5}, "pdrop"),
        (THEIRS | {"EventId": ""}, "id"),
        (THEIRS | {"EventId": "x" * 1000}, "id"),
        (THEIRS | {"Timestamp": "yesterday"}, "Timestamp"),
        (THEIRS | {"Timestamp": "1969-01-01T00:00:00Z"}, "time"),
        (THEIRS | {"o": [{"v": {"success": 2}}]}, "success"),
        (THEIRS | {"o": [{"v": {"success": 1, "cost_usd": -1}}]}, "cost_usd"),
        (THEIRS | {"o": [{"v": {"success": True}}]}, "o.v.success"),
        (THEIRS, "id"),  # the first line's once more
    ],
)
def test_what_cannot_be_is_refused_with_its_place_and_nothing_is_left(tmp_path, line, field):
    with pytest.raises(InvalidInput) as refused:
        read_back(tmp_path, [THEIRS, line])
    assert refused.value.field == f"{tmp_path / 'in.dsjson'} line 2: {field}"
    assert [path.name for path in tmp_path.iterdir()] == ["in.dsjson"]


def test_too_many_arms_are_none_of_a_router(tmp_path):
    lines = []
    for i in range(501):
        context = {"_multi": [{"id": 2 * i}, {"id": 2 * i + 1}]}
        lines.append(THEIRS | {"EventId": f"e{i}", "c": context})
    with pytest.raises(InvalidInput, match="line 501: arm: there are more than 1000"):
        read_back(tmp_path, lines)


def test_files_that_are_too_long_cut_off_empty_or_not_there(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="no decisions"):
        read_back(tmp_path, [b""])
    with pytest.raises(FileNotFoundError):
        rounds.write(dsjson.read(tmp_path / "nothing", Range()), tmp_path / "out", "theirs")
    packed = tmp_path / "in.gz"
    packed.write_bytes(gzip.compress(json.dumps(THEIRS).encode() * 100)[:-20])
    with pytest.raises(InvalidInput, match="not a whole gzip file"):
        rounds.write(dsjson.read(packed, Range()), tmp_path / "out", "theirs")
    monkeypatch.setattr(files, "_LONGEST_LINE", 2000)
    with pytest.raises(InvalidInput, match="line 2: is longer"):
        read_back(tmp_path, [THEIRS, b" " * 3000])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InvalidInput, match="is not empty"):
        rounds.write(dsjson.read(tmp_path / "in.dsjson", Range()), tmp_path / "full", "theirs")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(name=st.sampled_from([*THEIRS, "_skipLearn", "pdrop"]), value=JSON, inside=st.booleans())
def test_whatever_stands_in_a_line_is_read_or_refused(tmp_path_factory, name, value, inside):
    line = THEIRS | {"c": THEIRS["c"] | {name: value}} if inside else THEIRS | {name: value}
    source = tmp_path_factory.mktemp("any") / "in.dsjson"
    source.write_text(json.dumps(line))
    try:
        for _, one in dsjson.read(source, Range())():
            one.check()
    except InvalidInput as refused:
        assert str(source) in refused.field or refused.field.split(".")[0].split("[")[0]


# --- Open Bandit Pipeline ----------------------------------------------------------------------------------------


def test_what_open_bandit_pipeline_gets(told, tmp_path):
    with Sessions(told) as sessions:
        counts = obp_npz.write(sessions, tmp_path / "log.npz", reward="utility", value_usd=None)
    assert counts == (4, 1, 1)
    feedback = dict(np.load(tmp_path / "log.npz", allow_pickle=False))
    assert (feedback["n_rounds"], feedback["n_actions"]) == (4, 3)
    assert feedback["decision_id"].tolist() == ["escalated/1", "late/1", "erased/1", "given up/1"]
    assert feedback["arms"].tolist() == list(ARMS)
    assert feedback["action"].tolist() == [0, 1, 0, 1]
    assert feedback["pscore"].tolist() == [0.5, 0.3, 0.5, 0.3]
    assert feedback["pi_b"].tolist() == [[[0.5], [0.3], [0.2]]] * 4
    # What the whole session came to: all its dollars, and the success of its last attempt.
    assert feedback["reward"].tolist() == [3.0, 4.75, 2.5, -0.5]
    assert feedback["position"].tolist() == [0] * 4
    assert feedback["action_context"].tolist() == np.eye(3).tolist()
    assert feedback["context"].shape == (4, len(feedback["columns"]))
    assert np.isfinite(feedback["context"]).all()
    column = feedback["columns"].tolist().index("n:size")
    assert feedback["context"][:, column].tolist() == [math.asinh(2.0)] * 2 + [0.0] + [math.asinh(2.0)]


FEEDBACK: dict = {
    "n_rounds": 3,
    "n_actions": 2,
    "context": np.arange(6.0).reshape(3, 2),
    "action": np.array([0, 1, 1]),
    "reward": np.array([1, 0, 1]),
    "pscore": np.array([0.25, 0.5, 1.0]),
    "position": np.array([0, 1, 0]),
    "action_context": np.eye(2),
}


def feedback_in(tmp_path: Path, **changed: object) -> list[tuple]:
    np.savez(tmp_path / "in.npz", **{name: value for name, value in (FEEDBACK | changed).items() if value is not None})
    rounds.write(obp_npz.read(tmp_path / "in.npz", Range()), tmp_path / "out", "theirs")
    return rounds_of(tmp_path / "out")


def test_foreign_feedback_is_understood(tmp_path):
    found = feedback_in(tmp_path, context=np.asfortranarray(FEEDBACK["context"]))
    assert [(row[1], row[2], row[4]) for row in found] == [
        ([0.25, 0.75], "0", 1.0),
        ([0.5, 0.5], "1", 0.0),
        ([0.0, 1.0], "1", 1.0),
    ]
    features = [e.decision.situation.features for e in events_of(tmp_path / "out") if isinstance(e, Decided)]
    assert features == [
        {"context_0": 0.0, "context_1": 1.0},
        {"context_0": 2.0, "context_1": 3.0, "position": "1"},
        {"context_0": 4.0, "context_1": 5.0},
    ]


def test_a_distribution_with_positions_is_that_of_the_round_s_own(tmp_path):
    pi_b = np.array([[[0.25, 1.0], [0.75, 0.0]], [[1.0, 0.5], [0.0, 0.5]], [[0.0, 0.5], [1.0, 0.5]]])
    assert [row[1] for row in feedback_in(tmp_path, pi_b=pi_b)] == [[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"action": None}, ": action"),
        ({"reward": None}, ": reward"),
        ({"pscore": None}, ": pscore"),
        ({"n_actions": None}, ": n_actions"),
        ({"n_actions": 0}, ": n_actions"),
        ({"action": np.array([0, 1, 2])}, " round 3: action"),
        ({"action": np.array([0, -1, 1])}, " round 2: action"),
        ({"action": np.array([0, 0.5, 1])}, " round 2: action"),
        ({"action": np.array(["a", "b", "c"])}, " round 1: action"),
        ({"action": np.array([0, None, 1])}, ": action"),
        ({"reward": np.array([1, np.nan, 1])}, " round 2: reward"),
        ({"reward": np.array([1, 2, 1])}, " round 2: reward"),
        ({"reward": np.array([1, 1])}, ": reward"),
        ({"pscore": np.array([0.5, 0.0, 1.0])}, " round 2: pscore"),
        ({"pscore": np.array([0.5, 1.5, 1.0])}, " round 2: pscore"),
        ({"pscore": np.array([0.5, np.nan, 1.0])}, " round 2: pscore"),
        ({"context": np.full((3, 2), np.inf)}, " round 1: context[0]"),
        ({"context": np.ones(3)}, ": context"),
        ({"context": np.ones((3, 10_000))}, ": context"),
        ({"pi_b": np.array([[0.25, 0.75], [0.4, 0.5], [0.0, 1.0]])}, " round 2: propensities"),
        ({"pi_b": np.array([[0.25, 0.75], [0.6, 0.4], [0.0, 1.0]])}, " round 2: pscore"),
        ({"pi_b": np.ones((3, 3))}, " round 1: pi_b"),
        ({"arms": np.array(["x"])}, ": arms"),
        ({"arms": np.array(["x", "x"])}, " round 1: arm"),
        ({"decision_id": np.array(["x", "y", "x"])}, " round 3: id"),
        ({"success": np.array([1.0, 2.0, 1.0])}, " round 2: success"),
    ],
)
def test_feedback_that_cannot_be_is_refused(tmp_path, changed, field):
    with pytest.raises(InvalidInput) as refused:
        feedback_in(tmp_path, **changed)
    assert refused.value.field == f"{tmp_path / 'in.npz'}{field}"
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_arrays_are_refused(tmp_path):
    feedback_in(tmp_path)
    whole = (tmp_path / "in.npz").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(200):
        damaged = bytearray(whole[: rng.integers(len(whole))] if i % 2 else whole)
        if len(damaged):
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        (tmp_path / "in.npz").write_bytes(damaged)
        try:
            rounds.write(obp_npz.read(tmp_path / "in.npz", Range()), tmp_path / f"out{i}", "theirs")
        except InvalidInput:
            assert not (tmp_path / f"out{i}").exists()


TABLE = """timestamp,item_id,position,click,propensity_score,user_feature_0,affinity
2019-11-24 00:00:00,7,1,0,0.5,81ce,0.5
2019-11-24 00:00:01,9,2,1,0.25,,-1.5
2019-11-24 00:00:02,7,1,0,0.5,"a, b",
"""


def table_in(tmp_path: Path, text: str | bytes) -> list[tuple]:
    (tmp_path / "in.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    rounds.write(obp_csv.read(tmp_path / "in.csv", Range()), tmp_path / "out", "theirs")
    return rounds_of(tmp_path / "out")


def test_open_bandit_dataset_s_tables_are_understood(tmp_path):
    found = table_in(tmp_path, TABLE)
    assert [(row[0], row[1], row[2], row[4]) for row in found] == [
        (["7", "9"], [0.5, 0.5], "7", 0.0),
        (["7", "9"], [0.75, 0.25], "9", 1.0),
        (["7", "9"], [0.5, 0.5], "7", 0.0),
    ]
    features = [e.decision.situation.features for e in events_of(tmp_path / "out") if isinstance(e, Decided)]
    assert features == [
        {"position": "1", "user_feature_0": "81ce", "affinity": 0.5},
        {"position": "2", "affinity": -1.5},
        {"position": "1", "user_feature_0": "a, b"},
    ]


def test_a_table_may_tell_the_whole_distribution(tmp_path):
    found = table_in(tmp_path, "action,reward,pscore,pi_b_x,pi_b_y,pi_b_z\ny,1,0.5,0.25,0.5,0.25\n")
    assert found[0][:4] == (["x", "y", "z"], [0.25, 0.5, 0.25], "y", 0.5)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", " line 1: action or item_id"),
        ("action,reward,pscore\n", "IN"),
        ("action,reward\nx,1\n", " line 1: pscore or propensity_score"),
        ("action,reward,pscore,pscore\n", " line 1"),
        ("action,reward,pscore\nx,1,0.5\nx,1\n", " line 3"),
        ("action,reward,pscore\nx,1,1\nx,1,0\n", " line 3: pscore"),
        ("action,reward,pscore\nx,1,1\nx,1,nan\n", " line 3: pscore"),
        ("action,reward,pscore\nx,1,1\nx,2,1\n", " line 3: reward"),
        ("action,reward,pscore\nx,1,1\nx,,1\n", " line 3: reward"),
        ("action,reward,pscore\nx,1,0.5\n", " line 2: propensities"),
        ("action,reward,pscore\n,1,1\n", " line 2: arm"),
        ("action,reward,pscore,pi_b_x\ny,1,1,1\n", ": pi_b_y"),
        ('action,reward,pscore\n"x,1,1\n', " line 2"),
        (b"action,reward,pscore\n\xff,1,1\n", " line 2"),
    ],
)
def test_tables_that_cannot_be_are_refused(tmp_path, text, field):
    with pytest.raises(InvalidInput) as refused:
        table_in(tmp_path, text)
    assert refused.value.field in (f"{tmp_path / 'in.csv'}{field}", field)
    assert not (tmp_path / "out").exists()


# --- folders of events -------------------------------------------------------------------------------------------


def test_folders_that_are_no_log_are_refused(told, tmp_path):
    for folder, router, field in (
        (tmp_path / "nothing", "", "--events"),
        (told.parent / "nobody", "", "--events"),
        (told, "nobody", "--router"),
    ):
        with pytest.raises(InvalidInput) as refused:
            Sessions(folder, router)
        assert refused.value.field == field
    duckdb.sql(f"COPY (SELECT 1 AS x) TO '{tmp_path}/x.parquet'")
    with pytest.raises(InvalidInput, match="not events of an archive"):
        Sessions(tmp_path)
    for name in ("one", "two"):
        written([(RouterPut(settings=ROUTER), "")], tmp_path / "several" / name)
    with pytest.raises(InvalidInput, match="holds 2 logs"):
        Sessions(tmp_path / "several")
