"""What a policy's sessions come to as they go on: sums so far, and which arms they begin on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.runner import Run
from sim.world import Floats

_POINTS = 300
_WINDOWS = 40
_BEGUN = 100
"""Sessions that a window should have, those of all seeds together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A sum so far, mean over seeds; arrays have shape (n_points,)."""

    sessions: Floats
    """How many sessions have ended, from 1."""
    mean: Floats
    stderr: Floats | None
    """Between seeds; None with one seed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """Which arms sessions begin on, by windows of sessions."""

    edges: Floats
    """Where windows begin and end, in sessions, shape (n_windows + 1,)."""
    of_arm: Floats
    """Share of a window's sessions, all seeds together, shape (n_windows, n_arms); rows sum to 1."""


def cumulative(gains: Sequence[Floats]) -> Curve:
    """Sums so far of each session's dollars; `gains` has for each seed an array of shape (n_sessions,)."""
    n_sessions = len(gains[0])
    at = np.unique(np.rint(np.linspace(0, n_sessions - 1, min(n_sessions, _POINTS))).astype(np.int64))
    sums = np.stack([np.cumsum(gain)[at] for gain in gains])
    stderr = sums.std(axis=0, ddof=1) / np.sqrt(len(sums)) if len(sums) > 1 else None
    return Curve(sessions=(at + 1).astype(np.float64), mean=sums.mean(axis=0), stderr=stderr)


def first_choices(runs: Sequence[Run], n_arms: int) -> Shares:
    """The arms of first attempts over all seeds of a policy."""
    n_sessions = len(runs[0].task)
    windows = max(1, min(_WINDOWS, n_sessions, n_sessions * len(runs) // _BEGUN))
    edges = np.rint(np.linspace(0, n_sessions, windows + 1))
    counts = np.zeros((windows, n_arms))
    for run in runs:
        first = run.tried.number == 1
        window = np.searchsorted(edges, run.tried.session[first], side="right") - 1
        np.add.at(counts, (window, run.tried.arm[first]), 1.0)
    return Shares(edges=edges, of_arm=counts / counts.sum(axis=1, keepdims=True))


def used(runs: Sequence[Run], n_arms: int) -> npt.NDArray[np.int64]:
    """Attempts of each arm over all seeds of a policy, shape (n_arms,)."""
    return np.asarray(sum(np.bincount(run.tried.arm, minlength=n_arms) for run in runs))
