"""Why this model? A decision and a session, told in words and numbers: by gRPC, the command line and the page alike."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bandit.session import Session
from bandit.types import (
    Decision,
    EscalationReason,
    FeatureValue,
    Objective,
    Outcome,
    SelectReason,
    Shadow,
    Situation,
    Text,
    Usage,
)
from server.commands import DecisionView, SessionView
from server.words import dollars, exact, moment, percent, plain

_LONGEST_VALUE = 60
_CERTAIN = frozenset((SelectReason.PINNED, SelectReason.ONLY_ELIGIBLE, SelectReason.BASELINE))

_LOTS = {
    SelectReason.SAMPLED: "It was drawn by lot",
    SelectReason.ESCALATED: "The attempt before was left, and this arm was drawn by lot among those not tried yet",
    SelectReason.REROUTED_UNAVAILABLE: "The arm before went down, and this one was drawn by lot",
    SelectReason.REROUTED_CAPABILITY: "The arm before cannot do what is required, and this one was drawn by lot",
    SelectReason.REROUTED_POLICY: "The arm before is not allowed any more, and this one was drawn by lot",
}

_BRIEFLY = {
    SelectReason.PINNED: "named by the caller",
    SelectReason.ONLY_ELIGIBLE: "no other arm was eligible",
    SelectReason.BASELINE: "the baseline, in apprentice mode",
    SelectReason.ESCALATED: "after a failure, ",
    SelectReason.REROUTED_UNAVAILABLE: "the arm before went down, ",
    SelectReason.REROUTED_CAPABILITY: "the arm before lacked an ability, ",
    SelectReason.REROUTED_POLICY: "the arm before is not allowed any more, ",
}

LEFT = {
    EscalationReason.VERIFIED_FAILURE: "it was found wrong",
    EscalationReason.STRUGGLING: "it was not getting anywhere",
    EscalationReason.USER_REQUEST: "the user wanted another arm",
    EscalationReason.CAPABILITY: "the arm lacked an ability",
    EscalationReason.UNAVAILABLE: "the arm did not answer",
    EscalationReason.POLICY: "the arm was no longer allowed",
}
"""Why an attempt was left."""


class Fact(NamedTuple):
    """A named value."""

    name: str
    value: str


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an explanation: words, then named values."""

    title: str
    sentences: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()


def decision(shown: DecisionView) -> list[Section]:
    """One decision: why, what was known, who else was asked, on what terms, and how it went."""
    made, outcome = shown.decision, shown.view.session.outcome(shown.index)
    said = (_lot(made), _comparison(made), _plan(shown))
    sections = [
        Section(title=f"Why {plain(made.arm)}?", sentences=tuple(filter(None, said))),
        Section(title="What was known", facts=_facts(_knowledge(shown))),
        Section(title="Who decided, and on what terms", facts=_facts(_terms(shown))),
        Section(title="How it went", facts=_facts(_went(shown, outcome)) or (Fact("outcome", "nothing yet"),)),
    ]
    if shown.shadows:
        beside = tuple(_shadow(made, shadow) for shadow in shown.shadows)
        sections.insert(1, Section(title="What others would have done", sentences=beside))
    return sections


def session(view: SessionView) -> Section:
    """A session's course: how it stands, and what became of each attempt."""
    whole = view.session
    count = len(whole.attempts)
    state = "closed" if whole.final else "exhausted" if whole.exhausted else "open"
    title = [f"{count} attempt{'s' if count != 1 else ''}", state]
    success = success_of(whole, count - 1)
    costs = [cost for i in range(count) if (cost := whole.dollars(i)) is not None]
    title += [f"success {percent(success)}"] if success is not None else []
    title += [dollars(sum(costs))] if costs else []
    course = [_course(whole, i) for i in range(count)]
    if whole.closed:
        course.append("It was closed because no reward came in time; a late one still counts.")
    elif whole.exhausted:
        course.append("No further attempt was worth its price, or none was left.")
    return Section(title=f"session {plain(whole.session_id)}: {', '.join(title)}", sentences=tuple(course))


def brief(made: Decision) -> str:
    """A decision's reason in a line."""
    if made.reason in _CERTAIN:
        return _BRIEFLY[made.reason]
    said = f"{_BRIEFLY.get(made.reason, '')}drawn at {percent(made.propensity)}"
    eligible = _worth_of_eligible(made)
    if made.arm not in eligible:
        return said
    mine = eligible[made.arm]
    rank = 1 + sum(value > mine for value in eligible.values())
    place = "the most" if rank == 1 else f"number {rank}"
    return f"{said}; worth {dollars(mine)} by itself, {place} of {len(eligible)}"


def worth(made: Decision) -> dict[str, float]:
    """By arm, dollars to expect of the attempt alone: value x success - (1 + price of the budget) x cost.

    Empty where that is not what the router is out for, with a quality floor; without arms of which nothing is believed.
    """
    situation = made.situation
    if situation.objective.quality_floor is not None:
        return {}
    value, price = situation.objective.value_usd, 1.0 + situation.budget_price
    return {
        score.arm: value * score.success_mean - price * score.cost_usd
        for score in made.scores
        if score.success_mean is not None and score.cost_usd is not None
    }


