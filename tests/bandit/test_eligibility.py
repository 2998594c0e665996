"""Which arms a request may have: what bars an arm, in which words, and what hides what."""

import pytest

from bandit import eligibility
from bandit.types import Arm, BarKind, Features, Requirements, Rule, Text

ARM = Arm(id="a", capabilities=frozenset({"vision"}), context_window_tokens=200_000)
OTHER = Arm(id="b")


def bar(arm: Arm = ARM, **given: object) -> tuple[BarKind, str] | None:
    (offer,) = eligibility.offers([arm], **given)  # type: ignore[arg-type]
    return (offer.bar.kind, offer.bar.why) if offer.bar is not None else None


@pytest.mark.parametrize(
    ("demanded", "kind", "why"),
    [
        (Requirements(deny=frozenset("a")), BarKind.POLICY, "denied by the request"),
        (Requirements(allow=frozenset("b")), BarKind.POLICY, "not among the request's allowed arms"),
        (Requirements(capabilities=frozenset({"vision", "audio"})), BarKind.CAPABILITY, "lacks audio"),
        (Requirements(context_tokens=250_000), BarKind.CAPABILITY, "takes 200,000 tokens, 250,000 needed"),
    ],
)
def test_what_a_request_demands_bars_arms_in_words(demanded: Requirements, kind: BarKind, why: str) -> None:
    assert bar(requirements=demanded) == (kind, why)


def test_a_context_that_fits_or_a_window_that_is_unknown_bars_nothing() -> None:
    assert bar(requirements=Requirements(context_tokens=200_000)) is None
    assert bar(OTHER, requirements=Requirements(context_tokens=2**53)) is None


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Rule(project="x", deny=frozenset("a")), "denied by the rule for project 'x'"),
        (Rule(deny=frozenset("a")), "denied by the rule for everybody"),
        (
            Rule(organisation="o", user="u", allow=frozenset("b")),
            "not among the arms allowed by the rule for organisation 'o', user 'u'",
        ),
    ],
)
def test_a_rule_says_whom_it_is_for(rule: Rule, why: str) -> None:
    assert bar(rules=(rule,)) == (BarKind.POLICY, why)
    assert bar(OTHER, rules=(rule,)) is None


def test_an_arm_has_to_pass_every_rule_that_holds() -> None:
    rules = (Rule(project="x", allow=frozenset("ab")), Rule(user="u", deny=frozenset("a")))
    assert bar(rules=rules) == (BarKind.POLICY, "denied by the rule for user 'u'")
    assert bar(OTHER, rules=rules) is None


@pytest.mark.parametrize(
    ("features", "holds"),
    [
        ({"organisation": "o", "project": "p", "files": 3.0}, True),
        ({"organisation": "o", "project": "p", "user": "anybody"}, True),
        ({"organisation": "o"}, False),
        ({"organisation": "o", "project": "q"}, False),
        ({"organisation": "o", "project": Text("p")}, False),
        ({}, False),
    ],
)
def test_a_rule_holds_where_its_parts_equal_the_categories_of_that_name(features: Features, holds: bool) -> None:
    rule = Rule(organisation="o", project="p")
    assert eligibility.holding((rule,), features) == ((rule,) if holds else ())


def test_a_rule_without_parts_holds_for_everybody() -> None:
    assert eligibility.holding((Rule(),), {}) == (Rule(),)


def test_what_a_pin_overrides_never_hides_what_it_does_not() -> None:
    demanded = Requirements(deny=frozenset("a"), capabilities=frozenset({"audio"}), context_tokens=10**6)
    rules = (Rule(deny=frozenset("a")),)
    kinds = []
    for arm, down in ((Arm(id="a", retired=True), True), (ARM, True), (ARM, False)):
        found = bar(arm, requirements=demanded, rules=rules, unavailable={"a": "down"} if down else None)
        assert found is not None
        kinds.append(found[0])
    assert kinds == [BarKind.RETIRED, BarKind.UNAVAILABLE, BarKind.CAPABILITY]


def test_what_is_needed_further_on_is_added_to_what_held() -> None:
    held = Requirements(deny=frozenset("b"), capabilities=frozenset({"vision"}), context_tokens=10, max_cost_usd=1.0)
    more = eligibility.further(held, frozenset({"audio"}), None)
    assert more == Requirements(
        deny=frozenset("b"), capabilities=frozenset({"vision", "audio"}), context_tokens=10, max_cost_usd=1.0
    )
    assert eligibility.further(held, frozenset(), 0).context_tokens == 0
    assert eligibility.further(held, frozenset({"vision"}), 10) is held
