"""Whether a log can tell how a policy would have done: counts of its sessions, and tests of its lotteries."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from bandit import estimators
from bandit.estimators import Trajectories
from sim.nuisances import View
from sim.piece import Bools, Piece
from sim.world import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A piece as a policy sees it: what it would have done, what the model says of that, and what came of it."""

    targets: Floats
    view: View
    trajectories: Trajectories
    weight: float
    """Of each session among the others, h."""


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a log is worth for a candidate."""

    sessions: int
    decisions: int
    effective_sample_size: float
    """Kish's, of the sessions' weights."""
    mean_weight: float
    """Expected to be 1 where the log supports all that the candidate does."""
    mean_weight_z: float
    """By how many standard errors it is not."""
    imbalance_z: float
    """By how many standard errors weights go with what was foretold of sessions, success or dollars, whichever does
    more: 0 but for chance where propensities are true in every context, and not on average only."""
    max_weight: float
    min_propensity: float
    """The least propensity of an action that was taken."""
    unsupported_decisions: int
    """Decisions at which the candidate might take what the log never would have."""
    missing_rewards: int
    """Sessions whose success was never told."""
    missing_costs: int
    """Attempts whose dollars were never told."""
    lottery_p: float
    """Chance of arms so different from their propensities, by chi-square; tiny: the propensities are not true."""


class Tally:
    """Counts that tell what the log is worth."""

    def __init__(self, n_actions: int) -> None:
        self._sessions = self._decisions = self._unsupported = self._missing = self._missing_costs = 0
        self._weight = self._square = self._largest = self._foretold = 0.0
        self._least = 1.0
        self._joint = np.zeros((3, 3, 2))
        """Sums of weight ** a * foretold ** b, of success and of dollars."""
        self._chance = np.zeros((3, 2))
        """Sums of the weight's foretold variance * foretold ** b."""
        self._gap = np.zeros(n_actions)
        self._covariance = np.zeros((n_actions, n_actions))

    def merge(self, other: "Tally") -> None:
        """Takes in what another one counted of other sessions."""
        for name, theirs in vars(other).items():
            mine = getattr(self, name)
            both = max(mine, theirs) if name == "_largest" else min(mine, theirs) if name == "_least" else mine + theirs
            setattr(self, name, both)

    def add(self, piece: Piece, seen: Seen, free: Bools) -> None:
        """Takes in a piece; `free` are the sessions that count."""
        there = piece.there & free[:, None]
        drawn = there & ~piece.pinned
        p = piece.propensities
        final = seen.trajectories.mass[free, -1]
        self._sessions += int(free.sum())
        self._decisions += int((there & (piece.action < piece.open_arms.shape[2])).sum())
        # Where the target would never have come, it need not be supported.
        unsupported = ((seen.targets > 1e-12) & (p <= 0.0))[:, :, :-1].any(axis=2)
        self._unsupported += int((unsupported & drawn & (seen.trajectories.reached > 0.0)).sum())
        self._missing += int(np.isnan(piece.success[free]).sum())
        self._missing_costs += int((np.isnan(piece.cost_usd) & there).sum())
        square = _foretold_square(piece, seen)[free]
        self._foretold += square.sum()
        foretold = estimators.direct(seen.trajectories)[free] ** np.arange(3)[:, None, None]
        self._joint += np.einsum("an,bnm->abm", final ** np.arange(3)[:, None], foretold)
        self._chance += np.einsum("n,bnm->bm", square, foretold)
        self._weight += float(final.sum())
        self._square += float(np.square(final).sum())
        self._largest = max(self._largest, float(final.max(initial=0.0)))
        self._least = min(self._least, float(piece.of_action(p).min(initial=1.0, where=drawn)))
        self._compare(piece, drawn)

    def _compare(self, piece: Piece, drawn: Bools) -> None:
        """Actions against their propensities, as two lotteries: whether to give up, and where not, which arm."""
        giving_up = piece.propensities.shape[2] - 1
        gave_up = piece.action == giving_up
        might = drawn & piece.may_stop
        stop = piece.propensities[:, :, giving_up][might]
        self._gap[giving_up] += float((might & gave_up).sum() - stop.sum())
        self._covariance[giving_up, giving_up] += float((stop * (1.0 - stop)).sum())
        went_on = drawn & ~gave_up
        for step in range(piece.action.shape[1]):
            at = went_on[:, step]
            arms = piece.propensities[:, step, :giving_up]
            arms = arms / np.where(at, arms.sum(axis=1), np.inf)[:, None]
            self._gap[:giving_up] += np.bincount(piece.action[at, step], minlength=giving_up) - arms.sum(axis=0)
            self._covariance[:giving_up, :giving_up] += np.diag(arms.sum(axis=0)) - arms.T @ arms

    def trust(self) -> Trust:
        """All of it."""
        n = max(1, self._sessions)
        mean = self._weight / n
        # Weights that come seldom are not in the log until they come: their variance is also foretold.
        variance = max(self._square / n - mean**2, self._foretold / n) / n
        return Trust(
            sessions=self._sessions,
            decisions=self._decisions,
            effective_sample_size=self._weight**2 / self._square if self._square > 0.0 else 0.0,
            mean_weight=mean,
            mean_weight_z=(mean - 1.0) / math.sqrt(variance) if variance > 0.0 else 0.0,
            imbalance_z=self._imbalance_z(n, mean),
            max_weight=self._largest,
            min_propensity=self._least,
            unsupported_decisions=self._unsupported,
            missing_rewards=self._missing,
            missing_costs=self._missing_costs,
            lottery_p=self._lottery_p(),
        )

    def _imbalance_z(self, n: int, mean: float) -> float:
        """The greater of |covariance of weight and foretold| over its error, which is learned from the products about
        the means, and foretold as in `trust`."""
        sums, about = self._joint / n, np.array([1.0, -mean])
        centre = sums[0, 1]

        def squared(moments: Floats) -> Floats:
            # Of what was foretold, about its mean.
            return np.asarray(moments[2] - 2.0 * centre * moments[1] + centre**2 * moments[0])

        found = squared(sums[2]) - 2.0 * mean * squared(sums[1]) + mean**2 * squared(sums[0])
        covariance = np.tensordot(about, sums[[1, 0], 1], axes=1)
        variance = np.maximum(found - covariance**2, squared(self._chance / n)) / n
        # What is foretold alike of all goes with nothing, but for rounding.
        real = (squared(sums[0]) > 1e-12 * sums[0, 2]) & (variance > 0.0)
        return float((np.abs(covariance[real]) / np.sqrt(variance[real])).max(initial=0.0))

    def _lottery_p(self) -> float:
        """Chi-square of how often each action was taken against its propensities: d' C^+ d, with C the covariance of
        counts d of independent lotteries."""
        values, vectors = np.linalg.eigh(self._covariance)
        real = values > 1e-9 * max(float(values.max(initial=0.0)), 1e-9)
        if not real.any():
            return 1.0
        statistic = float((np.square(vectors[:, real].T @ self._gap) / values[real]).sum())
        return float(special.chdtrc(int(real.sum()), statistic))


def _foretold_square(piece: Piece, seen: Seen) -> Floats:
    """The variance of a session's weight given what was known before each of its lotteries, shape (n_sessions,)."""
    square = seen.view.leverage[..., 0].sum(axis=2)
    mean = (seen.targets * (piece.propensities > 0.0)).sum(axis=2)
    return np.asarray((seen.trajectories.reached**2 * np.where(piece.there, square - mean**2, 0.0)).sum(axis=1))