def success_of(whole: Session, i: int) -> float | None:
    """Success of an attempt: what was told, else 0 where an alarm says that it failed."""
    told, left = whole.outcome(i).success, whole.attempts[i].left
    return 0.0 if told is None and left is not None and left.is_alarm else told


# --- why ------------------------------------------------------------------------------------------------------------


def _lot(made: Decision) -> str:
    """How the arm came to be taken."""
    if made.reason is SelectReason.PINNED:
        return "The caller named it. An explicit pick wins over everything but an arm that is down or incapable."
    if made.reason is SelectReason.ONLY_ELIGIBLE:
        return "No other arm was eligible."
    if made.reason is SelectReason.BASELINE:
        return "The router was in apprentice mode, in which its baseline arm takes every session."
    said = f"{_LOTS.get(made.reason, 'It was taken')}, with a chance of {percent(made.propensity)}."
    if not made.policy.startswith("thompson"):
        return f"{said} The chances are those of policy {plain(made.policy)}."
    return (
        f"{said} An arm's chance is the share of {made.situation.draws} draws from what is believed in which it was "
        f"best, with {percent(made.situation.exploration_floor)} of all spread evenly over the eligible arms, so that "
        "each is still learned of."
    )


def _comparison(made: Decision) -> str:
    """How it stands among the eligible arms by expectation."""
    situation = made.situation
    if situation.objective.quality_floor is not None and made.reason not in _CERTAIN:
        return (
            f"In each draw the best is the cheapest arm whose success reaches {_floor(situation.objective)}, or the "
            "strongest where none does."
        )
    eligible = _worth_of_eligible(made)
    if made.arm not in eligible or len(eligible) < 2:
        return ""
    mine = eligible[made.arm]
    score = next(score for score in made.scores if score.arm == made.arm)
    price = f" x {1 + situation.budget_price:.2f}" if situation.budget_price else ""
    said = (
        f"The attempt alone is worth {dollars(mine)} by expectation ({exact(situation.objective.value_usd)} x "
        f"{percent(score.success_mean or 0.0)} - {dollars(score.cost_usd or 0.0)}{price}"
        f"{', latency apart' if situation.objective.latency_usd_per_second else ''})"
    )
    best = max(eligible, key=lambda arm: eligible[arm])
    if best == made.arm:
        return f"{said}, the most of {len(eligible)} eligible arms."
    rank = 1 + sum(value > mine for value in eligible.values())
    said += f", number {rank} of {len(eligible)} eligible arms; {plain(best)} is first with {dollars(eligible[best])}."
    if made.ladder and made.reason not in _CERTAIN:
        said += (
            " A plan counts what comes after a failure too, so that a cheap arm may be the better one to begin with."
        )
    return said


def _worth_of_eligible(made: Decision) -> dict[str, float]:
    barred = {score.arm for score in made.scores if score.bar is not None and score.arm != made.arm}
    return {arm: value for arm, value in worth(made).items() if arm not in barred}


def _floor(objective: Objective) -> str:
    share = percent(objective.quality_floor or 0.0)
    return f"{share} of the best arm's" if objective.quality_floor_relative else share


def _plan(shown: DecisionView) -> str:
    ladder = shown.decision.ladder
    said = f"If it fails: {plain(', then '.join(ladder))}." if ladder else "No attempt after it is planned."
    if shown.stop_propensity > 0:
        said += f" Giving up instead had a chance of {percent(shown.stop_propensity)}."
    return said


def _shadow(made: Decision, shadow: Shadow) -> str:
    name = f"Policy {plain(shadow.policy)}, version {plain(shadow.policy_version)},"
    if shadow.error:
        return f"{name} had no answer: {plain(shadow.error)}."
    if not shadow.propensities:
        return f"{name} would have given up here."
    arms = [offer.arm for offer in made.situation.offers]
    chances = dict(zip(arms, shadow.propensities, strict=True))
    likeliest = max(chances, key=lambda arm: chances[arm])
    said = f"{name} would have taken {plain(likeliest)} with a chance of {percent(chances[likeliest])}"
    if likeliest != made.arm:
        said += f", and {plain(made.arm)} with {percent(chances[made.arm])}"
    if shadow.success_mean is not None and shadow.cost_usd is not None:
        said += (
            f"; of what it would have taken it expected {percent(shadow.success_mean)} at {dollars(shadow.cost_usd)}"
        )
    if shadow.stop_propensity > 0.0:
        said += f"; giving up instead had a chance of {percent(shadow.stop_propensity)}"
    mine = {score.arm: score.propensity for score in made.scores}
    overlap = sum(min(chance, mine.get(arm, 0.0)) for arm, chance in chances.items())
    return f"{said}. The two would do the same with a chance of {percent(overlap * (1.0 - shadow.stop_propensity))}."


# --- facts ----------------------------------------------------------------------------------------------------------


def _facts(pairs: Sequence[tuple[str, str]]) -> tuple[Fact, ...]:
    """Those that say something."""
    return tuple(Fact(name, value) for name, value in pairs if value)


