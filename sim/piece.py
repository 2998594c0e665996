"""Logged sessions as arrays: what estimates off-policy are made from."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bandit.types import Features
from sim.world import Floats

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Sessions that began one after the other. A step is a decision: to begin an attempt, or to give up.

    Arrays have shape (n_sessions, n_steps, …); after a session's last step they are padded: `action` is -1 there.
    Actions are the positions of arms in the log's `arms`, and one more, the last, which is giving up.
    Sessions lie side by side in memory (Fortran's order): what goes over few steps or arms is done for all at once.
    """

    numbers: Ints
    """The sessions' numbers in the log, from 0, ascending, (n_sessions,)."""
    action: Ints
    """What was done."""
    propensities: Floats
    """The probability of each action at the step, (…, n_arms + 1), sum 1; what was done had more than 0. Where a
    session was given up, the log does not tell the arms' apart: what is left stands evenly on those open."""
    open_arms: Bools
    """Arms that might have been taken, whatever their propensity, (…, n_arms)."""
    alarms: Ints
    """Alarms raised in the session before the step."""
    may_stop: Bools
    """Whether giving up is an answer: the attempt before was left with an alarm."""
    pinned: Bools
    """Whether the user had said which arm."""
    alarmed: Bools
    """Arms whose attempts in the session were left with an alarm before the step, (…, n_arms)."""
    features: Ints
    """Which of `known` the session has at the step."""
    known: tuple[Features, ...]
    """What sessions are known by, each once."""
    cost_usd: Floats
    """Dollars of the step, 0 for giving up; NaN where they were not told."""
    success: Floats
    """Success of the session, (n_sessions,); NaN where it was not told."""

    @property
    def there(self) -> Bools:
        """Where there is a step, (n_sessions, n_steps)."""
        return self.action >= 0

    @property
    def last(self) -> Ints:
        """Each session's last step, (n_sessions,)."""
        return np.asarray(self.there.sum(axis=1) - 1)

    def of_action(self, values: Floats) -> Floats:
        """From values of every action, (n_sessions, n_steps, n_arms + 1, …), those of what was done, without that
        axis; after a session's last step, any."""
        n, steps = self.action.shape
        found = values[np.arange(n)[:, None], np.arange(steps), self.action]
        return np.asarray(found, order="F")

    def parts(self) -> list["Part"]:
        """The sessions by their number of steps, so that most need not be padded to the longest's."""
        if len(self.action) < _WORTH_PARTING:
            return [Part(rows=np.arange(len(self.action)), piece=self)]
        last = self.last
        found = []
        for at in np.unique(last).tolist():
            rows = np.flatnonzero(last == at)
            taken = {name: taken_of(values, rows, at + 1) for name, values in vars(self).items() if name != "known"}
            found.append(Part(rows=rows, piece=Piece(known=self.known, **taken)))
        return found


_WORTH_PARTING = 2_000
"""Sessions of a piece below which its parts would cost more than padding does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some sessions of a piece."""

    rows: Ints
    """Where they are in the piece, (n_sessions,)."""
    piece: Piece

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of an array of the piece, (n_all_sessions, n_all_steps, …), what is theirs."""
        return taken_of(values, self.rows, self.piece.action.shape[1])


def taken_of(values: npt.NDArray[Any], rows: Ints, steps: int) -> npt.NDArray[Any]:
    """Some sessions' first steps, of an array (n_sessions, n_steps, …), or just these sessions of one (n_sessions,)."""
    turned = values.T if values.ndim == 1 else values.T[..., :steps, :]
    return np.take(turned, rows, axis=-1).T


class Logged(Protocol):
    """Sessions that were logged, in the order in which they began."""

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that were ever offered."""
        ...

    @property
    def sessions(self) -> int:
        """How many there are."""
        ...

    @property
    def longest(self) -> int:
        """The most steps of a session."""
        ...

    @property
    def largest_piece(self) -> int:
        """Sessions that are read together at most."""
        ...

    def piece(self, first: int, end: int) -> Piece:
        """The sessions from number `first` up to before `end`."""
        ...
