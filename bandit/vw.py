"""Policies made of Vowpal Wabbit's contextual bandits (`--cb_explore_adf`); the only module that imports it.

A state is the bytes of a saved model. A fold loads it anew, learns and saves, so that the same history gives the same
bytes whoever folds it: a model keeps its random stream and its scales in the file, while a workspace that simply
goes on drifts from one that was saved and loaded in between by a rounding here and there.

What is learned: once per attempt, when its success is known, the `loss` of the arm that was decided, among the arms
that were eligible, with the propensity it was drawn with. The loss is never negative, so an arm without outcomes,
predicted at 0, is worth a try. Attempts that another arm served and pinned ones are left out: their propensity is not
that of what happened. Those of apprentice mode are learned from with their propensity of 1, which is honest: nobody
who knew more chose the baseline for these sessions.

Of an objective, the loss knows the value of a success and the price of a second. A quality floor, what a dollar costs
under the budget and what it costs to read a session again play no part in a decision, and as no arm's cost is
predicted, a cap on it rules none out.

Vowpal Wabbit cannot unlearn. An outcome that is corrected later is learned again on top of the first, which counts
that attempt twice; an outcome repeated unchanged is not learned again.
"""

import functools
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from vowpalwabbit import Workspace

from bandit import sampling
from bandit.errors import InvalidInput
from bandit.features import Encoder
from bandit.loss import loss
from bandit.policy import AnyPolicy, Distribution, eligible
from bandit.session import AttemptRow, SessionChange
from bandit.types import Arm, Features, SelectReason, Situation

EXPLORATIONS = {
    "squarecb": "--squarecb --gamma_scale 100 --gamma_exponent 0.5",
    "bag": "--bag 8",
    "regcb": "--regcb --mellowness 0.001 --cb_min_cost 0 --cb_max_cost 2",
    "cover": "--cover 8 --nounif --psi 0.01",
}
"""What stands behind ``vw:`` in a specification -> how Vowpal Wabbit explores.

As eager as it paid to be on random halves of measured outcomes (`tests/benchmarks/RESULTS.md`, Baselines): with Vowpal
Wabbit's defaults (gamma_scale 10, mellowness .1, psi 1, a uniform share for cover) arms are tried for longer than a few
hundred sessions can pay for, and the router's floor explores as it is. regcb needs to know between what bounds losses
lie. regcbopt is left out: it gave every arm probability 1.
"""

# Interactions of shared and action features, or the shared ones could not tell arms apart; both stay in by themselves.
_COMMON = "--cb_explore_adf --quadratic sa --bit_precision 16 --random_seed 1 --quiet"

_MOST_COLUMNS = 1024
"""Features of one context beyond this many share columns."""


class VowpalWabbit:
    """One of Vowpal Wabbit's explorations, mixed with the router's floor; it never climbs."""

    climbs = False

    def __init__(self, exploration: str) -> None:
        self.spec = f"vw:{exploration}"
        self._options = f"{_COMMON} {EXPLORATIONS[exploration]}"

    def start(self, arms: Sequence[Arm]) -> bytes:
        """A model that has learned nothing. Arms need not be known beforehand."""
        return _save(Workspace(self._options))

    def fold(self, state: bytes, arms: Sequence[Arm], changes: Sequence[SessionChange]) -> bytes:
        """The model after learning every row whose loss is new, in the order of the changes."""
        news = [row for change in changes for row in _news(change)]
        if not news:
            return state
        workspace = _load(state)
        for row in news:
            workspace.learn(_labelled(row))
        return _save(workspace)

    def distribution(self, state: bytes, situation: Situation) -> Distribution:
        """Vowpal Wabbit's own distribution over the eligible, mixed with the floor.

        Raises ValueError where it is none (versions of SquareCB are known to have emitted such).
        """
        allowed = eligible(situation)
        arms = [offer.arm for offer in situation.offers if offer.bar is None]
        answer = np.array(_cached(state).predict([_shared(situation.features), *map(_action, arms)]))
        # Its numbers have single precision.
        if answer.shape != (len(arms),) or not (np.all(answer >= 0) and abs(answer.sum() - 1.0) < 1e-4):
            raise ValueError(f"{self.spec} gave no distribution over {len(arms)} arms: {answer}")
        shares = np.zeros(len(situation.offers))
        shares[allowed] = answer / answer.sum()
        return Distribution(propensities=sampling.with_floor(shares, allowed, situation.exploration_floor))

    def distributions(self, state: bytes, situations: Sequence[Situation]) -> list[Distribution]:
        """One after the other."""
        return [self.distribution(state, situation) for situation in situations]

    def dump(self, state: bytes) -> bytes:
        """The saved model."""
        return state

    def load(self, blob: bytes) -> bytes:
        """The inverse of `dump`."""
        return blob


def make(spec: str) -> AnyPolicy:
    """The policy that ``vw:EXPLORATION`` names. Raises InvalidInput where there is no such exploration."""
    exploration = spec.removeprefix("vw:")
    if exploration not in EXPLORATIONS:
        known = ", ".join(f"vw:{name}" for name in EXPLORATIONS)
        raise InvalidInput("policy", f"no policy {spec!r}; of Vowpal Wabbit there are: {known}")
    return VowpalWabbit(exploration)


def _save(workspace: Workspace) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model")
        workspace.save(path)
        return path.read_bytes()


def _load(model: bytes) -> Workspace:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model")
        path.write_bytes(model)
        return Workspace(arg_list=["--quiet", "--initial_regressor", str(path)])


# Predicting leaves the weights alone, so these may be shared; a fold loads its own.
_cached = functools.lru_cache(maxsize=8)(_load)


def _news(change: SessionChange) -> list[AttemptRow]:
    """The rows of a session whose loss is known and was not, or was another, before."""
    before = {row.decision.decision_id: loss(row) for row in change.before}
    return [
        row
        for row in change.after
        if row.arm == row.decision.arm
        and row.decision.reason is not SelectReason.PINNED
        and (lost := loss(row)) is not None
        and lost != before.get(row.decision.decision_id)
    ]


def _labelled(row: AttemptRow) -> list[str]:
    """The example that teaches a row: shared line, then one line an arm that could have been drawn."""
    lines = [_shared(row.decision.situation.features)]
    for score in row.decision.scores:
        if score.arm == row.decision.arm:
            lines.append(f"0:{loss(row)}:{score.propensity} {_action(score.arm)}")
        elif score.bar is None:
            lines.append(_action(score.arm))
    return lines


def _shared(features: Features) -> str:
    """The shared line of an example: every feature of the context by itself, as `features` encodes it."""
    encoder = Encoder(cap=_MOST_COLUMNS).grow([features])
    row, _ = encoder.encode(features)
    cells = zip(encoder.columns[1:], row[1:].tolist(), strict=True)
    return " ".join(["shared |s", *(f"{_token(column)}:{x:.6g}" for column, x in cells)])


def _action(arm: str) -> str:
    return f"|a {_token(arm)}"


def _token(name: str) -> str:
    """A name as a word that Vowpal Wabbit's text format can carry, whatever characters it is made of."""
    return "h" + hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
