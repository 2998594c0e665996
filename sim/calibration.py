"""Whether what a policy foretold of attempts came true, on attempts that nothing had been learned from yet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from sim.result import Calibration, Foretold
from sim.runner import Run
from sim.world import Floats


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Attempts of which about the same chance of success was foretold."""

    attempts: int
    foretold: float
    """Mean foretold chance."""
    success: float
    """Share that was good."""
    stderr: float | None
    """Of the share; None where all were on one task."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pooled:
    """The attempts of all seeds; arrays have shape (n_attempts,)."""

    task: npt.NDArray[np.int64]
    arm: npt.NDArray[np.int32]
    foretold_success: Floats
    foretold_usd: Floats
    success: Floats
    cost_usd: Floats

    def where(self, chosen: npt.NDArray[np.bool_]) -> "_Pooled":
        return _Pooled(**{name: array[chosen] for name, array in vars(self).items()})


def measure(runs: Sequence[Run], arms: Sequence[str]) -> Calibration | None:
    """Over all seeds of a policy; `arms` are the names of `every_arm`. None where the policy foretells nothing."""
    attempts = _pool(runs)
    attempts = attempts.where(~(np.isnan(attempts.foretold_success) & np.isnan(attempts.foretold_usd)))
    if not len(attempts.task):
        return None
    of_arms = {arms[arm]: _figures(attempts.where(attempts.arm == arm)) for arm in np.unique(attempts.arm).tolist()}
    return Calibration(arms=of_arms, **msgspec.structs.asdict(_figures(attempts)))


def reliability(runs: Sequence[Run], *, bins: int = 10) -> tuple[Bin, ...]:
    """Foretold against real success, in up to `bins` groups of about equally many attempts, by what was foretold.

    Equal forecasts are in one group. Empty where the policy foretells no success.
    """
    attempts = _pool(runs)
    attempts = attempts.where(~np.isnan(attempts.foretold_success))
    if not len(attempts.task):
        return ()
    edges = np.unique(np.quantile(attempts.foretold_success, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    group = np.searchsorted(edges, attempts.foretold_success, side="left")
    found = []
    for number in np.unique(group):
        inside = attempts.where(group == number)
        share, stderr = _ratio(inside.success, np.ones(len(inside.task)), inside.task)
        assert share is not None, "a group has attempts"
        mean = float(inside.foretold_success.mean())
        found.append(Bin(attempts=len(inside.task), foretold=mean, success=share, stderr=stderr))
    return tuple(found)


def _pool(runs: Sequence[Run]) -> _Pooled:
    return _Pooled(
        task=np.concatenate([run.task[run.tried.session] for run in runs]),
        **{
            name: np.concatenate([getattr(run.tried, name) for run in runs])
            for name in ("arm", "foretold_success", "foretold_usd", "success", "cost_usd")
        },
    )


def _figures(attempts: _Pooled) -> Foretold:
    of_success = attempts.where(~np.isnan(attempts.foretold_success))
    of_cost = attempts.where(~np.isnan(attempts.foretold_usd))
    off = of_success.foretold_success - of_success.success
    bias, bias_stderr = _ratio(off, np.ones(len(off)), of_success.task)
    ratio, ratio_stderr = _ratio(of_cost.cost_usd, of_cost.foretold_usd, of_cost.task)
    return Foretold(
        attempts=len(attempts.task),
        brier=float((off**2).mean()) if len(off) else None,
        bias=bias,
        bias_stderr=bias_stderr,
        cost_ratio=ratio,
        cost_ratio_stderr=ratio_stderr,
    )


def _ratio(above: Floats, below: Floats, task: npt.NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Sum over sum, and its standard error, tasks being what is drawn; None where it does not exist.

    The ratio estimator for clusters: r = Σ a / Σ b, its variance m / (m - 1) Σ_tasks (a_task - r b_task)² / (Σ b)²
    (Cochran, Sampling Techniques, 3rd ed., section 2.11 with clusters as units).
    """
    whole = float(below.sum())
    if whole <= 0.0:
        return None, None
    ratio = float(above.sum()) / whole
    of_task = np.bincount(np.unique(task, return_inverse=True)[1], above - ratio * below)
    if len(of_task) < 2:
        return ratio, None
    return ratio, math.sqrt(len(of_task) / (len(of_task) - 1) * float((of_task**2).sum())) / whole
