"""`pointsman.toml`: defaults for everything, and errors that name key and line."""

from pathlib import Path

import pytest

from bandit import policy_file
from bandit.types import Failover, Mode, Objective, Price, RouterSettings, Rule
from server import config

ARM = '[[arms]]\nid = "a"\n'


def parse(text: str) -> config.Config:
    return config.parse(text, "pointsman.toml")


def complaint(text: str) -> str:
    with pytest.raises(config.ConfigError) as caught:
        parse(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_everything_has_a_default():
    (router,) = parse(ARM).routers
    assert router.settings == RouterSettings()
    assert [arm.id for arm in router.arms] == ["a"]
    assert parse(ARM).service.fitter == "beside"


def test_a_whole_configuration():
    read = parse(
        """
        [service]
        listen = "127.0.0.1:1"
        fitter = "inline"
        [limits]
        features = 10
        [[routers]]
        id = "one"
        policy = "always:a"
        objective.value_usd = 3.5
        [[routers]]
        id = "two"
        policy = "ladder:a>b"
        [[arms]]
        id = "a"
        input_usd_per_million = 2
        figures = [{ category = "bug", success_rate = 0.5, cost_usd = 1 }, { success_rate = 1 }]
        [[arms]]
        id = "b"
        capabilities = ["vision"]
        """
    )
    assert [router.settings.id for router in read.routers] == ["one", "two"]
    assert read.routers[0].settings.objective.value_usd == 3.5
    assert read.limits.features == 10
    a, b = read.routers[0].arms
    assert a.price == Price(input_usd=2.0)
    assert [(figure.category, figure.success_rate, figure.cost_usd) for figure in a.figures] == [
        ("bug", 0.5, 1.0),
        (None, 1.0, None),
    ]
    assert b.price is None and b.capabilities == {"vision"}


def test_every_setting_of_a_router_can_be_given():
    (router,) = parse(
        """
        [router]
        id = "r"
        policy = "ladder:a>b"
        mode = "apprentice"
        baseline_arm = "a"
        seed = 3
        max_attempts = 2
        store_text = true
        alpha = 0.5
        exploration_floor = 0.1
        draws = 64
        reward_wait_seconds = 60
        missing_success = 0
        [router.objective]
        preset = "cheap"
        latency_usd_per_second = 0.5
        quality_floor = 0.8
        quality_floor_relative = true
        budget_usd = 10
        budget_period_seconds = 60
        session_cap_usd = 2
        [router.failover]
        errors = 4
        error_share = 0.25
        window_seconds = 30
        cool_down_seconds = 15
        [[router.rules]]
        organisation = "o"
        project = "p"
        user = "u"
        allow = ["a"]
        [[router.rules]]
        deny = ["b"]
        [[arms]]
        id = "a"
        endpoints = ["eu", "us"]
        context_window_tokens = 1000
        [[arms]]
        id = "b"
        """
    ).routers
    assert router.settings == RouterSettings(
        id="r",
        policy="ladder:a>b",
        mode=Mode.APPRENTICE,
        baseline_arm="a",
        seed=3,
        max_attempts=2,
        store_text=True,
        alpha=0.5,
        exploration_floor=0.1,
        draws=64,
        reward_wait_seconds=60.0,
        missing_success=0.0,
        objective=Objective(
            value_usd=1.0,
            latency_usd_per_second=0.5,
            quality_floor=0.8,
            quality_floor_relative=True,
            budget_usd=10.0,
            budget_period_seconds=60.0,
            session_cap_usd=2.0,
        ),
        failover=Failover(errors=4, error_share=0.25, window_seconds=30.0, cool_down_seconds=15.0),
        rules=(
            Rule(organisation="o", project="p", user="u", allow=frozenset({"a"})),
            Rule(deny=frozenset({"b"})),
        ),
    )
    assert router.arms[0].endpoints == ("eu", "us")
    assert router.arms[0].context_window_tokens == 1000


def test_the_example_of_the_readme_says_what_holds_anyway_where_it_names_no_arm():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    ((router),) = parse(readme.split("```toml\n")[1].split("```")[0]).routers
    named = RouterSettings(
        baseline_arm="frontier-model",
        objective=Objective(session_cap_usd=20.0),
        rules=(Rule(organisation="acme", project="secret", allow=frozenset({"small-model"})),),
    )
    assert router.settings == named
    assert [arm.id for arm in router.arms] == ["small-model", "frontier-model", "frontier-model-2"]
    assert router.arms[2].predecessor == "frontier-model"


def test_the_policy_file_of_the_readme_can_be_read():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    text = readme.split("```toml\n# a policy file")[1].split("```")[0]
    file = policy_file.parse(f"#{text}")
    assert (file.policy, file.max_attempts) == ("thompson", 2)
    assert file.over(RouterSettings()).objective == Objective(value_usd=25.0, session_cap_usd=10.0)


def test_routers_have_their_own_arms_or_those_beside_them():
    first, second = parse(
        """
        [[routers]]
        id = "first"
        [[routers.arms]]
        id = "x"
        [[routers]]
        id = "second"
        [[arms]]
        id = "a"
        """
    ).routers
    assert [arm.id for arm in first.arms] == ["x"]
    assert [arm.id for arm in second.arms] == ["a"]


def test_the_bundled_catalogue_is_valid():
    read = config.load(None)
    assert read.bundled and len(read.routers[0].arms) == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[router]\nseed = 1\npolici = 'x'\n" + ARM, "pointsman.toml:3: router.polici: unknown key"),
        ("[servise]\n" + ARM, "pointsman.toml:1: servise: unknown key"),
        (ARM + ARM.replace('"a"', '"b"') + "colour = 1\n", "pointsman.toml:5: arms[1].colour: unknown key"),
        ("[router]\nalpha = 0.0\n" + ARM, "pointsman.toml:2: router.alpha: "),
        ("[router]\nexploration_floor = 1.5\n" + ARM, "pointsman.toml:2: router.exploration_floor: "),
        ("[router]\nobjective.value_usd = -1\n" + ARM, "pointsman.toml:2: router.objective.value_usd: "),
        ("[router]\nmax_attempts = 'two'\n" + ARM, "pointsman.toml:2: router.max_attempts: "),
        ("[service]\n\nfitter = 'elsewhere'\n" + ARM, "pointsman.toml:3: service.fitter: "),
        (ARM + "input_usd_per_million = nan\n", "pointsman.toml:3: arms[0].input_usd_per_million: "),
        (ARM + "input_usd_per_million = -1\n", "pointsman.toml:3: arms[0].input_usd_per_million: "),
        (ARM + "figures = [\n  { success_rate = 2 },\n]\n", "pointsman.toml:3: arms[0].figures[0].success_rate: "),
        (ARM + ARM, "pointsman.toml:4: arms[1].id: 'a' is there twice"),
        ("[[arms]]\nprovider = 'x'\n", "pointsman.toml:1: arms[0].id: required"),
        ("[router]\npolicy = 'nonsense'\n" + ARM, "pointsman.toml:2: router.policy: no policy 'nonsense'"),
        ("[[routers]]\npolicy = 'always:b'\n" + ARM, "pointsman.toml:2: routers[0].policy: no arm 'b'"),
        ("[router]\n[[routers]]\n" + ARM, "pointsman.toml:2: routers[0]: give either [router] or [[routers]]"),
        ("[router\n", "pointsman.toml: "),
        ("[router]\nmode = 'asleep'\n" + ARM, "pointsman.toml:2: router.mode: "),
        ("[router]\nmode = 'apprentice'\n" + ARM, "pointsman.toml:2: router.mode: apprentice mode needs"),
        ("[router]\nbaseline_arm = 'b'\n" + ARM, "pointsman.toml:2: router.baseline_arm: no arm 'b'"),
        (
            "[router]\n[[router.rules]]\nallow = ['a']\n[[router.rules]]\ndeny = ['b']\n" + ARM,
            "pointsman.toml:5: router.rules[1].deny: no arm 'b'",
        ),
        ("[router]\nobjective.budget_usd = 1\n" + ARM, "pointsman.toml:1: router.objective.budget_period_seconds: "),
        ("[router.objective]\nbudget_period_seconds = 1\n" + ARM, "pointsman.toml:1: router.objective.budget_usd: "),
        ("[router]\nobjective.preset = 'free'\n" + ARM, "pointsman.toml:2: router.objective.preset: "),
        ("[router]\nmissing_success = nan\n" + ARM, "pointsman.toml:2: router.missing_success: "),
        ("[router]\nreward_wait_seconds = 0\n" + ARM, "pointsman.toml:2: router.reward_wait_seconds: "),
        ("[router.failover]\nerrors = 0\n" + ARM, "pointsman.toml:2: router.failover.errors: "),
        ("[router]\nstore_text = 1\n" + ARM, "pointsman.toml:2: router.store_text: "),
        (ARM + "endpoints = ['eu',\n 'eu']\n", "pointsman.toml:3: arms[0].endpoints: 'eu' is there twice"),
        (ARM + "figures = [{success_rate = 1}, {success_rate = 1}]\n", "pointsman.toml:3: arms[0].figures: "),
        (ARM + 'predecessor = "later"\n[[arms]]\nid = "later"\n', "pointsman.toml:3: arms[0].predecessor: "),
        (ARM + "context_window_tokens = 0\n", "pointsman.toml:3: arms[0].context_window_tokens: "),
        (ARM + 'provider = "a\\u0000b"\n', "pointsman.toml:3: arms[0].provider: "),
        (
            "[[routers]]\nid = 'x'\n" + ARM + "[[routers]]\nid = 'x'\n",
            "pointsman.toml:6: routers[1].id: 'x' is there twice",
        ),
        (
            "[[routers]]\nid = 'x'\n[[routers.arms]]\nid = 'a'\n[[routers]]\nid = 'y'\n[[routers.arms]]\nid = 'a'\n"
            "[[routers.arms]]\nid = 'a'\n",
            "pointsman.toml:10: routers[1].arms[1].id: 'a' is there twice",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, expected):
    assert complaint(text).startswith(expected), complaint(text)


def test_bad_toml_names_its_line():
    assert "line 2" in complaint("[router]\nseed = \n")
