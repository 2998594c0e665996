"""Policies to compare with: uniform, one arm always, a fixed ladder, epsilon-greedy, a threshold on success.

All but the last two learn nothing, so their state is None and its dump is empty. `always` and `ladder` are fixed rules
without an exploration floor: their propensities are 0 and 1.

Where some arm has to be taken but a fixed rule may take none of its own (they are down or forbidden, say), it takes
the first eligible offer in the router's order: deterministic, so that the comparison has no noise of its own, and
visible in the order in which the arms were put.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec
import numpy as np

from bandit import sampling
from bandit.errors import InvalidInput
from bandit.policy import AnyPolicy, Distribution, Floats, eligible
from bandit.posterior import Posterior
from bandit.session import SessionChange
from bandit.thompson import Thompson
from bandit.types import Arm, Situation

EPSILON = 0.1
"""Share of epsilon-greedy's lottery that is uniform over the eligible arms, before the router's floor is added."""


class _Fixed(ABC):
    """What policies that learn nothing have in common."""

    def start(self, arms: Sequence[Arm]) -> None:  # noqa: B027 - there is nothing to do
        """There is nothing to know."""

    def fold(  # noqa: B027 - there is nothing to do
        self, state: None, arms: Sequence[Arm], changes: Sequence[SessionChange]
    ) -> None:
        """Nothing is learned."""

    @abstractmethod
    def distribution(self, state: None, situation: Situation) -> Distribution:
        """The rule itself."""

    def distributions(self, state: None, situations: Sequence[Situation]) -> list[Distribution]:
        """One after the other."""
        return [self.distribution(state, situation) for situation in situations]

    def dump(self, state: None) -> bytes:
        """No bytes at all."""
        return b""

    def load(self, blob: bytes) -> None:
        """The inverse of `dump`. Raises ValueError where there are bytes: they are another policy's."""
        if blob:
            raise ValueError(f"a policy without state cannot load {len(blob)} bytes")


class Uniform(_Fixed):
    """Every attempt is uniform over the eligible arms, and every alarm leads to another attempt while one is left."""

    spec = "uniform"
    climbs = True

    def distribution(self, state: None, situation: Situation) -> Distribution:
        """The same propensity for every eligible offer."""
        allowed = eligible(situation)
        return Distribution(propensities=allowed / np.count_nonzero(allowed))


class Always(_Fixed):
    """One arm with propensity 1; it never climbs. While the arm is barred: the first eligible offer."""

    climbs = False

    def __init__(self, arm: str) -> None:
        self.spec = f"always:{arm}"
        self.arm = arm

    def start(self, arms: Sequence[Arm]) -> None:
        """Raises InvalidInput where there is no such arm."""
        _require_known((self.arm,), arms)

    def distribution(self, state: None, situation: Situation) -> Distribution:
        """Propensity 1 for its arm."""
        takeable = _takeable(situation)
        arm = self.arm if self.arm in takeable else takeable[0]
        return Distribution(propensities=_certain(situation, arm))


class Ladder(_Fixed):
    """The first rung that may be taken, with propensity 1; an alarm leads to the next, and after the last it gives up.

    Arms that are no rung are used only where no rung may be taken and giving up is no answer: the first eligible offer.
    """

    climbs = True

    def __init__(self, rungs: tuple[str, ...]) -> None:
        self.spec = f"ladder:{'>'.join(rungs)}"
        self.rungs = rungs

    def start(self, arms: Sequence[Arm]) -> None:
        """Raises InvalidInput where a rung is no arm."""
        _require_known(self.rungs, arms)

    def distribution(self, state: None, situation: Situation) -> Distribution:
        """Propensity 1 for the first rung left; the rungs after it, as far as attempts are left, are the plan."""
        takeable = _takeable(situation)
        rungs = [rung for rung in self.rungs if rung in takeable]
        plan = tuple(rungs[1 : situation.attempts_left])
        return Distribution(
            propensities=_certain(situation, rungs[0] if rungs else takeable[0]),
            stop_propensity=float(situation.may_stop and not rungs),
            plan=lambda _arm: plan,
        )


