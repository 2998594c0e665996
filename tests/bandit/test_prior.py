"""The prior over all arms' weights against the dense Gaussian that it stands for."""

import numpy as np
import pytest
from scipy import stats

from bandit import cost, success
from bandit.posterior import Posterior
from bandit.prior import MANY, Spread, WeightPrior, column_spreads, kinship
from bandit.success import attenuation
from bandit.types import Arm, Figure

SPREADS = [Spread(shared=1.5, own=1.2), Spread(shared=0.4, own=0.02), Spread(shared=0.2, own=0.1)]
OWN_SCALE = np.array([1.0, 0.6, 1.0, 1.3])
KINSHIP = kinship([None, 0, None, 1], 0.7)
"""Arm 1 is the next version of arm 0, and arm 3 of arm 1."""
CORRELATIONS = ((1.0, 0.7, 0.0, 0.49), (0.7, 1.0, 0.0, 0.7), (0.0, 0.0, 1.0, 0.0), (0.49, 0.7, 0.0, 1.0))


def dense_covariance(spreads: list[Spread], own_scale: np.ndarray) -> np.ndarray:
    """The covariance of beta + gamma_k written out entry by entry, over (arm, column) flattened."""
    k, d = len(own_scale), len(spreads)
    covariance = np.zeros((k * d, k * d))
    for a in range(k):
        for b in range(k):
            for j, spread in enumerate(spreads):
                own = spread.own**2 * own_scale[a] * own_scale[b] * CORRELATIONS[a][b]
                covariance[a * d + j, b * d + j] = spread.shared**2 + own
    return covariance


@pytest.fixture
def prior() -> WeightPrior:
    mean = np.random.default_rng(1).standard_normal((len(OWN_SCALE), len(SPREADS)))
    return WeightPrior.build(mean, SPREADS, OWN_SCALE, KINSHIP)


def test_the_precision_is_the_inverse_of_shared_plus_own(prior: WeightPrior) -> None:
    full = prior.full_precision().reshape(prior.mean.size, -1)
    assert full @ dense_covariance(SPREADS, OWN_SCALE) == pytest.approx(np.eye(prior.mean.size), abs=1e-6)


def test_penalty_and_pull_are_the_log_density_and_its_gradient(prior: WeightPrior) -> None:
    density = stats.multivariate_normal(prior.mean.ravel(), dense_covariance(SPREADS, OWN_SCALE))
    w = np.random.default_rng(2).standard_normal(prior.mean.shape)
    at_mean = density.logpdf(prior.mean.ravel())
    assert prior.penalty(prior.mean) == 0.0
    assert prior.penalty(w) == pytest.approx(at_mean - density.logpdf(w.ravel()), rel=1e-6)
    full = prior.full_precision().reshape(prior.mean.size, -1)
    assert prior.pull(w).ravel() == pytest.approx(full @ (w - prior.mean).ravel(), rel=1e-9)


def test_what_one_arm_teaches_moves_the_others_by_the_shared_part() -> None:
    """Conditioning the Gaussian on one arm's weight moves another's by shared^2 / (shared^2 + own^2)."""
    prior = WeightPrior.build(np.zeros((3, 1)), [Spread(shared=2.0, own=1.0)], np.ones(3), np.eye(3))
    precision = prior.full_precision().reshape(3, 3) + np.diag([1e9, 0.0, 0.0])
    moved = np.linalg.solve(precision, np.array([1e9 * 3.0, 0.0, 0.0]))
    assert moved == pytest.approx([3.0, 3.0 * 4 / 5, 3.0 * 4 / 5], rel=1e-6)


@pytest.mark.parametrize("spreads", [success.SPREADS, cost.SPREADS])
def test_every_kind_of_column_has_a_spread(spreads: dict[str, Spread]) -> None:
    columns = ("1", "n:files", "f:ci", "c:category=bug", "t:title#0", "e:vector#3", "#5")
    kinds = ["1", "n", "f", "c", "t", "e", MANY]
    assert column_spreads(columns, spreads) == [spreads[kind] for kind in kinds]


def test_a_feature_with_many_categories_is_held_closer_and_its_neighbour_is_not() -> None:
    repos = tuple(f"c:repo=r{i}" for i in range(9))
    spreads = column_spreads(("1", *repos, "c:repository=a"), success.SPREADS)
    assert spreads[1:10] == [success.SPREADS[MANY]] * 9
    assert spreads[10] == success.SPREADS["c"]
    assert column_spreads(repos[:8], success.SPREADS) == [success.SPREADS["c"]] * 8


def test_a_figure_of_a_category_counts_from_the_first_session_on():
    told = (
        Figure(success_rate=0.5),
        Figure(category="bug", success_rate=0.9),
        Figure(category="docs", success_rate=0.2),
    )
    arms = (Arm(id="a", figures=told), Arm(id="b", figures=(Figure(success_rate=0.5),)))
    state = Posterior.start(arms)
    logit = {
        category: float(state.success.mean[0] @ state.encoder.encode({"category": category})[0])
        for category in ("bug", "docs")
    }
    grown = attenuation(state.success.sigma)
    assert logit["bug"] == pytest.approx(grown * np.log(9.0))
    assert logit["docs"] == pytest.approx(grown * np.log(0.25))


def test_a_new_version_starts_where_its_predecessor_is_and_wider() -> None:
    """Conditioning on all of the predecessor: its own part comes over by the correlation, and the rest stays open."""
    spread = Spread(shared=1e-6, own=1.2)
    prior = WeightPrior.build(np.zeros((2, 1)), [spread], np.ones(2), kinship([None, 0], 0.75))
    precision = prior.full_precision().reshape(2, 2) + np.diag([1e9, 0.0])
    covariance = np.linalg.inv(precision)
    assert covariance @ [1e9 * 2.0, 0.0] == pytest.approx([2.0, 0.75 * 2.0], rel=1e-5)
    assert np.sqrt(covariance[1, 1]) == pytest.approx(1.2 * np.sqrt(1 - 0.75**2), rel=1e-5)


def test_a_new_version_without_figures_takes_its_predecessor_s() -> None:
    old = Arm(id="old", figures=(Figure(success_rate=0.9), Figure(category="bug", success_rate=0.6)))
    other = Arm(id="other", figures=(Figure(success_rate=0.2),))
    state = Posterior.start((old, other, Arm(id="new", predecessor="old"), Arm(id="unrelated")))
    assert state.success.mean[2] == pytest.approx(state.success.mean[0])
    assert not np.allclose(state.success.mean[3], state.success.mean[0])
