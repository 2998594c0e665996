"""What `thompson` makes of worlds that change, and of one that does not. Longer samples: RESULTS.md, Drift."""

import msgspec
import numpy as np
import pytest

from bandit import drift
from bandit.events import Decided, Event
from bandit.types import Decision
from sim import runner, synthetic
from sim.world import Terms
from tests.regret import regret

TERMS = Terms()


def first_decisions(name: str, policy: str, seed: int, sessions: int) -> list[Decision]:
    """The first decision of each session."""
    made: list[Decision] = []

    def listen(seq: int, at_us: int, event: Event, session_id: str) -> None:
        if isinstance(event, Decided) and event.decision.attempt == 1:
            made.append(event.decision)

    runner.run(synthetic.make(name), TERMS, policy, seed, sessions, log=listen)
    return made


@pytest.mark.long
def test_regret_is_far_below_the_best_arms_and_grows_slowly() -> None:
    """4,000 sessions without a floor, whose share of regret is linear: the best arm alone loses 0.82 a session.

    Measured with this seed: 0.03 of the best arm's, exponent 0.37 between 1,000 and 4,000. A run is a function of its
    seed, so that with the same code there is no failure by chance; how often another seed fails was not measured.
    """
    world, best = synthetic.make("correlated"), synthetic.optimum("correlated", TERMS)
    settings = msgspec.structs.replace(runner.plain("thompson", TERMS), exploration_floor=0.0)
    lost = np.cumsum(regret(world, TERMS, runner.run(world, TERMS, settings, 0, 4000), 0))
    of_best_arm = 4000 * (best.best_policy - best.best_single[1])
    assert lost[-1] <= 0.4 * of_best_arm
    assert np.log(lost[-1] / lost[999]) / np.log(4.0) <= 0.6


@pytest.mark.long
def test_a_fall_costs_less_where_it_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regret over the 600 sessions after the best ladder's first arm fell, with and without watching for it.

    Over 6 seeds and the first 500 sessions the ratio of the two was 0.42 to 0.69, mean 0.53, standard deviation 0.10:
    of other seeds one in 25 would miss the bound. Over 2,000 sessions it was 0.38 for the six together.
    """
    world, lost = synthetic.make("degrading"), []
    at = world.changes[0].at
    for threshold in (drift.THRESHOLD, np.inf):
        monkeypatch.setattr(drift, "THRESHOLD", threshold)
        run = runner.run(world, TERMS, "thompson", 2, at + 600)
        lost.append(float(regret(world, TERMS, run, 2)[at:].sum()))
    assert lost[0] <= 0.7 * lost[1]


def _at_the_cut(seed: int) -> tuple[float, float]:
    """The dear arm's share of the lottery over the 20 decisions before its price is cut, and at the very next one."""
    at = synthetic.make("price-cut").changes[0].at
    made = first_decisions("price-cut", "thompson-single", seed, at + 1)
    scores = [next(score for score in decision.scores if score.arm == "grand") for decision in made]
    # What is known of it is the same on both sides of the cut, but sessions differ.
    assert scores[at].cost_usd == pytest.approx(0.1 * (scores[at - 1].cost_usd or 0.0), rel=0.7)
    return float(np.mean([score.propensity for score in scores[at - 20 : at]])), scores[at].propensity


def test_a_price_cut_counts_at_the_very_next_decision() -> None:
    """At a tenth of its price the arm is expected to cost a tenth of what it would."""
    _at_the_cut(0)


@pytest.mark.long
def test_an_arm_whose_price_was_cut_is_taken_far_more_often() -> None:
    """Over 6 seeds its share was .01 to .46 at the next decision, mean .22 with standard error .07, and .07 +- .02 over
    the 20 before."""
    before, after = np.mean([_at_the_cut(seed) for seed in range(4)], axis=0)
    assert after > 2.0 * before


@pytest.mark.long
def test_a_new_arm_that_deserves_it_is_in_use_within_150_sessions() -> None:
    """It begins at least a sixth of sessions 100 to 150 after it came.

    Over 4 seeds it began 0.28 to 0.56 of these 50. Were it 0.35, fewer than 9 of 50 would come once in 200 times.
    """
    at = synthetic.make("new-arm").changes[0].at
    made = first_decisions("new-arm", "thompson", 0, at + 150)
    assert np.mean([decision.arm == "novel" for decision in made[at + 100 :]]) >= 1 / 6