class Epsilon(Thompson):
    """The arm of largest posterior mean utility, value x success - cost, but for a share that explores uniformly.

    It learns what Thompson sampling learns; only the exploration differs. It never climbs.
    """

    def __init__(self) -> None:
        super().__init__(single=True)
        self.spec = "epsilon"

    def distributions(self, state: Posterior, situations: Sequence[Situation]) -> list[Distribution]:
        """Thompson sampling whose every draw is the posterior mean, with epsilon on top of the router's floor."""
        return super().distributions(state, [_greedy(situation) for situation in situations])


def _greedy(situation: Situation) -> Situation:
    floor = 1.0 - (1.0 - EPSILON) * (1.0 - situation.exploration_floor)
    return msgspec.structs.replace(situation, draws=1, alpha=0.0, exploration_floor=floor)


class Threshold(Thompson):
    """The cheapest arm whose predicted success reaches a threshold; where none does, the one of most success.

    It predicts with the posterior mean of what Thompson sampling learns, given the session's alarms, and takes what
    attempts are expected to cost today. An alarm leads to the next arm, chosen in the same way among those left, while
    there is one. Unlike a quality floor it draws nothing and asks for no success's value: only the router's floor
    explores, and no arm is too dear.
    """

    def __init__(self, threshold: str) -> None:
        """Raises InvalidInput where that is no probability."""
        super().__init__()
        self.spec = f"threshold:{threshold}"
        try:
            self.threshold = float(threshold)
        except ValueError:
            self.threshold = math.nan
        if not 0.0 <= self.threshold <= 1.0:
            raise InvalidInput("policy", f"{self.spec!r} has no threshold in [0, 1]; write threshold:0.7")

    def distributions(self, state: Posterior, situations: Sequence[Situation]) -> list[Distribution]:
        """The arm of the rule, mixed with the floor."""
        at_mean = [msgspec.structs.replace(situation, draws=1, alpha=0.0) for situation in situations]
        answers = super().distributions(state, at_mean)
        return [self._choose(situation, answer) for situation, answer in zip(situations, answers, strict=True)]

    def _choose(self, situation: Situation, predicted: Distribution) -> Distribution:
        assert predicted.beliefs is not None and predicted.bars is not None, "it is Thompson sampling's"
        success, cost = predicted.beliefs.success_mean.tolist(), predicted.beliefs.cost_usd.tolist()
        open_arms = np.array([bar is None for bar in predicted.bars])
        in_order = sorted(
            np.flatnonzero(open_arms).tolist(),
            key=lambda k: (0, cost[k]) if success[k] >= self.threshold else (1, -success[k]),
        )
        shares = (np.arange(len(open_arms)) == in_order[0]).astype(np.float64)

        def plan(taken: int) -> tuple[str, ...]:
            others = [situation.offers[k].arm for k in in_order if k != taken]
            return tuple(others[: situation.attempts_left - 1])

        return Distribution(
            propensities=sampling.with_floor(shares, open_arms, situation.exploration_floor),
            beliefs=predicted.beliefs,
            plan=plan,
            bars=predicted.bars,
        )


def make(spec: str) -> AnyPolicy | None:
    """The baseline that a specification names, None where it names none.

    Raises InvalidInput where it is malformed. Whether its arms exist is seen only at `start`.
    """
    name, colon, rest = spec.partition(":")
    match name:
        case "uniform" if not colon:
            return Uniform()
        case "epsilon" if not colon:
            return Epsilon()
        case "threshold":
            return Threshold(rest)
        case "always":
            if not rest:
                raise InvalidInput("policy", f"{spec!r} names no arm; write always:ARM")
            return Always(rest)
        case "ladder":
            rungs = tuple(rest.split(">"))
            if not all(rungs):
                raise InvalidInput("policy", f"{spec!r} has an empty rung; write ladder:A>B>C")
            if len(set(rungs)) < len(rungs):
                raise InvalidInput("policy", f"{spec!r} names an arm twice; a session never returns to an arm")
            return Ladder(rungs)
    return None


def _require_known(names: Sequence[str], arms: Sequence[Arm]) -> None:
    known = [arm.id for arm in arms]
    for name in names:
        if name not in known:
            raise InvalidInput("policy", f"no arm {name!r}; known: {', '.join(known) or 'none'}")


def _takeable(situation: Situation) -> list[str]:
    """The eligible arms in the router's order, at least one."""
    return [offer.arm for offer in situation.offers if offer.bar is None]


def _certain(situation: Situation, arm: str) -> Floats:
    return np.array([float(offer.arm == arm) for offer in situation.offers])
