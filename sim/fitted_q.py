"""The model of what actions bring, fitted on sessions that are over.

Fitted Q evaluation (Le, Voloshin and Yue 2019, Batch policy learning under constraints, ICML), by ridge regressions,
from the last step backwards.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bandit.features import Scaling
from sim.nuisances import Model, Totals
from sim.piece import Piece
from sim.world import Floats

LARGEST_WINDOW = 30_000
"""Steps that are fitted on; of longer logs, the latest."""
_SHARED_RIDGE, _OWN_RIDGE = 2.0, 10.0
"""Strength of the prior on what a feature does for all arms, and on how an arm differs: in outcomes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What a piece teaches."""

    totals: Totals
    shown: "Shown | None"
    """What regressions may be fitted on; None where the piece is too long ago."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """A piece, what the target would have done, and what came of it."""

    piece: Piece
    targets: Floats
    """Shape (n_sessions, n_steps, n_arms + 1)."""
    reward: Floats
    """As of a `View`."""


class Fitter:
    """Fits the model anew where blocks of sessions end: within one it stays as it is."""

    def __init__(self, n_arms: int, longest: int) -> None:
        self.model = Model.blank(n_arms, longest)
        self._window: deque[Shown] = deque()

    def learn(self, lessons: Sequence[Lesson]) -> None:
        """Takes in a block, its pieces in order."""
        totals = self.model.totals
        for lesson in lessons:
            totals = totals + lesson.totals
            if lesson.shown is not None:
                self._window.append(lesson.shown)
        while sum(shown.piece.action.size for shown in self._window) > LARGEST_WINDOW and len(self._window) > 1:
            self._window.popleft()
        self.model = self._fitted(replace(self.model, totals=totals))

    def _fitted(self, model: Model) -> Model:
        known = [features for shown in self._window for features in shown.piece.known]
        encoder = model.encoder.grow(known)
        scaling = Scaling.fit(encoder, np.stack([encoder.encode(features)[0] for features in known]))
        model = replace(model, encoder=encoder, scaling=scaling)
        contexts = [model.contexts(shown.piece.known) for shown in self._window]
        following = [np.zeros((len(shown.piece.action), 2)) for shown in self._window]
        weights = list(model.weights)
        for step in reversed(range(max(shown.piece.action.shape[1] for shown in self._window))):
            phis, actions, goals = [], [], []
            for shown, context, after in zip(self._window, contexts, following, strict=True):
                piece = shown.piece
                if step < piece.action.shape[1]:
                    at = (piece.action[:, step] >= 0) & (piece.action[:, step] < model.n_arms)
                    phis.append(np.hstack((context[piece.features[at, step]], piece.alarmed[at, step])))
                    actions.append(piece.action[at, step])
                    goals.append(shown.reward[at, step] + after[at])
            if sum(map(len, actions)):
                weights[step] = _ridges(
                    np.concatenate(phis), np.concatenate(actions), np.concatenate(goals), model.n_arms
                )
            model = replace(model, weights=tuple(weights))
            following = [
                np.zeros((len(shown.piece.action), 2))
                if step >= shown.piece.action.shape[1]
                else (shown.targets[:, step, :, None] * model.values_at(step, context, shown.piece)).sum(axis=1)
                for shown, context in zip(self._window, contexts, strict=True)
            ]
        return model


def _ridges(phi: Floats, action: npt.NDArray[np.int64], goal: Floats, k: int) -> Floats:
    """Coefficients of every arm, shape (width, k, 2): what the arms share, and how each differs from that.

    What the model of a step sees, `phi`, is the context, and which arms have failed.
    """
    n, width = phi.shape
    design = np.zeros((n, width + k))
    design[:, :width] = phi
    design[np.arange(n), width + action] = 1.0
    # The first column is the intercept, which is not to be shrunk to 0; the arms' are, to what they share.
    strength = np.concatenate(([1e-3], np.full(width - 1, _SHARED_RIDGE), np.full(k, 1.0)))
    shared = np.linalg.solve(design.T @ design + np.diag(strength), design.T @ goal)
    left = goal - design @ shared
    weights = np.repeat(shared[:width, None], k, axis=1)
    weights[0] += shared[width:]
    for arm in range(k):
        mine = action == arm
        if mine.any():
            x = phi[mine]
            weights[:, arm] += np.linalg.solve(x.T @ x + _OWN_RIDGE * np.eye(width), x.T @ left[mine])
    return weights