def _knowledge(shown: DecisionView) -> list[tuple[str, str]]:
    """Features and demands."""
    situation = shown.decision.situation
    facts = [(plain(name), _value(situation.features[name])) for name in sorted(situation.features)]
    if shown.erased:
        facts.append(("features", "erased on request"))
    elif not facts:
        facts.append(("features", "none"))
    needs = situation.requirements
    return [
        *facts,
        ("failed before", plain(", ".join(situation.alarmed))),
        ("allowed", plain(", ".join(sorted(needs.allow)))),
        ("denied", plain(", ".join(sorted(needs.deny)))),
        ("required", plain(", ".join(sorted(needs.capabilities)))),
        ("prompt", f"{needs.context_tokens:,} tokens" if needs.context_tokens else ""),
    ]


def _value(value: FeatureValue) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            return _short(value)
        case Text(text=text, hashed=hashed):
            return "kept in hashed form only" if hashed else f"“{_short(text)}”"
        case tuple():
            return f"{len(value)} numbers"
    return f"{value:g}"


def _short(text: str) -> str:
    said = plain(text)
    return said if len(said) <= _LONGEST_VALUE else f"{said[:_LONGEST_VALUE]}…"


def _terms(shown: DecisionView) -> list[tuple[str, str]]:
    made = shown.decision
    chance = made.policy_propensity
    canary = f", which had a chance of {percent(chance)}" if 0 < chance < 1 else ""
    learned = f"epoch {made.epoch:,} ({plain(made.epoch_hash)[:12]})" if made.epoch else "epoch 0, nothing learned yet"
    return [
        ("router", plain(shown.view.router)),
        ("policy", f"{plain(made.policy)}, version {plain(made.policy_version)}{canary}"),
        ("learned state", learned),
        *_prices(made, made.situation),
        ("endpoint", plain(shown.view.session.attempts[shown.index].endpoint)),
        ("decided", moment(shown.view.told[shown.index].at_us)),
        ("session", f"{plain(made.session_id)}, attempt {made.attempt}"),
        ("decision", plain(made.decision_id)),
    ]


def _prices(made: Decision, situation: Situation) -> list[tuple[str, str]]:
    offer = next((offer for offer in situation.offers if offer.arm == made.arm), None)
    price = offer.price if offer is not None else None
    objective = situation.objective
    second_usd = objective.latency_usd_per_second
    tokens = f"${price.input_usd:g} in, ${price.output_usd:g} out, per million tokens" if price is not None else ""
    return [
        ("mode", situation.mode.value),
        ("a success", f"worth {exact(objective.value_usd)}"),
        ("a second", f"costs {exact(second_usd)}" if second_usd else ""),
        ("quality floor", _floor(objective) if objective.quality_floor is not None else ""),
        ("attempts left", f"{situation.attempts_left}, this one included"),
        ("its price", tokens),
        ("cost cap", dollars(situation.cost_cap_usd) if situation.cost_cap_usd is not None else ""),
        ("budget", f"a dollar counted as {dollars(1 + situation.budget_price)}" if situation.budget_price else ""),
        ("read anew", f"{situation.reread_tokens:,} tokens" if situation.reread_tokens else ""),
    ]


# --- outcomes -------------------------------------------------------------------------------------------------------


def _went(shown: DecisionView, outcome: Outcome) -> list[tuple[str, str]]:
    whole, i = shown.view.session, shown.index
    success, cost_usd, left = success_of(whole, i), whole.dollars(i), whole.attempts[i].left
    metrics = shown.view.told[i].metrics
    return [
        ("success", percent(success) if success is not None else ""),
        ("left because", LEFT[left] if left is not None else ""),
        ("", "which says nothing about success" if left is not None and not left.is_alarm else ""),
        ("cost", dollars(cost_usd) if cost_usd is not None else ""),
        ("tokens", _tokens(outcome.usage) if outcome.usage is not None else ""),
        ("seconds", f"{outcome.latency_seconds:,.1f}" if outcome.latency_seconds is not None else ""),
        ("served by", plain(outcome.served_arm or "")),
        *((plain(name), f"{metrics[name]:g}") for name in sorted(metrics)),
    ]


def _tokens(usage: Usage) -> str:
    counts = (usage.input_tokens, "in"), (usage.output_tokens, "out"), (usage.cached_tokens, "cached")
    return ", ".join(f"{count:,.0f} {name}" for count, name in counts)


def _course(whole: Session, i: int) -> str:
    attempt = whole.attempts[i]
    said = [f"Attempt {attempt.decision.attempt}, {plain(attempt.decision.arm)}: {brief(attempt.decision)}."]
    success, cost_usd = success_of(whole, i), whole.dollars(i)
    became = [f"left because {LEFT[attempt.left]}"] if attempt.left is not None else []
    if success is not None and attempt.left is None:
        became.append(f"success {percent(success)}")
    if cost_usd is not None:
        became.append(dollars(cost_usd))
    if became:
        said.append(f"It came to this: {', '.join(became)}.")
    elif whole.running is attempt:
        said.append("It is running.")
    return " ".join(said)
