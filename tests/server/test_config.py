"""`pointsman.toml`: defaults for everything, and errors that name key and line."""

import pytest

from bandit.types import Price, RouterSettings
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


def test_the_bundled_catalogue_is_valid():
    read = config.load(None)
    assert read.bundled and len(read.routers[0].arms) == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[router]\nseed = 1\npolici = 'x'\n" + ARM, "pointsman.toml:3: unknown key 'router.polici'"),
        ("[servise]\n" + ARM, "pointsman.toml:1: unknown key 'servise'"),
        (ARM + ARM.replace('"a"', '"b"') + "colour = 1\n", "pointsman.toml:5: unknown key 'arms[1].colour'"),
        ("[router]\nalpha = 0.0\n" + ARM, "pointsman.toml:2: router.alpha: "),
        ("[router]\nexploration_floor = 1.5\n" + ARM, "pointsman.toml:2: router.exploration_floor: "),
        ("[router]\nobjective.value_usd = -1\n" + ARM, "pointsman.toml:2: router.objective.value_usd: "),
        ("[router]\nmax_attempts = 'two'\n" + ARM, "pointsman.toml:2: router.max_attempts: "),
        ("[service]\n\nfitter = 'elsewhere'\n" + ARM, "pointsman.toml:3: service.fitter: "),
        (ARM + "input_usd_per_million = nan\n", "pointsman.toml:3: arms[0].input_usd_per_million: "),
        (ARM + "input_usd_per_million = -1\n", "pointsman.toml:3: arms[0].input_usd_per_million: "),
        (ARM + "figures = [\n  { success_rate = 2 },\n]\n", "pointsman.toml:3: arms[0].figures[0].success_rate: "),
        (ARM + ARM, "pointsman.toml:4: id: 'a' is there twice"),
        ("[[arms]]\nprovider = 'x'\n", "pointsman.toml:1: arms[0]: "),
        ("[router]\npolicy = 'nonsense'\n" + ARM, "pointsman.toml:2: policy: no policy 'nonsense'"),
        ("[[routers]]\npolicy = 'always:b'\n" + ARM, "pointsman.toml:2: policy: no arm 'b'"),
        ("[router]\n[[routers]]\n" + ARM, "pointsman.toml:2: give either [router] or [[routers]]"),
        ("[router\n", "pointsman.toml: "),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, expected):
    assert complaint(text).startswith(expected), complaint(text)


def test_bad_toml_names_its_line():
    assert "line 2" in complaint("[router]\nseed = \n")
