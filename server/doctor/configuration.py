"""Does a configuration say what its author is likely to mean?"""

import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bandit.events import Configured
from server.config import Config, ConfigError, load
from server.doctor import guarding
from server.doctor.finding import Finding, Severity

_WITHOUT_OBJECTIVE = ("uniform", "always:", "ladder:")
"""How policies begin that decide without asking what a success is worth."""


def check(path: Path, now: float) -> Iterator[Finding]:
    """What is wrong with the file, at `now` in seconds since 1970."""
    try:
        config = load(path)
    except ConfigError as error:
        yield Finding(
            code="config-invalid",
            severity=Severity.ERROR,
            where=str(path),
            found=str(error),
            remedy='correct the file; every key stands in the README under "The service"',
        )
        return
    raw = tomllib.loads(config.source.text)
    tables = {f"routers[{i}]": table for i, table in enumerate(raw.get("routers", []))}
    tables = tables or {"router": raw.get("router", {})}
    for (key, table), router in zip(tables.items(), config.routers, strict=True):
        yield from _router(config, key, table, router)
    yield from guarding.check(config, now)


def _router(config: Config, key: str, table: dict[str, Any], router: Configured) -> Iterator[Finding]:
    settings, arms = router.settings, router.arms

    def finding(code: str, severity: Severity, at: str, found: str, remedy: str) -> Finding:
        where = f"{config.source.place(at)}, router {settings.id}"
        return Finding(code=code, severity=severity, where=where, found=found, remedy=remedy)

    if not arms:
        what = "it has no arms: every Select is refused"
        yield finding("no-arms", Severity.ERROR, key, what, "name the models to choose from in [[arms]]")
        return
    if len(arms) == 1:
        what = f"{arms[0].id} is its only arm: there is nothing to choose"
        yield finding("single-arm", Severity.WARNING, key, what, "name another model in [[arms]]")
    if settings.baseline_arm is None:
        yield finding(
            "no-baseline",
            Severity.WARNING,
            key,
            "it has no baseline_arm: nothing to compare savings with, and no arm for agents while the service is away",
            "set baseline_arm to the model that everybody would use otherwise",
        )
    unpriced = [arm.id for arm in arms if arm.price is None]
    if unpriced:
        yield finding(
            "arms-unpriced",
            Severity.WARNING,
            "arms",
            f"{_of(unpriced, len(arms))} without a price: dollars are known only where agents report cost_usd",
            "set input_usd_per_million and output_usd_per_million; 0 is a price",
        )
    strangers = [arm.id for arm in arms if not arm.figures and not arm.predecessor]
    if strangers:
        yield finding(
            "arms-without-figures",
            Severity.WARNING,
            "arms",
            f"{_of(strangers, len(arms))} with neither figures nor a predecessor: first sessions are a guess",
            "give figures = [{ success_rate = …, cost_usd = … }] from a benchmark",
        )
    for one, other in itertools.combinations(arms, 2):
        if one.price is not None and (one.price, one.figures) == (other.price, other.figures):
            yield finding(
                "arms-alike",
                Severity.WARNING,
                "arms",
                f"{one.id} and {other.id} have the same prices and figures: is one a copy that was not edited?",
                "correct one of them; of one model at two places make one arm with endpoints",
            )
    objective = table.get("objective", {})
    asks = not settings.policy.startswith(_WITHOUT_OBJECTIVE) and settings.objective.quality_floor is None
    if asks and not {"value_usd", "preset"} & objective.keys():
        yield finding(
            "value-unsaid",
            Severity.WARNING,
            f"{key}.objective",
            f"nobody said what a resolved session is worth; ${settings.objective.value_usd:g} is taken, and decides "
            "how much a better model may cost",
            "set value_usd or preset in the router's objective",
        )


def _of(some: list[str], all_of_them: int) -> str:
    return f"{len(some)} of {all_of_them} arms ({', '.join(some)})"
