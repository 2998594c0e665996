"""A log read by DuckDB against the same log folded event by event."""

import pickle
import random
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pytest

from bandit.errors import InvalidInput
from bandit.events import Closed, Decided, Escalated, Rewarded
from bandit.session import Session
from bandit.types import Outcome, Usage
from sim.logged import Log
from sim.piece import Piece
from sim.world import Terms
from tests.sim.logs import ARMS, Timed, events_of, folded, whole, write


def agrees(piece: Piece, sessions: list[Session]) -> None:
    """Every array holds what the folded sessions say."""
    for row, session in enumerate(sessions):
        n = len(session.attempts)
        last = session.attempts[-1]
        stopped = session.exhausted and last.left is not None and last.left.is_alarm
        assert piece.last[row] == n - 1 + stopped
        for step, attempt in enumerate(session.attempts):
            scores = attempt.decision.scores
            assert ARMS[piece.action[row, step]] == attempt.decision.arm
            alarms = sum(a.left is not None and a.left.is_alarm for a in session.attempts[:step])
            assert piece.alarms[row, step] == alarms
            given_going = piece.propensities[row, step, :3] / piece.propensities[row, step, :3].sum()
            assert given_going == pytest.approx([score.propensity for score in scores], abs=1e-12)
            assert piece.open_arms[row, step].tolist() == [score.bar is None for score in scores]
            assert piece.known[piece.features[row, step]] == attempt.decision.situation.features
            dollars = session.dollars(step)
            assert piece.cost_usd[row, step] == pytest.approx(np.nan if dollars is None else dollars, nan_ok=True)
        told = session.outcome(n - 1).success
        if told is None and stopped:
            told = 0.0
        assert piece.success[row] == pytest.approx(np.nan if told is None else told, nan_ok=True)


@pytest.mark.parametrize("policy", ["uniform", "always:b", "ladder:c>a", "thompson", "epsilon"])
@pytest.mark.parametrize("terms", [Terms(), Terms(detect=0.8, false_alarm=0.2, delay=7)], ids=["plain", "doubtful"])
def test_a_simulated_log_reads_as_it_folds(policy: str, terms: Terms, tmp_path: Path) -> None:
    events = events_of(policy, terms)
    with Log(write(events, tmp_path / "log")) as log:
        assert (log.arms, log.sessions, log.events) == (ARMS, 60, len(events))
        assert log.settings.max_attempts == 3
        assert log.settings.policy == policy
        agrees(whole(log), folded(events))


