"""How sessions move: the arm they begin on, where an alarm takes them, and how they end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.runner import Run

_LONGEST = 4
"""Attempts that are told apart; what comes after the last of them is part of how a session ends."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Flows:
    """Sessions of all seeds between one attempt and the next.

    A session is at each attempt on an arm, or has ended before it. States are the arms in their order, then ended as a
    success, and ended as a failure; at last every session has ended.
    """

    moves: npt.NDArray[np.int64]
    """Sessions by attempt, state there, and state at the next, shape (n_attempts, n_arms + 2, n_arms + 2)."""

    @property
    def sessions(self) -> int:
        """Of all seeds."""
        return int(self.moves[0].sum())

    def at(self, attempt: int) -> npt.NDArray[np.int64]:
        """Sessions in each state, shape (n_arms + 2,): at attempt 0, 1, …, and after the last."""
        return np.asarray(self.moves[attempt].sum(axis=1) if attempt < len(self.moves) else self.moves[-1].sum(axis=0))

    def joined(self, lane: Sequence[int], n_lanes: int) -> "Flows":
        """With arms taken together: `lane` has for each arm a number from 0 to `n_lanes` - 1."""
        into = np.eye(n_lanes + 2, dtype=np.int64)[[*lane, n_lanes, n_lanes + 1]]
        return Flows(moves=into.T @ self.moves @ into)


def follow(runs: Sequence[Run], n_arms: int) -> Flows:
    """The sessions of all seeds of a policy."""
    longest = min(_LONGEST, max(int(run.attempts.max()) for run in runs))
    moves = np.zeros((longest, n_arms + 2, n_arms + 2), np.int64)
    for run in runs:
        ended = np.where(run.success > 0.0, n_arms, n_arms + 1)
        state = np.repeat(ended[:, None], longest + 1, axis=1)
        seen = run.tried.number <= longest
        state[run.tried.session[seen], run.tried.number[seen] - 1] = run.tried.arm[seen]
        for attempt in range(longest):
            np.add.at(moves[attempt], (state[:, attempt], state[:, attempt + 1]), 1)
    return Flows(moves=moves)
