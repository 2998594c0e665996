"""The exact window: the encoded attempts that the models are refitted on, in contiguous sessions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandit.features import Encoder
from bandit.session import AttemptRow, SessionChange

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Attempts as arrays, one row each; the rows of one session stand together, in order of attempt."""

    session_ids: tuple[str, ...] = ()
    lengths: Ints
    """Rows of each session, shape (n_sessions,)."""
    x: Floats
    """Encoded features, not yet scaled, shape (n_rows, n_columns)."""
    arm: Ints
    """Position of the arm that served among the router's arms."""
    attempt: Ints
    """Number of the attempt, from 1."""
    truth: Floats
    """Success in [0, 1], NaN where unknown."""
    signal: Ints
    """1 where the attempt raised an alarm, -1 where it ended without one, 0 where neither is known."""
    usage: Floats
    """Millions of tokens, or what stands for them (see `cost`), NaN where unknown."""
    latency: Floats
    """Seconds, NaN where unknown."""
    foretold: Floats
    """Success that the decision foretold, NaN where it foretold none or the attempt is no longer watched (`drift`)."""
    held: Floats
    """Logit of the arm's success given theta = 0 as it was before the arm changed, in place of what is believed of the
    arm now; NaN where it has not changed since."""

    @classmethod
    def empty(cls, width: int) -> "Rows":
        """No rows, of `width` columns."""
        ints = np.zeros(0, dtype=np.int64)
        return cls(
            lengths=ints,
            x=np.zeros((0, width)),
            arm=ints,
            attempt=ints,
            truth=np.zeros(0),
            signal=ints,
            usage=np.zeros(0),
            latency=np.zeros(0),
            foretold=np.zeros(0),
            held=np.zeros(0),
        )

    def __len__(self) -> int:
        return len(self.arm)

    def select(self, sessions: npt.NDArray[np.bool_]) -> "Rows":
        """The rows of the marked sessions, shape (n_sessions,)."""
        return self.filter(np.repeat(sessions, self.lengths))

    def filter(self, rows: npt.NDArray[np.bool_]) -> "Rows":
        """The marked rows, shape (n_rows,), without the sessions of which nothing remains."""
        lengths = np.bincount(np.repeat(np.arange(len(self.lengths)), self.lengths)[rows], minlength=len(self.lengths))
        return Rows(
            session_ids=tuple(s for s, n in zip(self.session_ids, lengths.tolist(), strict=True) if n),
            lengths=lengths[lengths > 0],
            x=self.x[rows],
            arm=self.arm[rows],
            attempt=self.attempt[rows],
            truth=self.truth[rows],
            signal=self.signal[rows],
            usage=self.usage[rows],
            latency=self.latency[rows],
            foretold=self.foretold[rows],
            held=self.held[rows],
        )

    def update(
        self,
        changes: Sequence[SessionChange],
        encoder: Encoder,
        arm_index: Mapping[str, int],
        usage_of: Callable[[AttemptRow], float],
    ) -> "Rows":
        """The window with the changed sessions' rows replaced; they move to its end. `encoder` may have grown."""
        changed = {change.session_id for change in changes}
        staying = np.array([s not in changed for s in self.session_ids], dtype=bool)
        kept, was = self.select(staying), self.select(~staying)._watched()
        told = [(c.session_id, rows) for c in changes if (rows := [r for r in c.after if r.arm in arm_index])]
        news = [row for _, rows in told for row in rows]
        if not news:
            return kept.widened(encoder)
        x = np.array([encoder.encode(row.decision.situation.features)[0] for row in news])
        watched = [was.get((s, row.decision.attempt), (_foretold(row), np.nan)) for s, rows in told for row in rows]
        return Rows(
            session_ids=kept.session_ids + tuple(s for s, _ in told),
            lengths=np.concatenate([kept.lengths, [len(rows) for _, rows in told]]),
            x=np.vstack([encoder.pad(kept.x), x]),
            arm=np.concatenate([kept.arm, [arm_index[row.arm] for row in news]]),
            attempt=np.concatenate([kept.attempt, [row.decision.attempt for row in news]]),
            truth=np.concatenate([kept.truth, [_or_nan(row.success) for row in news]]),
            signal=np.concatenate([kept.signal, [_signal(row) for row in news]]),
            usage=np.concatenate([kept.usage, [usage_of(row) for row in news]]),
            latency=np.concatenate([kept.latency, [_or_nan(row.latency_seconds) for row in news]]),
            foretold=np.concatenate([kept.foretold, [foretold for foretold, _ in watched]]),
            held=np.concatenate([kept.held, [held for _, held in watched]]),
        )

    def _watched(self) -> dict[tuple[str, int], tuple[float, float]]:
        """What is foretold and held of each attempt, by session and number."""
        sessions = np.repeat(np.array(self.session_ids, dtype=object), self.lengths).tolist()
        keys = zip(sessions, self.attempt.tolist(), strict=True)
        return dict(zip(keys, zip(self.foretold.tolist(), self.held.tolist(), strict=True), strict=True))

    def widened(self, encoder: Encoder) -> "Rows":
        """The same rows under an encoder that may have grown."""
        if self.x.shape[1] == len(encoder.columns):
            return self
        return Rows(**{**vars(self), "x": encoder.pad(self.x)})


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _foretold(row: AttemptRow) -> float:
    """The success that its decision foretold of the arm that served."""
    return next((_or_nan(score.success_mean) for score in row.decision.scores if score.arm == row.arm), np.nan)


def _signal(row: AttemptRow) -> int:
    if row.alarm:
        return 1
    if row.quiet or row.success is not None:
        return -1
    # It still runs, or was left for another reason than an alarm, which censors it.
    return 0
