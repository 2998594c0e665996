"""What a policy is, and the registry of policies by specification."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidInput
from bandit.session import SessionChange
from bandit.types import Arm, Bar, Situation

Floats = npt.NDArray[np.float64]
Reals = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Beliefs:
    """What a policy believes of each offered arm; every array has shape (n_offers,)."""

    success_mean: Reals
    success_low: Reals
    """5 % quantile."""
    success_high: Reals
    """95 % quantile."""
    cost_usd: Reals
    """Expected dollars of the attempt."""


def no_plan(_arm: int) -> tuple[str, ...]:
    """The plan of a policy that never escalates."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A policy's answer: how likely it takes each offered arm, and what it believed."""

    propensities: Floats
    """Shape (n_offers,), 0 on barred offers, sum 1."""
    beliefs: Beliefs | None = None
    stop_propensity: float = 0.0
    """Probability of giving up instead; other than 0 only where `situation.may_stop`."""
    worth_usd: float | None = None
    """What is expected of going on, giving up where that is better: dollars of success less dollars spent. None where
    the policy does not reckon with it; told only where `situation.may_stop`."""
    plan: Callable[[int], tuple[str, ...]] = no_plan
    """Index of the arm taken -> where the session would go from there, in order."""
    bars: tuple[Bar | None, ...] | None = None
    """Offers the policy itself had to rule out (by expected cost); None where it ruled out none."""


S = TypeVar("S")


class Policy(Protocol[S]):
    """A rule for choosing arms. It holds no learned state: states are immutable values passed in and out."""

    spec: str
    """The specification it was made from, e.g. ``always:GPT-5.5``."""
    climbs: bool
    """Whether an alarm (VERIFIED_FAILURE, STRUGGLING) leads to another attempt; otherwise it exhausts the session."""

    def start(self, arms: Sequence[Arm]) -> S:
        """The state before any outcome. Raises InvalidInput where the policy names an arm that is not there."""
        ...

    def fold(self, state: S, arms: Sequence[Arm], changes: Sequence[SessionChange]) -> S:
        """The state after a block of outcomes; `arms` may have grown or changed since. `state` is left as it was."""
        ...

    def distribution(self, state: S, situation: Situation) -> Distribution:
        """The distribution over `situation.offers`, of which at least one is eligible. A pure function."""
        ...

    def distributions(self, state: S, situations: Sequence[Situation]) -> list[Distribution]:
        """For each situation what `distribution` gives, to the last bit, in less time."""
        ...

    def dump(self, state: S) -> bytes:
        """The state as bytes: equal states give equal bytes."""
        ...

    def load(self, blob: bytes) -> S:
        """The inverse of `dump`."""
        ...


AnyPolicy = Policy[Any]


def parse(spec: str) -> AnyPolicy:
    """The policy a specification names: ``thompson``, ``always:ARM``, ``ladder:A>B>C``, ``vw:bag``, ….

    Raises InvalidInput naming what is wrong with it.
    """
    # Imported on demand: they import this module, and Vowpal Wabbit takes long to load.
    if spec.startswith("vw:"):
        from bandit import vw

        return vw.make(spec)
    if spec in ("thompson", "thompson-single"):
        from bandit import thompson

        return thompson.Thompson(single=spec == "thompson-single")
    if spec == "linucb":
        from bandit import linucb

        return linucb.LinUCB()
    from bandit import baselines

    policy = baselines.make(spec)
    if policy is None:
        raise InvalidInput("policy", f"no policy {spec!r}; known: {', '.join(KNOWN)}")
    return policy


KNOWN = (
    "thompson",
    "thompson-single",
    "uniform",
    "epsilon",
    "linucb",
    "threshold:TAU",
    "always:ARM",
    "ladder:A>B>C",
    "vw:squarecb",
    "vw:bag",
    "vw:regcb",
    "vw:cover",
)
"""What `parse` understands, as shown to people."""


def eligible(situation: Situation) -> npt.NDArray[np.bool_]:
    """Which offers may be taken, shape (n_offers,)."""
    return np.array([offer.bar is None for offer in situation.offers])
