"""Rows that no Pointsman would have written, found before anything is estimated from them."""

from collections.abc import Sequence

from sim import duck
from sim.log_sql import MOST_ATTEMPTS

_TOLERANCE = 1e-4
_MOST = 1e12
"""Of dollars and tokens, as in `bandit.soundness`: sums of them and of their squares stay finite."""

_TAKEN = "propensities[list_position(arms, arm)]"
_DECIDED = (
    ("attempt", f"coalesce(attempt, 0) NOT BETWEEN 1 AND {MOST_ATTEMPTS}", f"does not lie in 1 to {MOST_ATTEMPTS}"),
    ("arms", "coalesce(len(arms), 0) = 0", "are missing"),
    ("arm", "list_position(arms, arm) IS NULL", "is not among the arms"),
    ("propensities", "len(propensities) IS DISTINCT FROM len(arms)", "are not one an arm"),
    ("propensities", "NOT coalesce(list_min(propensities) >= 0.0, false)", "are not numbers from 0"),
    ("propensities", f"abs(list_sum(propensities) - 1.0) > {_TOLERANCE}", f"do not sum to 1 within {_TOLERANCE:g}"),
    ("propensities", f"NOT coalesce({_TAKEN} > 0.0, false)", "say that its arm could not have been taken"),
    ("propensity", f"NOT coalesce(abs(propensity - {_TAKEN}) <= {_TOLERANCE}, false)", "is not its arm's among all"),
)  # fmt: skip
_TOLD = (
    ("success", "success NOT BETWEEN 0.0 AND 1.0", "does not lie in 0 to 1"),
    *((field, f"{field} NOT BETWEEN 0.0 AND {_MOST}", f"does not lie in 0 to {_MOST:g}")
      for field in ("cost_usd", "input_tokens", "output_tokens", "cached_tokens")),
    ("revision", "kind = 'rewarded' AND revision IS NULL", "is missing"),
)  # fmt: skip
_FAULTS = {
    "true": (("body", "body IS NULL", "is missing"),),
    "kind = 'decided'": _DECIDED,
    "kind IN ('rewarded', 'escalated', 'closed')": _TOLD,
}
"""By the rows they are faults of."""


def first(connection: duck.Connection) -> str:
    """What is wrong with the first row that is at fault, of those in the view `events`; empty where none is.

    A distribution that is none, or a success of 2, would move every estimate without showing in it.
    """
    faults = [
        (seq, field, why)
        for where, several in _FAULTS.items()
        if _any(connection, where, [wrong for _, wrong, _ in several])
        for field, wrong, why in several
        for (seq,) in connection.execute(f"SELECT min(seq) FROM events WHERE {where} AND ({wrong})").fetchall()
        if seq is not None
    ]
    if not faults:
        return ""
    seq, field, why = min(faults, key=lambda fault: fault[0])
    return f"event {seq}: {field} {why}"


def _any(connection: duck.Connection, where: str, wrong: Sequence[str]) -> bool:
    """Whether there is one: asked for all together, since there is seldom any."""
    any_of_them = " OR ".join(f"({one})" for one in wrong)
    return bool(connection.execute(f"SELECT 1 FROM events WHERE {where} AND ({any_of_them}) LIMIT 1").fetchall())
