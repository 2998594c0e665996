"""A ledger's figures as the page shows them: plain values, ready to become JSON."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from bandit import frontier, intervals
from bandit.frontier import Point
from bandit.intervals import Interval
from bandit.savings import Alone, Errors, Estimate
from bandit.tally import BINS, Sums
from server.dashboard.ledger import RANGES, Ledger

Json: TypeAlias = dict[str, Any]


def overview(ledger: Ledger, span: str, now_us: int, *, arms: Sequence[str], baseline: str | None) -> Json:
    """What the sessions that began in a range came to: all together, by arm and over time.

    `arms` are those that can be used now; `baseline` is the router's, if it has one.
    """
    steps = ledger.steps(span, now_us)
    whole = Sums()
    for sums in steps.values():
        whole.add(sums)
    of_arms = [_arm(whole, i, arm) for i, arm in enumerate(ledger.arms)]
    return {
        "range": span,
        "step_seconds": RANGES[span].step_seconds,
        "steps": RANGES[span].steps,
        "now_us": now_us,
        "first_us": ledger.first_us,
        "totals": _totals(whole),
        "arms": of_arms,
        "baseline": _baseline(of_arms, arms, baseline),
        "frontier": _frontier(of_arms),
        "moves": [[attempt, arm, to, n] for (attempt, arm, to), n in sorted(whole.moves.items())],
        "forecasts": _forecasts(whole),
        "series": [_step(at, sums, ledger.arms) for at, sums in steps.items()],
    }


def standing(ledger: Ledger) -> Json:
    """What all sessions of a router come to, as sums: how many stand how, and how attempts went by arm."""
    whole = Sums()
    for sums in ledger.steps("all", 0).values():
        whole.add(sums)
    return {
        **{name: round(whole.whole(name)) for name in ("sessions", "open", "told", "billed", "closed")},
        "cost_usd": whole.whole("cost_usd"),
        "arms": [
            {
                "arm": arm,
                "success": _compared(whole.errors(i, dollars=False)),
                "cost_usd": _compared(whole.errors(i, dollars=True)),
            }
            for i, arm in enumerate(ledger.arms)
        ],
    }


def _compared(errors: Errors) -> Json:
    return {"attempts": round(errors.attempts), "foretold": errors.foretold, "real": errors.real}


def _totals(sums: Sums) -> Json:
    names = ("sessions", "open", "escalated", "exhausted", "closed", "told", "billed", "attempts")
    return {
        **{name: round(sums.whole(name)) for name in names},
        "success": _mean(sums, "told", "success", "success_squared"),
        "cost_usd": _mean(sums, "billed", "cost_usd", "cost_squared"),
        "spent_usd": sums.whole("cost_usd"),
    }


def _mean(sums: Sums, count: str, total: str, squares: str) -> Json | None:
    """Of sessions, with its 95 % interval."""
    n = sums.whole(count)
    if n < 1:
        return None
    mean = sums.whole(total) / n
    if n < 2:
        return _interval(Interval(mean, mean, mean))
    variance = max(sums.whole(squares) / n - mean * mean, 0.0) / (n - 1)
    return _interval(intervals.student(mean, math.sqrt(variance), n - 1).clipped(0.0, math.inf))


def _arm(sums: Sums, i: int, arm: str) -> Json:
    def of(name: str) -> float:
        column = sums.of_arms(name)
        return float(column[i]) if i < len(column) else 0.0

    told = of("seconds_told")
    return {
        "arm": arm,
        **{name: round(of(name)) for name in ("begun", "ended", "attempts")},
        "seconds": of("seconds") / told if told else None,
        "success": _alone(sums.alone(i, dollars=False)),
        "cost_usd": _alone(sums.alone(i, dollars=True)),
        "forecasts": _foretold(*(sums.errors(i, dollars=dollars) for dollars in (False, True))),
    }


def _alone(found: Alone | None) -> Json | None:
    if found is None:
        return None
    return {
        "sessions": found.sessions,
        "attempts": found.attempts,
        "effective": found.effective,
        "foretold": found.foretold,
        "real": found.real,
        "corrected": _estimate(found.corrected),
        "weighted": _estimate(found.weighted),
    }


def _estimate(found: Estimate | None) -> Json | None:
    if found is None:
        return None
    return {
        "value": _interval(found.value),
        "less": _interval(found.less),
        "share": _interval(found.share) if found.share is not None else None,
    }


def _interval(found: Interval) -> Json:
    return found._asdict()


def _baseline(of_arms: Sequence[Json], usable: Sequence[str], baseline: str | None) -> Json | None:
    """Which arm savings are counted against: the router's baseline, else the arm of most success as foretold, which is
    less easily led astray by luck than what a few attempts showed."""
    if baseline is not None:
        return {"arm": baseline, "why": "the router's baseline"}
    there = {arm["arm"]: arm["success"]["foretold"] for arm in of_arms if arm["arm"] in usable and arm["success"]}
    best = max(there, key=lambda arm: there[arm], default=None)
    return {"arm": best, "why": "the most successful arm"} if best is not None else None


def _level(alone: Json | None) -> float | None:
    """What an arm alone would come to: by its attempts where there are some, else as foretold."""
    if alone is None:
        return None
    corrected = alone["corrected"]
    level: float = corrected["value"]["estimate"] if corrected is not None else alone["foretold"]
    return level or None


def _frontier(of_arms: Sequence[Json]) -> list[str]:
    """The arms that no coin between others beats, the cheapest first."""
    points = [
        Point(ladder=(i,), success=success, cost_usd=cost_usd)
        for i, arm in enumerate(of_arms)
        if (success := _level(arm["success"])) is not None and (cost_usd := _level(arm["cost_usd"])) is not None
    ]
    return [of_arms[point.ladder[0]]["arm"] for point in frontier.hull(points)]


# --- forecasts ------------------------------------------------------------------------------------------------------


def _forecasts(sums: Sums) -> Json:
    """What was foretold of attempts against what became of them, over all arms, and by how likely success was."""
    bins = []
    for attempts, foretold, real, squared in sums.bins.tolist():
        if attempts >= 1:
            mean = real / attempts
            stderr = math.sqrt(max(squared / attempts - mean * mean, 0.0) / attempts)
            shown = intervals.student(mean, stderr, max(attempts - 1, 1.0)).clipped(0.0, 1.0)
            bins.append({"attempts": round(attempts), "foretold": foretold / attempts, "real": _interval(shown)})
    return {**_together(sums), "bins": bins, "width": 1.0 / BINS}


def _together(sums: Sums) -> Json:
    """Of all arms' attempts."""
    return _foretold(*(sums.all_errors(dollars=dollars) for dollars in (False, True)))


