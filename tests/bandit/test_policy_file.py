"""Policy files: what they may say, how it changes a router, and how what is wrong is named."""

import msgspec
import pytest

from bandit import policy_file
from bandit.errors import InvalidInput
from bandit.types import Objective, RouterSettings


def test_a_whole_file_overrides_the_settings_it_names():
    file = policy_file.parse(
        """
        policy = "ladder:a>b"
        alpha = 1
        exploration_floor = 0.05
        draws = 64
        max_attempts = 2
        [objective]
        preset = "cheap"
        latency_usd_per_second = 0.01
        quality_floor = 0.8
        quality_floor_relative = true
        budget_usd = 100
        budget_period_seconds = 86400
        session_cap_usd = 3
        """
    )
    assert file.policy == "ladder:a>b"
    settings = RouterSettings(id="r", seed=4, baseline_arm="a", store_text=True)
    expected = msgspec.structs.replace(
        settings,
        policy="ladder:a>b",
        alpha=1.0,
        exploration_floor=0.05,
        draws=64,
        max_attempts=2,
        objective=Objective(
            value_usd=1.0,
            latency_usd_per_second=0.01,
            quality_floor=0.8,
            quality_floor_relative=True,
            budget_usd=100.0,
            budget_period_seconds=86_400.0,
            session_cap_usd=3.0,
        ),
    )
    assert file.over(settings) == expected


def test_what_a_file_does_not_say_stays_the_routers_own():
    settings = RouterSettings(alpha=0.3, objective=Objective(value_usd=2.0, quality_floor=0.9))
    over = policy_file.parse('policy = "thompson"\nobjective.session_cap_usd = 1').over(settings)
    objective = msgspec.structs.replace(settings.objective, session_cap_usd=1.0)
    assert over == msgspec.structs.replace(settings, objective=objective)


@pytest.mark.parametrize(("preset", "value_usd"), [("cheap", 1.0), ("balanced", 5.0), ("best", 25.0)])
def test_a_preset_is_a_value_in_dollars_and_a_value_wins_over_it(preset, value_usd):
    text = f'policy = "thompson"\nobjective.preset = "{preset}"\n'
    assert policy_file.parse(text).over(RouterSettings()).objective.value_usd == value_usd
    explicit = policy_file.parse(text + "objective.value_usd = 7")
    assert explicit.over(RouterSettings()).objective.value_usd == 7.0


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "policy"),
        ("alpha = 0.5", "policy"),
        ('policy = "thompson', ""),
        ('policy = "thompson"\nx = ' + "[" * 100_000, ""),
        ('policy = "thompson"\nalpha = ' + "9" * 5000, ""),
        ('policy = "nonsense"', "policy"),
        ("policy = 3", "policy"),
        ('policy = "thompson"\ncolour = 1', "colour"),
        ('policy = "thompson"\nobjective.colour = 1', "objective.colour"),
        ('policy = "thompson"\nobjective = 1', "objective"),
        ('policy = "thompson"\nalpha = 0', "alpha"),
        ('policy = "thompson"\nalpha = nan', "alpha"),
        ('policy = "thompson"\nalpha = "half"', "alpha"),
        ('policy = "thompson"\nexploration_floor = 1.1', "exploration_floor"),
        ('policy = "thompson"\ndraws = 0', "draws"),
        ('policy = "thompson"\ndraws = 1.5', "draws"),
        ('policy = "thompson"\nmax_attempts = 17', "max_attempts"),
        ('policy = "thompson"\nobjective.preset = "free"', "objective.preset"),
        ('policy = "thompson"\nobjective.value_usd = inf', "objective.value_usd"),
        ('policy = "thompson"\nobjective.value_usd = nan', "objective.value_usd"),
        ('policy = "thompson"\nobjective.latency_usd_per_second = -1', "objective.latency_usd_per_second"),
        ('policy = "thompson"\nobjective.quality_floor = 2', "objective.quality_floor"),
        ('policy = "thompson"\nobjective.session_cap_usd = -1', "objective.session_cap_usd"),
        ('policy = "thompson"\nobjective.budget_usd = 1', "objective.budget_period_seconds"),
        ('policy = "thompson"\nobjective.budget_period_seconds = 1', "objective.budget_usd"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(text, field):
    with pytest.raises(InvalidInput) as caught:
        policy_file.parse(text)
    assert caught.value.field == field, caught.value
