"""LinUCB: the arm of the greatest upper confidence bound on a linear reward, each arm with weights of its own.

Algorithm 1 (disjoint linear models) of Li, Chu, Langford & Schapire, A contextual-bandit approach to personalized news
article recommendation (WWW 2010, doi:10.1145/1772690.1772758). Of each arm a it keeps A_a = I + sum(x x') and
b_a = sum(r x), and takes

    argmax_a  x . theta_a + alpha sqrt(x' A_a^-1 x),   theta_a = A_a^-1 b_a,

ties to the first, over the eligible arms. The router's floor is mixed in: without it the propensities would be 0 and 1,
and the log would say nothing of other policies. The reward r = success - (cost + kappa x seconds) / value is held
within [-1, 1]; see `loss` for what stands for what was not told. An arm's rows are those it served, whoever chose it.

A quality floor, what a dollar costs under the budget and what it costs to read a session again play no part in a
decision, and as no arm's cost is predicted, a cap on it rules none out. It never climbs.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandit import packing, sampling
from bandit.features import Encoder
from bandit.loss import loss
from bandit.policy import Distribution, eligible
from bandit.session import AttemptRow, SessionChange
from bandit.types import Arm, Features, Situation

Floats = npt.NDArray[np.float64]

ALPHA = 0.25
"""Width of the bounds in standard deviations of the linear model. On measured outcomes (eight arms, a success worth
$5) .1, .25, .5 and 1 earned $3.25, $3.23, $3.21 and $3.18 a session, each within .04."""

_NUMBER_UNIT = 10.0
"""Numbers stand as their asinh over this, held within [-1, 1]: some ten thousand are 1."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was learned of each arm."""

    arms: tuple[str, ...]
    encoder: Encoder
    square: Floats
    """A - I, shape (n_arms, n_columns, n_columns)."""
    cross: Floats
    """b, shape (n_arms, n_columns)."""

    @classmethod
    def blank(cls, arms: Sequence[Arm], encoder: Encoder) -> "Model":
        """Of no rows."""
        k, d = len(arms), len(encoder.columns)
        ids = tuple(arm.id for arm in arms)
        return cls(arms=ids, encoder=encoder, square=np.zeros((k, d, d)), cross=np.zeros((k, d)))

    @functools.cached_property
    def inverse(self) -> Floats:
        """A^-1 of each arm, and last that of an arm without rows: shape (n_arms + 1, n_columns, n_columns)."""
        identity = np.eye(len(self.encoder.columns))
        return np.asarray(np.linalg.inv(np.concatenate([self.square, np.zeros((1, *identity.shape))]) + identity))

    @functools.cached_property
    def theta(self) -> Floats:
        """Weights of each arm, and last of one without rows: shape (n_arms + 1, n_columns)."""
        cross = np.concatenate([self.cross, np.zeros((1, self.cross.shape[1]))])
        return np.asarray(np.einsum("kij,kj->ki", self.inverse, cross))

    def context(self, features: Features) -> tuple[Floats, int]:
        """A context, shape (n_columns,), and how many of its categories have no column yet."""
        row, novel = self.encoder.encode(features)
        held = np.clip(np.nan_to_num(row, nan=0.0) / _NUMBER_UNIT, -1.0, 1.0)
        return np.where(self.encoder.numbers, held, row), novel

    def bounds(self, situation: Situation) -> Floats:
        """The upper confidence bound on each offer's reward, shape (n_offers,)."""
        x, novel = self.context(situation.features)
        index = {arm: k for k, arm in enumerate(self.arms)}
        at = np.array([index.get(offer.arm, len(self.arms)) for offer in situation.offers])
        # A column that no row had yet is one of the identity's.
        variance = np.einsum("kij,i,j->k", self.inverse, x, x) + novel
        return np.asarray((self.theta @ x + ALPHA * np.sqrt(np.maximum(variance, 0.0)))[at])


class LinUCB:
    """The policy."""

    spec = "linucb"
    climbs = False

    def start(self, arms: Sequence[Arm]) -> Model:
        """Every arm is as good as any other."""
        return Model.blank(arms, Encoder())

    def fold(self, state: Model, arms: Sequence[Arm], changes: Sequence[SessionChange]) -> Model:
        """The sums with each changed session's old rows taken out and its new ones put in."""
        news = [change for change in changes if change.after != change.before]
        encoder = state.encoder.grow(row.decision.situation.features for change in news for row in change.after)
        model = Model.blank(arms, encoder)
        k, d = state.cross.shape
        model.square[:k, :d, :d] = state.square
        model.cross[:k, :d] = state.cross
        index = {arm: i for i, arm in enumerate(model.arms)}
        for change in news:
            for sign, rows in ((-1.0, change.before), (1.0, change.after)):
                for arm, x, reward in _lessons(model, index, rows):
                    model.square[arm] += sign * np.outer(x, x)
                    model.cross[arm] += sign * reward * x
        return model

    def distribution(self, state: Model, situation: Situation) -> Distribution:
        """The eligible arm of the greatest bound, mixed with the floor."""
        allowed = eligible(situation)
        best = int(np.argmax(np.where(allowed, state.bounds(situation), -np.inf)))
        shares = (np.arange(len(allowed)) == best).astype(np.float64)
        return Distribution(propensities=sampling.with_floor(shares, allowed, situation.exploration_floor))

    def distributions(self, state: Model, situations: Sequence[Situation]) -> list[Distribution]:
        """One after the other."""
        return [self.distribution(state, situation) for situation in situations]

    def dump(self, state: Model) -> bytes:
        """The sums and the columns they are over."""
        columns, cap = state.encoder.columns, state.encoder.cap
        return packing.pack(
            {"arms": state.arms, "columns": columns, "cap": cap, "square": state.square, "cross": state.cross}
        )

    def load(self, blob: bytes) -> Model:
        """The inverse of `dump`."""
        packed = packing.unpack(blob)
        encoder = Encoder(columns=tuple(packed["columns"]), cap=packed["cap"])
        return Model(arms=tuple(packed["arms"]), encoder=encoder, square=packed["square"], cross=packed["cross"])


def _lessons(model: Model, index: dict[str, int], rows: Sequence[AttemptRow]) -> list[tuple[int, Floats, float]]:
    """Arm, context and reward of each row that has them."""
    return [
        (index[row.arm], model.context(row.decision.situation.features)[0], max(-1.0, 1.0 - lost))
        for row in rows
        if row.arm in index and (lost := loss(row)) is not None
    ]
