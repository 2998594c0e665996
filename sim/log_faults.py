"""Rows that no Pointsman would have written, found before anything is estimated from them."""

from sim import duck

_TOLERANCE = 1e-4
_MOST = 1e12
"""Of dollars and tokens, as in `bandit.soundness`: sums of them and of their squares stay finite."""

_TAKEN = "propensities[list_position(arms, arm)]"
_DECIDED = (
    ("attempt", "coalesce(attempt, 0) < 1", "is not a number from 1"),
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
_FAULTS = [
    ("body", "true", "body IS NULL", "is missing"),
    *((field, "kind = 'decided'", wrong, why) for field, wrong, why in _DECIDED),
    *((field, "kind IN ('rewarded', 'escalated', 'closed')", wrong, why) for field, wrong, why in _TOLD),
]


def first(connection: duck.Connection) -> str:
    """What is wrong with the first row that is at fault, of those in the view `events`; empty where none is.

    A distribution that is none, or a success of 2, would move every estimate without showing in it.
    """
    query = ", ".join(f"min(seq) FILTER ({where} AND ({wrong}))" for _, where, wrong, _ in _FAULTS)
    found = connection.execute(f"SELECT {query} FROM events").fetchall()[0]
    faults = [(seq, field, why) for seq, (field, _, _, why) in zip(found, _FAULTS, strict=True) if seq is not None]
    if not faults:
        return ""
    seq, field, why = min(faults, key=lambda fault: fault[0])
    return f"event {seq}: {field} {why}"