def disturbed(rng: random.Random) -> list[Timed]:
    """A log in which rewards are lost, corrected, come late, by session or decision, in dollars or tokens."""
    events = [event for event in events_of("uniform") if not (isinstance(event[1], Rewarded) and rng.random() < 0.3)]
    at = len(events)
    for session in folded(events):
        for _ in range(rng.randrange(5)):
            decision_id = rng.choice(["", *(a.decision.decision_id for a in session.attempts)])
            outcome = Outcome(
                success=rng.choice([None, 0.0, 0.25, 1.0]),
                cost_usd=rng.choice([None, None, 0.0, rng.expovariate(1.0)]),
                usage=rng.choice([None, Usage(input_tokens=rng.uniform(0, 1e6), output_tokens=10.0)]),
            )
            told = Rewarded(
                session_id=session.session_id,
                decision_id=decision_id,
                outcome=outcome,
                revision=rng.randrange(1, 6),
                final=rng.random() < 0.2,
            )
            events.insert(rng.randrange(at // 2, len(events) + 1), (10**9, told, session.session_id))
        if rng.random() < 0.3:
            closed = Closed(session_id=session.session_id, success=rng.choice([None, 0.0, 1.0]))
            events.append((10**9, closed, session.session_id))
    begun: set[str] = set()
    kept = []
    for event in events:
        if isinstance(event[1], Decided):
            begun.add(event[1].decision.decision_id)
        # Nothing is told of what has not begun.
        if not isinstance(event[1], Rewarded) or (
            event[1].decision_id in begun or (not event[1].decision_id and f"{event[2]}-1" in begun)
        ):
            kept.append(event)
    return kept


@pytest.mark.parametrize("seed", range(12))
def test_revisions_count_as_they_do_in_the_fold(seed: int, tmp_path: Path) -> None:
    events = without_session_usage(disturbed(random.Random(seed)))
    with Log(write(events, tmp_path / "log")) as log:
        agrees(whole(log), folded(events))


def without_session_usage(events: list[Timed]) -> list[Timed]:
    """Tokens told for whole sessions are not shared out when a log is read for evaluation."""
    return [
        (
            at,
            msgspec.structs.replace(event, outcome=msgspec.structs.replace(event.outcome, usage=None))
            if isinstance(event, Rewarded) and not event.decision_id
            else event,
            session,
        )
        for at, event, session in events
    ]


def test_pieces_are_the_whole_in_order(tmp_path: Path) -> None:
    with Log(write(events_of("uniform"), tmp_path / "log")) as log:
        all_of_it = whole(log)
        pieces = [log.piece(0, 7), log.piece(7, 31), log.piece(31, log.sessions)]
        assert np.concatenate([piece.success for piece in pieces]).tolist() == all_of_it.success.tolist()
        numbers = {number for number, _ in log.events_of(7, 31)}
        assert numbers == set(range(7, 31))


def test_a_log_sent_elsewhere_reads_the_same_files(tmp_path: Path) -> None:
    events = events_of("uniform")
    with Log(write(events, tmp_path / "log")) as log:
        sent = pickle.loads(pickle.dumps(log))
        agrees(sent.piece(0, sent.sessions), folded(events))
        assert list(sent.events_of(3, 5)) == list(log.events_of(3, 5))
    with pytest.raises(InvalidInput, match="--ray"):
        sent.piece(0, 1)


def test_what_came_before_a_session_is_in_order_and_complete(tmp_path: Path) -> None:
    events = events_of("uniform")
    with Log(write(events, tmp_path / "log")) as log:
        before = [(session, event) for _, _, session, event in log.events_until(20)]
    at = next(i for i, (_, event, session) in enumerate(events) if session == folded(events)[20].session_id)
    assert before == [(session, event) for _, event, session in events[:at]]


def test_logs_side_by_side_are_read_one_after_the_other(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(events_of("uniform", seed=seed), tmp_path / f"seed-{seed}")
    with Log(tmp_path) as log, Log(tmp_path / "seed-1") as second:
        assert log.sessions == 120
        assert whole(log).success[60:].tolist() == whole(second).success.tolist()


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no Parquet"):
        Log(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(InvalidInput, match="cannot be read"):
        Log(tmp_path)
    with pytest.raises(InvalidInput, match="no events of 'other'"):
        Log(write(events_of("uniform", sessions=2), tmp_path / "log"), router="other")


def test_a_log_without_decisions_is_refused(tmp_path: Path) -> None:
    events = [event for event in events_of("uniform", sessions=2) if not isinstance(event[1], Decided | Escalated)]
    with pytest.raises(InvalidInput, match="no decisions"):
        Log(write(events, tmp_path / "log"))


def altered(log: Path, target: Path, values: str, where: str = "true") -> Path:
    """The log with some columns replaced, and some rows left out."""
    target.mkdir()
    duckdb.execute(
        f"COPY (SELECT * REPLACE ({values}) FROM '{log}/*.parquet' WHERE {where}) TO '{target}/1.parquet'"
        " (FORMAT parquet)"
    )
    return target


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempt", "0"),
        ("attempt", "NULL"),
        ("arms", "NULL"),
        ("arm", "'zebra'"),
        ("propensities", "[0.5, 0.5]"),
        ("propensities", "[0.0, 0.0, 0.0]"),
        ("propensities", "[1.5, -0.25, -0.25]"),
        ("propensities", "['nan', 'nan', 'nan']::DOUBLE[]"),
        ("propensities", "list_transform(arms, lambda a: (a <> arm)::INT / 2.0)"),
        ("propensities", "NULL"),
        ("propensity", "0.9"),
        ("propensity", "NULL"),
        ("body", "NULL"),
    ],
)
def test_decisions_that_none_has_made_are_refused(field: str, value: str, tmp_path: Path) -> None:
    log = write(events_of("uniform", sessions=5), tmp_path / "log")
    first = next(number for number, (_, event, _) in enumerate(events_of("uniform"), 1) if isinstance(event, Decided))
    wrong = altered(log, tmp_path / "wrong", f"CASE WHEN kind = 'decided' THEN {value} ELSE {field} END AS {field}")
    with pytest.raises(InvalidInput, match=f"event {first}: {field} "):
        Log(wrong)


@pytest.mark.parametrize("value", ["'nan'", "'inf'", "-0.5", "1e300"])
@pytest.mark.parametrize("field", ["success", "cost_usd", "input_tokens"])
def test_outcomes_that_none_can_be_are_refused(field: str, value: str, tmp_path: Path) -> None:
    log = write(events_of("uniform", sessions=5), tmp_path / "log")
    told = f"CASE WHEN kind = 'rewarded' THEN {value}::DOUBLE ELSE {field} END AS {field}"
    with pytest.raises(InvalidInput, match=f": {field} does not lie in 0 to "):
        Log(altered(log, tmp_path / "wrong", told))


def test_a_copy_of_a_file_beside_it_is_refused(tmp_path: Path) -> None:
    log = write(events_of("uniform", sessions=5), tmp_path / "log")
    (file,) = log.iterdir()
    (log / "copy.parquet").write_bytes(file.read_bytes())
    with pytest.raises(InvalidInput, match="is there twice"):
        Log(log)


def test_sessions_that_are_not_whole_are_left_out(tmp_path: Path) -> None:
    """As where days are missing from an archive: some sessions' first or second decision, and all that follows others'
    first, which shows in nothing but a missing reward."""
    events = events_of("uniform")
    log = write(events, tmp_path / "log")
    lost = "attempt = 1 AND session_id LIKE '%1' OR attempt = 2 AND session_id LIKE '%2'"
    torn = altered(log, tmp_path / "torn", "seq AS seq", f"kind <> 'decided' OR NOT ({lost})")
    attempts = {session.session_id: len(session.attempts) for session in folded(events)}
    partly = [name for name, n in attempts.items() if (name[-1] == "1" and n > 1) or (name[-1] == "2" and n > 2)]
    unseen = [name for name, n in attempts.items() if name[-1] == "1" and n == 1]
    with Log(torn) as found:
        assert found.torn_sessions == len(partly) > 0
        assert found.sessions == 60 - len(partly) - len(unseen)
        assert whole(found).there[:, 0].all()


def test_of_no_whole_session_nothing_is_told(tmp_path: Path) -> None:
    log = write(events_of("uniform"), tmp_path / "log")
    torn = altered(log, tmp_path / "torn", "seq AS seq", "kind <> 'decided' OR attempt > 1")
    with pytest.raises(InvalidInput, match="of no session"):
        Log(torn)
