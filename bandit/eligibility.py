"""Which arms a request may have, before the session's own history is looked at."""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from bandit.types import NO_REQUIREMENTS, Arm, Bar, BarKind, Features, Offer, Requirements, Rule


def holding(rules: Iterable[Rule], features: Features) -> tuple[Rule, ...]:
    """The rules that hold for a session: those whose parts equal its categories of that name, where not empty."""
    organisation, project, user = (features.get(name) for name in ("organisation", "project", "user"))
    return tuple(
        rule
        for rule in rules
        if (not rule.organisation or rule.organisation == organisation)
        and (not rule.project or rule.project == project)
        and (not rule.user or rule.user == user)
    )


def further(held: Requirements, capabilities: frozenset[str], context_tokens: int | None) -> Requirements:
    """What was required before, the capabilities added to it and the context (None: as before) put in its place."""
    tokens = held.context_tokens if context_tokens is None else context_tokens
    if capabilities <= held.capabilities and tokens == held.context_tokens:
        return held
    return msgspec.structs.replace(held, capabilities=held.capabilities | capabilities, context_tokens=tokens)


def offers(
    arms: Iterable[Arm],
    *,
    requirements: Requirements = NO_REQUIREMENTS,
    rules: Collection[Rule] = (),
    unavailable: Mapping[str, str] | None = None,
) -> tuple[Offer, ...]:
    """Every arm as an offer, in the given order, with the first thing that bars it.

    An arm has to pass all of `rules`. `unavailable` maps the id of an arm that is down to the reason in words.
    What a pinned arm overrides (see `moves.begin_select`) is looked at last, so that it hides nothing else.
    """
    down = unavailable or {}

    def bar(arm: Arm) -> Bar | None:
        if arm.retired:
            return Bar(BarKind.RETIRED, "retired")
        if arm.id in down:
            return Bar(BarKind.UNAVAILABLE, down[arm.id])
        if lacking := sorted(requirements.capabilities - arm.capabilities):
            return Bar(BarKind.CAPABILITY, f"lacks {', '.join(lacking)}")
        window, needed = arm.context_window_tokens, requirements.context_tokens
        if window is not None and window < needed:
            return Bar(BarKind.CAPABILITY, f"takes {window:,} tokens, {needed:,} needed")
        if arm.id in requirements.deny:
            return Bar(BarKind.POLICY, "denied by the request")
        if requirements.allow and arm.id not in requirements.allow:
            return Bar(BarKind.POLICY, "not among the request's allowed arms")
        for rule in rules:
            if arm.id in rule.deny:
                return Bar(BarKind.POLICY, f"denied by the rule for {_whom(rule)}")
            if rule.allow and arm.id not in rule.allow:
                return Bar(BarKind.POLICY, f"not among the arms allowed by the rule for {_whom(rule)}")
        return None

    return tuple(Offer(arm=arm.id, price=arm.price, bar=bar(arm)) for arm in arms)


def _whom(rule: Rule) -> str:
    parts = {"organisation": rule.organisation, "project": rule.project, "user": rule.user}
    return ", ".join(f"{name} {part!r}" for name, part in parts.items() if part) or "everybody"
