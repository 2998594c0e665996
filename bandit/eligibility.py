"""Which arms a request may have, before the session's own history is looked at."""

from collections.abc import Collection, Iterable, Mapping

from bandit.types import Arm, Bar, BarKind, Offer


def offers(
    arms: Iterable[Arm],
    *,
    allow: Collection[str] = (),
    deny: Collection[str] = (),
    required_capabilities: Collection[str] = (),
    unavailable: Mapping[str, str] | None = None,
) -> tuple[Offer, ...]:
    """Every arm as an offer, in the given order, with the first rule that bars it.

    An empty `allow` allows all. `unavailable` maps the id of an arm that is down to the reason in words.
    """
    down = unavailable or {}

    def bar(arm: Arm) -> Bar | None:
        if arm.retired:
            return Bar(BarKind.RETIRED, "retired")
        if arm.id in down:
            return Bar(BarKind.UNAVAILABLE, down[arm.id])
        if lacking := sorted(set(required_capabilities) - arm.capabilities):
            return Bar(BarKind.CAPABILITY, f"lacks {', '.join(lacking)}")
        if arm.id in deny:
            return Bar(BarKind.POLICY, "denied by the request")
        if allow and arm.id not in allow:
            return Bar(BarKind.POLICY, "not among the request's allowed arms")
        return None

    return tuple(Offer(arm=arm.id, price=arm.price, bar=bar(arm)) for arm in arms)
