"""Open Bandit Pipeline's logged bandit feedback, as the arrays of an ``.npz`` file.

A round is a session: its first decision, with what the whole session came to. A policy that is scored on these rounds
is one that begins sessions and leaves all that follows to the policy that was logged. Pinned sessions and those
whose success is not known are left out.

Written are the keys of Open Bandit Pipeline's dictionary `bandit_feedback` (Saito, Aihara, Matsutani and Narita,
Open Bandit Dataset and Pipeline: towards realistic and reproducible off-policy evaluation, NeurIPS 2021): n_rounds,
n_actions, context (n_rounds, n_columns), action, reward, position (all 0), pscore (each n_rounds), action_context
(the identity), pi_b (n_rounds, n_actions, 1). Beside them: arms, the actions' names; columns, the context's;
decision_id, success and cost_usd of each round.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bandit.errors import InvalidInput
from bandit.features import Encoder
from bandit.types import Decision
from sim.formats.arrays import Array, Rows, Stored
from sim.formats.dsjson import Counts
from sim.formats.rounds import Range, Round, told_twice
from sim.formats.sessions import Sessions, Told, is_lottery

_MOST_COLUMNS = 512
_MOST_ARMS = 1000


def write(sessions: Sessions, target: Path, *, reward: str, value_usd: float | None) -> Counts:
    """Writes a file; the sessions are read twice. `reward` and `value_usd` are as in `Told.reward`.

    Raises OSError and what the sessions raise; then there is no file, or the one that was there before.
    """
    encoder, arms, unknown, pinned = Encoder(cap=_MOST_COLUMNS), dict[str, int](), 0, 0
    longest = 1
    for past in sessions:
        decision, told = past.whole()
        if not is_lottery(decision):
            pinned += 1
        elif told is None:
            unknown += 1
        else:
            encoder = encoder.grow([decision.situation.features])
            longest = max(longest, len(decision.decision_id))
            for score in decision.scores:
                arms.setdefault(score.arm, len(arms))
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "context": (np.float64, (len(encoder.columns),)),
        "action": (np.int64, ()),
        "reward": (np.float64, ()),
        "position": (np.int64, ()),
        "pscore": (np.float64, ()),
        "pi_b": (np.float64, (len(arms), 1)),
        "success": (np.float64, ()),
        "cost_usd": (np.float64, ()),
        "decision_id": (np.dtype(f"U{longest}"), ()),
    }
    with Rows(shapes) as rows:
        for past in sessions:
            decision, told = past.whole()
            if told is not None and is_lottery(decision):
                rows.add(_row(told, encoder, arms, told.reward(reward, value_usd)))
        rows.write(
            target,
            {
                "n_rounds": rows.count,
                "n_actions": len(arms),
                "action_context": np.eye(len(arms)),
                "arms": np.array(list(arms), dtype=np.str_),
                "columns": np.array(encoder.columns, dtype=np.str_),
            },
        )
        return Counts(rows.count, unknown, pinned)


def _row(told: Told, encoder: Encoder, arms: dict[str, int], reward: float) -> dict[str, Any]:
    decision = told.decision
    context, _ = encoder.encode(decision.situation.features)
    return {
        # A number that is absent is 0, like everything else that is.
        "context": np.nan_to_num(context, nan=0.0),
        "action": arms[decision.arm],
        "reward": reward,
        "position": 0,
        "pscore": decision.propensity,
        "pi_b": _distribution(decision, arms),
        "success": told.success,
        "cost_usd": told.cost_usd,
        "decision_id": decision.decision_id,
    }


def _distribution(decision: Decision, arms: dict[str, int]) -> Array:
    found = np.zeros((len(arms), 1))
    for score in decision.scores:
        found[arms[score.arm]] = score.propensity
    return found


# --- reading -----------------------------------------------------------------------------------------------------


def read(source: Path, rewards: Range) -> Callable[[], Iterator[tuple[str, Round]]]:
    """The rounds of a file, each time it is called from the beginning, with their places; as `rounds.Rounds`.

    - action, reward and pscore must be there, and n_actions or a distribution: pi_b or action_dist, with one list
      or with as many as there are positions. Without a distribution, what pscore leaves stands evenly on the others.
    - `arms` names the actions; else their numbers do. `decision_id` names the rounds; else their numbers do, from 1.
    - The columns of `context` are numbers, named by `columns`, else context_0 and so on. A position other than 0 is a
      category. `action_context` is not kept.
    - `success` and `cost_usd` (NaN: unknown) count where they are there; else `rewards` maps reward to success.

    Everything else that cannot be is refused with InvalidInput naming file, round and field.
    """

    def rounds() -> Iterator[tuple[str, Round]]:
        with Stored(source) as stored:
            yield from _rounds(stored, source, rewards)

    return rounds


_BY_ROUND = ("action", "reward", "pscore", "position", "context", "pi_b", "action_dist", "success", "cost_usd",
             "decision_id")  # fmt: skip


def _rounds(stored: Stored, source: Path, rewards: Range) -> Iterator[tuple[str, Round]]:
    there = [name for name in _BY_ROUND if name in stored or name in ("action", "reward", "pscore")]
    n_rounds = stored.shape("action")[:1]
    for name in there:
        if stored.shape(name)[:1] != n_rounds or not n_rounds:
            raise InvalidInput(f"{source}: {name}", f"must have as many rows as action, {n_rounds}")
    names = _arms(stored, source, there)
    columns = _columns(stored, source) if "context" in there else ()
    for number, values in enumerate(zip(*map(stored.rows, there), strict=True), 1):
        place = f"{source} round {number}"
        try:
            yield place, _round(dict(zip(there, values, strict=True)), names, columns, number, rewards)
        except InvalidInput as error:
            raise InvalidInput(f"{place}: {error.field}", error.why) from error


def _arms(stored: Stored, source: Path, there: list[str]) -> tuple[str, ...]:
    if "n_actions" in stored:
        (count,) = stored.whole("n_actions", 1).ravel().tolist()
    elif widths := [stored.shape(name)[1] for name in ("pi_b", "action_dist") if name in there]:
        count = widths[0]
    else:
        raise InvalidInput(f"{source}: n_actions", "is missing")
    if not 1 <= count <= _MOST_ARMS or count != int(count):
        raise InvalidInput(f"{source}: n_actions", f"{count} does not lie in 1 to {_MOST_ARMS}")
    if "arms" not in stored:
        return tuple(map(str, range(int(count))))
    names = tuple(str(name) for name in stored.whole("arms", _MOST_ARMS).ravel())
    if len(names) != count:
        raise InvalidInput(f"{source}: arms", f"there are {len(names)} names of {count} actions")
    return names


def _columns(stored: Stored, source: Path) -> tuple[str, ...]:
    shape = stored.shape("context")
    width = shape[1] if len(shape) == 2 else -1
    if not 0 <= width <= _MOST_COLUMNS:
        raise InvalidInput(f"{source}: context", f"must have two axes, the second of at most {_MOST_COLUMNS}")
    if "columns" not in stored:
        return tuple(f"context_{i}" for i in range(width))
    names = tuple(str(name) for name in stored.whole("columns", _MOST_COLUMNS).ravel())
    if len(names) != width or len(set(names)) < width:
        raise InvalidInput(f"{source}: columns", f"must be {width} different names")
    return names


def _round(
    values: dict[str, Array], arms: tuple[str, ...], columns: tuple[str, ...], number: int, rewards: Range
) -> Round:
    action = _integer("action", values["action"])
    if not 0 <= action < len(arms):
        raise InvalidInput("action", f"there is no action {action}, of {len(arms)}")
    position = _integer("position", values["position"]) if "position" in values else 0
    pscore = _number("pscore", values["pscore"])
    if not 0.0 < pscore <= 1.0:
        raise InvalidInput("pscore", f"{pscore:g} does not lie in (0, 1]")
    given = next((name for name in ("pi_b", "action_dist") if name in values), None)
    if given is None:
        propensities = spread(pscore, action, len(arms))
    else:
        propensities = _given(given, values[given], position, len(arms))
        told_twice("pscore", pscore, propensities[action])
        propensities[action] = pscore
    features: dict[str, Any] = {
        name: _number(f"context[{i}]", x)
        for i, (name, x) in enumerate(zip(columns, values.get("context", ()), strict=True))
    }
    if position:
        features["position"] = str(position)
    success, cost_usd = _known(values, "success"), _known(values, "cost_usd")
    if success is None:
        success = rewards.success("reward", _number("reward", values["reward"]))
    return Round(
        id=str(values["decision_id"]) if "decision_id" in values else str(number),
        at_us=number * 1_000_000,
        arms=arms,
        propensities=tuple(propensities),
        chosen=action,
        features=features,
        success=success,
        cost_usd=cost_usd,
    )


def spread(propensity: float, chosen: int, n_arms: int) -> list[float]:
    """A distribution of which one entry is known: what it leaves stands evenly on the others."""
    if n_arms == 1:
        return [propensity]
    others = [(1.0 - propensity) / (n_arms - 1)] * n_arms
    others[chosen] = propensity
    return others


def _given(name: str, row: Array, position: int, n_arms: int) -> list[float]:
    if row.ndim == 2 and 0 <= position < row.shape[1]:
        row = row[:, position]
    if row.shape != (n_arms,):
        raise InvalidInput(name, f"has shape {row.shape}, of {n_arms} actions and position {position}")
    return [_number(name, x) for x in row]


def _known(values: dict[str, Array], name: str) -> float | None:
    if name not in values or math.isnan(value := float(values[name])):
        return None
    return value


def _integer(field: str, value: Array) -> int:
    number = _number(field, value)
    if number != int(number):
        raise InvalidInput(field, f"{number:g} is no whole number")
    return int(number)


def _number(field: str, value: Array) -> float:
    if np.ndim(value) or np.asarray(value).dtype.kind not in "biuf":
        raise InvalidInput(field, "must be a number")
    number = float(value)
    if not math.isfinite(number):
        raise InvalidInput(field, f"{number} is not finite")
    return number
