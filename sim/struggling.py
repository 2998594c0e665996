"""The world `struggling`: running attempts show how they go, and failing ones go on for longer unless they are left.

Tasks, arms and chances are those of ``correlated``. An attempt makes its tool calls in spells of eight and is
reported on after each but the last, which ends it. Whether it will be good is settled from the start:

    spells              1 + Poisson(3) of a good attempt, 1 + Poisson(7) of a failing one; each costs the same
    errors              Binomial(8, .12), of one attempt in four, whose tools are flaky, Binomial(8, .3)
    repetitions         Binomial(8 - errors, .04)
    a failing attempt   is stuck from some spell on, with chance .3 each: errors Binomial(8, .35), or .3 and .35 where
                        tools are flaky added up, repetitions Binomial(8 - errors, .3)

What an attempt costs in ``correlated`` is what a good one is expected to cost here.
"""

from dataclasses import dataclass

import numpy as np

from bandit.types import Outcome, Signals, Usage
from sim.world import Floats, Table

CALLS = 8
"""Tool calls of a spell."""

MEAN_SPELLS = (8.0, 4.0)
"""Of a failing and of a good attempt."""
FLAKY = 0.25
ERRORS = np.array([[0.12, 0.30], [0.35, 0.55]])
"""Chance that a call fails: not stuck and stuck, by sound and flaky tools."""
REPEATS = np.array([0.04, 0.30])
"""Chance that a call that does not fail is a repetition: not stuck, stuck."""
GETS_STUCK = 0.3
_CALLS_OF_A_TURN = 2


@dataclass(frozen=True, kw_only=True)
class Course:
    """How an attempt goes, and ends."""

    reports: tuple[Signals, ...]
    """What it reports, in order."""
    outcome: Outcome


@dataclass(frozen=True, kw_only=True, eq=False)
class Struggling(Table):
    """`cost_usd` and `usage` are what is expected of an attempt whose success is not known."""

    per_spell: Floats
    """Input, output and cached tokens, shape (n_tasks, n_arms, 3)."""

    def course(self, task: int, arm: int, rng: np.random.Generator, *, good: bool) -> Course:
        """How an attempt of the arm on the task goes, given how it ends."""
        spells = 1 + int(rng.poisson(MEAN_SPELLS[good] - 1.0))
        flaky = int(rng.random() < FLAKY)
        stuck_from = spells if good else int(rng.geometric(GETS_STUCK)) - 1
        stuck = (np.arange(spells) >= stuck_from).astype(int)
        errors = rng.binomial(CALLS, ERRORS[stuck, flaky])
        repeats = rng.binomial(CALLS - errors, REPEATS[stuck])
        told = [
            Signals(
                turns=CALLS * n // _CALLS_OF_A_TURN,
                tool_calls=CALLS * n,
                tool_errors=int(errors[:n].sum()),
                repeated_calls=int(repeats[:n].sum()),
                usage=(usage := self._usage(task, arm, n)),
                cost_usd=self._price(arm, usage),
            )
            for n in range(1, spells + 1)
        ]
        end = Outcome(success=float(good), cost_usd=told[-1].cost_usd, usage=told[-1].usage)
        return Course(reports=tuple(told[:-1]), outcome=end)

    def _usage(self, task: int, arm: int, spells: int) -> Usage:
        into, out, cached = (spells * self.per_spell[task, arm]).tolist()
        return Usage(input_tokens=into, output_tokens=out, cached_tokens=cached)

    def _price(self, arm: int, usage: Usage) -> float:
        price = self.arms[arm].price
        assert price is not None, "every arm of a synthetic world has one"
        return price.dollars(usage)


def running(table: Table) -> Struggling:
    """The world whose table of expectations is this one, as `synthetic` makes it."""
    assert table.usage is not None, "every synthetic world tells it"
    failing, good = MEAN_SPELLS
    spells = good * table.success + failing * (1.0 - table.success)
    return Struggling(**vars(table), per_spell=table.usage / spells[:, :, None])