def _foretold(success: Errors, usd: Errors) -> Json:
    told: Json = {"success": None, "cost_usd": None}
    if (n := success.attempts) >= 1:
        real = success.real / n
        squared = success.real_squared - 2.0 * success.product + success.foretold_squared
        told["success"] = {
            "attempts": round(n),
            "foretold": success.foretold / n,
            "real": real,
            "brier": squared / n,
            # Had one rate been foretold of all.
            "constant": max(success.real_squared / n - real * real, 0.0),
        }
    if (n := usd.attempts) >= 1:
        told["cost_usd"] = {"attempts": round(n), "foretold": usd.foretold / n, "real": usd.real / n}
    return told


# --- over time ------------------------------------------------------------------------------------------------------


def _step(at: int, sums: Sums, arms: Sequence[str]) -> Json:
    begun = sums.of_arms("begun").tolist()
    told, billed, widths, attempts = (sums.whole(name) for name in ("told", "billed", "widths", "attempts"))
    return {
        "at": at,
        "sessions": round(sums.whole("sessions")),
        "told": round(told),
        "success": sums.whole("success") / told if told else None,
        "cost_usd": sums.whole("cost_usd") / billed if billed else None,
        "spent_usd": sums.whole("cost_usd"),
        "escalated": sums.whole("escalated") / sums.whole("sessions") if sums.whole("sessions") else None,
        "begun": {arm: round(n) for arm, n in zip(arms, begun, strict=False) if n},
        "width": sums.whole("width") / widths if widths else None,
        "budget_price": sums.whole("budget_price") / attempts if attempts else 0.0,
        "forecasts": _together(sums),
    }
