"""The window of rows against a plain list of sessions."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.features import Encoder
from bandit.rows import Rows
from bandit.session import AttemptRow, SessionChange
from bandit.types import Decision, Features, Objective, SelectReason, Situation

ARMS = {"a": 0, "b": 1, "c": 2}


def taught(session: str, attempt: int, arm: str, features: Features, success: float | None = 1.0) -> AttemptRow:
    situation = Situation(
        router="r",
        seed=1,
        session_id=session,
        attempt=attempt,
        attempts_left=1,
        features=features,
        offers=(),
        objective=Objective(),
        exploration_floor=0.02,
        draws=8,
        alpha=1.0,
    )
    decision = Decision(
        decision_id=f"{session}-{attempt}",
        situation=situation,
        arm=arm,
        propensity=1.0,
        reason=SelectReason.SAMPLED,
        scores=(),
        policy="uniform",
        policy_version="1",
        epoch=0,
        epoch_hash="",
    )
    return AttemptRow(decision=decision, arm=arm, alarm=success is None, success=success, cost_usd=None, usage=None)


def change(session: str, rows: Sequence[AttemptRow]) -> SessionChange:
    return SessionChange(session_id=session, before=(), after=tuple(rows))


def usage_of(row: AttemptRow) -> float:
    return float(row.decision.attempt)


def content(rows: Rows) -> list[tuple[str, list[tuple[float, ...]]]]:
    """The sessions in order, each with its rows: arm, attempt, truth (-1 unknown), alarm, usage, encoded features."""
    ends = np.cumsum(rows.lengths)
    flat = [
        (
            float(rows.arm[i]),
            float(rows.attempt[i]),
            float(np.nan_to_num(rows.truth[i], nan=-1.0)),
            float(rows.signal[i] > 0),
            float(rows.usage[i]),
            *np.nan_to_num(rows.x[i], nan=-9.0).tolist(),
        )
        for i in range(len(rows))
    ]
    return [
        (s, flat[end - n : end])
        for s, end, n in zip(rows.session_ids, ends.tolist(), rows.lengths.tolist(), strict=True)
    ]


ATTEMPTS = st.lists(st.tuples(st.sampled_from("abcx"), st.sampled_from([0.0, 0.5, 1.0, None])), max_size=3)
BLOCKS = st.lists(st.dictionaries(st.sampled_from("stuvw"), ATTEMPTS, max_size=4), max_size=4)


@settings(deadline=None)
@given(BLOCKS)
def test_updates_keep_the_last_word_of_every_session_at_the_end(
    blocks: list[dict[str, list[tuple[str, float | None]]]],
) -> None:
    encoder, rows = Encoder(), Rows.empty(1)
    model: dict[str, list[tuple[float, ...]]] = {}
    for number, block in enumerate(blocks):
        features: Features = {"n": float(number), f"flag{number}": True}
        encoder = encoder.grow([features])
        changes = []
        width = len(encoder.columns)
        for session, attempts in block.items():
            told = [taught(session, i + 1, arm, features, y) for i, (arm, y) in enumerate(attempts)]
            changes.append(change(session, told))
            x = np.nan_to_num(encoder.encode(features)[0], nan=-9.0).tolist()
            model.pop(session, None)
            if known := [
                (ARMS[arm], i + 1.0, -1.0 if y is None else y, float(y is None), i + 1.0, *x)
                for i, (arm, y) in enumerate(attempts)
                if arm in ARMS
            ]:
                model[session] = known
        rows = rows.update(changes, encoder, ARMS, usage_of)
        assert rows.x.shape == (len(rows), width)
        expected = [(s, [(*r, *[0.0] * (width + 5 - len(r))) for r in rs]) for s, rs in model.items()]
        assert content(rows) == expected


def window() -> Rows:
    changes = [
        change("s", [taught("s", 1, "a", {}, None), taught("s", 2, "b", {}, 1.0)]),
        change("t", [taught("t", 1, "c", {}, 0.0)]),
        change("u", [taught("u", i, arm, {}, y) for i, arm, y in ((1, "a", None), (2, "c", None), (3, "b", 0.5))]),
    ]
    return Rows.empty(1).update(changes, Encoder(), ARMS, usage_of)


def test_select_takes_whole_sessions() -> None:
    rows = window()
    assert content(rows.select(np.array([True, False, True]))) == [content(rows)[0], content(rows)[2]]
    assert len(rows.select(np.zeros(3, dtype=bool))) == 0


def test_filter_takes_rows_and_drops_what_is_left_empty() -> None:
    rows = window()
    told = rows.filter(~np.isnan(rows.truth))
    assert told.session_ids == ("s", "t", "u")
    assert told.lengths.tolist() == [1, 1, 1]
    assert told.truth.tolist() == [1.0, 0.0, 0.5]
    alarmed = rows.filter(rows.signal > 0)
    assert alarmed.session_ids == ("s", "u")
    assert alarmed.lengths.tolist() == [1, 2]
    assert alarmed.arm.tolist() == [0, 0, 2]


def test_nothing_is_changed_in_place() -> None:
    rows = window()
    before = content(rows)
    rows.update([change("s", [])], Encoder(), ARMS, usage_of)
    rows.widened(Encoder().grow([{"x": 1.0}]))
    assert content(rows) == before


def test_unknown_is_not_zero() -> None:
    rows = window()
    assert np.isnan(rows.truth).tolist() == [True, False, False, True, True, False]
    assert (rows.signal > 0).tolist() == [True, False, False, True, True, False]


def test_wider_rows_say_nothing_of_new_columns() -> None:
    encoder = Encoder().grow([{"x": 1.0, "y": "z"}])
    wide = window().widened(encoder)
    assert np.isnan(wide.x[:, encoder.index["n:x"]]).all()
    assert not wide.x[:, encoder.index["c:y=z"]].any()
    assert [r[:5] for _, rs in content(wide) for r in rs] == [r[:5] for _, rs in content(window()) for r in rs]
