"""Answers as tables: status, arms, a choice."""

import time
from collections.abc import Sequence

from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server.console import learning
from server.console.learning import Evidence
from server.console.output import Output, moment
from server.console.state import RouterState, State
from server.words import dollars, exact, percent, plain

_NARROW = 60
"""Below so many columns a table keeps to what matters most."""
_ENOUGH = 30
"""Outcomes before a rate says anything."""

_MODES = {
    admin_pb2.MODE_APPRENTICE: "apprentice: the baseline decides, and the policy learns from it",
    admin_pb2.MODE_LIVE: "live: the policy decides and learns",
    admin_pb2.MODE_FROZEN: "frozen: the policy decides and does not learn",
}

REASONS = {
    pb.SELECT_REASON_SAMPLED: "drawn from the chances below",
    pb.SELECT_REASON_STICKY: "the session's running attempt goes on; no new decision",
    pb.SELECT_REASON_PINNED: "the caller named it, which wins over everything but an arm that is down or incapable",
    pb.SELECT_REASON_ONLY_ELIGIBLE: "no other arm was eligible",
    pb.SELECT_REASON_BASELINE: "the router's baseline takes every session in apprentice mode",
    pb.SELECT_REASON_ESCALATED: "the attempt before was left; drawn from the chances below",
    pb.SELECT_REASON_REROUTED_UNAVAILABLE: "the arm before went down; drawn from the chances below",
    pb.SELECT_REASON_REROUTED_CAPABILITY: "the arm before cannot do what is required; drawn from the chances below",
    pb.SELECT_REASON_REROUTED_POLICY: "the arm before is not allowed any more; drawn from the chances below",
}
"""Why an arm was taken, in words."""


# --- status ---------------------------------------------------------------------------------------------------------


def status(server: str, state: State, output: Output) -> None:
    """The whole of `pointsman status`."""
    down = [f"{name} {plain(said)}" for name, said in state.services.items() if said != "SERVING"]
    health = "all services up" if not down else f"not serving: {', '.join(down)}"
    output.line(f"{plain(server)}: {health}", style="green" if not down else "red")
    if not state.routers:
        output.line("no routers")
    for router in state.routers:
        output.line()
        _router(router, output)


def _router(router: RouterState, output: Output) -> None:
    message = router.message
    out = [arm for arm in router.arms if not arm.retired and arm.HasField("down_until")]
    retired = sum(arm.retired for arm in router.arms)
    up = len(router.arms) - retired - len(out)
    output.line(f"router {plain(message.id)}", style="bold")
    output.facts(
        [
            ("mode", _MODES.get(message.mode, "unknown")),
            ("policy", f"{plain(message.policy)}, version {plain(message.policy_version)}"),
            *(("", _tried(candidate)) for candidate in message.candidates),
            ("objective", _objective(message.settings.objective, message.settings.max_attempts)),
            ("arms", f"{up} up, {len(out)} down, {retired} retired"),
            *(("", f"{plain(arm.id)}: {_down(arm)}") for arm in out),
            ("budget", _budget(message)),
            (
                "epoch",
                f"{message.epoch:,} ({plain(message.epoch_hash)[:12]})" if message.epoch else "0: nothing learned",
            ),
            ("log", f"{message.last_sequence:,} events; learned from those up to {message.learned_sequence:,}"),
            ("learning?", _verdict(message, router.evidence)),
            *(("", said) for said in _shown(router.evidence)),
        ]
    )


def _tried(candidate: admin_pb2.Policy) -> str:
    """A policy in shadow or the canary, and what the guard says."""
    name = f"{plain(candidate.policy)}, version {plain(candidate.policy_version)}"
    said = f": {plain(candidate.verdict)}" if candidate.verdict else ""
    if candidate.stage == admin_pb2.POLICY_STAGE_CANARY:
        return f"canary {name}, {percent(candidate.canary_share)} of new sessions{said}"
    return f"shadow {name}{said}"


def _objective(objective: admin_pb2.Objective, max_attempts: int) -> str:
    said = [f"a success is worth {exact(objective.value_usd)}"]
    if objective.HasField("latency_usd_per_second") and objective.latency_usd_per_second:
        said.append(f"a second costs {exact(objective.latency_usd_per_second)}")
    if objective.HasField("quality_floor"):
        of_best = " of the best arm's" if objective.quality_floor_relative else ""
        said.append(f"the cheapest arm whose success reaches {percent(objective.quality_floor)}{of_best}")
    if objective.HasField("session_cap_usd"):
        said.append(f"at most {exact(objective.session_cap_usd)} a session")
    if max_attempts:
        said.append(f"at most {max_attempts} attempt{'s' if max_attempts > 1 else ''} a session")
    return "; ".join(said)


def _budget(message: admin_pb2.Router) -> str:
    objective = message.settings.objective
    if not objective.HasField("budget_usd"):
        return ""
    said = f"{exact(objective.budget_usd)} per {duration(objective.budget_period_seconds).removeprefix('1 ')}"
    if message.HasField("budget_spent_usd"):
        said += f", {dollars(message.budget_spent_usd)} of it spent or expected"
    return f"{said}; a dollar counts as {dollars(1 + message.budget_price)}"


def _verdict(message: admin_pb2.Router, evidence: Evidence | None) -> str:
    """Whether it learns, and what that is seen by."""
    behind = message.last_sequence - message.learned_sequence
    lag = f"behind the log by {behind:,} event{'s' if behind != 1 else ''}" if behind else "level with the log"
    if message.mode == admin_pb2.MODE_FROZEN:
        return f"no, it is frozen; {lag}"
    if not message.epoch:
        return f"not yet: it learns in blocks of outcomes, and the first is not full; {lag}"
    if evidence is None or evidence.success is None or evidence.success.attempts < _ENOUGH:
        return f"yes, {message.epoch:,} epochs so far; {lag}"
    surprise = learning.surprise(evidence.success)
    if abs(surprise) <= 3:
        fit = "and its predictions hold"
    else:
        side = "above" if surprise > 0 else "below"
        fit = f"but success is {side} what it predicts by {abs(surprise):.1f} standard errors"
    return f"yes, {message.epoch:,} epochs so far, {fit}; {lag}"


def _shown(evidence: Evidence | None) -> list[str]:
    """What recent attempts show of the predictions."""
    if evidence is None:
        return []
    if evidence.success is None and evidence.cost_usd is None:
        return [f"of {evidence.attempts:,} recent attempts, none has both a prediction and an outcome"]
    said = []
    if (success := evidence.success) is not None:
        said.append(
            f"success of {success.attempts:,} recent attempts: {percent(success.predicted)} predicted, "
            f"{percent(success.realised)} realised"
        )
    if (cost := evidence.cost_usd) is not None:
        said.append(
            f"cost of {cost.attempts:,} recent attempts: {dollars(cost.predicted)} predicted, "
            f"{dollars(cost.realised)} realised"
        )
    if evidence.success_error is not None and evidence.constant_error is not None:
        said.append(
            f"squared error of the success: {evidence.success_error:.3f}; "
            f"{evidence.constant_error:.3f} had it told no session or arm from another"
        )
    if evidence.width_before is not None and evidence.width_now is not None:
        said.append(
            f"width of the 90 % intervals: {100 * evidence.width_before:.0f} points in the older half of them, "
            f"{100 * evidence.width_now:.0f} in the newer"
        )
    return said


# --- arms -----------------------------------------------------------------------------------------------------------


def arms(found: Sequence[admin_pb2.Arm], output: Output) -> None:
    """A line an arm."""
    if not found:
        output.line("no arms")
        return
    wide = output.width >= _NARROW
    cans = wide and any(arm.capabilities for arm in found)
    windows = wide and any(arm.HasField("context_window_tokens") for arm in found)
    headings = ["arm", *_if(cans, "can"), "state", "$ in", "$ out", *_if(wide, "$ cached"), *_if(windows, "context")]
    rows = []
    for arm in found:
        price_in, price_out, price_cached = _prices(arm)
        can = plain(", ".join(arm.capabilities))
        row = [plain(arm.id), *_if(cans, can), _state(arm), price_in, price_out]
        rows.append([*row, *_if(wide, price_cached), *_if(windows, _context(arm))])
    output.table(headings, rows, words=3 if cans else 2)
    output.line("Prices in dollars per million tokens.", style="dim")


def arm(found: admin_pb2.Arm, output: Output) -> None:
    """All that is known of an arm."""
    price_in, price_out, price_cached = _prices(found)
    down = {each.endpoint: f"down until {moment(each.until)}{_why(each.why)}" for each in found.endpoints_down}
    output.line(plain(found.id), style="bold")
    output.facts(
        [
            ("provider", plain(found.provider)),
            ("state", _state(found)),
            ("prices", f"${price_in} in, ${price_out} out, ${price_cached} cached, per million tokens"),
            ("can", plain(", ".join(found.capabilities))),
            ("context", f"{found.context_window_tokens:,} tokens" if found.HasField("context_window_tokens") else ""),
            *(("endpoint", f"{plain(name)}: {down.get(name, 'up')}") for name in found.endpoints),
            ("starts as", plain(found.predecessor)),
        ]
    )
    if found.figures:
        output.line()
        output.table(
            ["figures to start from", "success", "$ a session"],
            [
                [
                    plain(figure.category) or "all else",
                    percent(figure.success_rate),
                    dollars(figure.cost_usd_mean) if figure.HasField("cost_usd_mean") else "–",
                ]
                for figure in found.figures
            ],
        )


def _prices(found: admin_pb2.Arm) -> tuple[str, str, str]:
    if not found.HasField("prices"):
        return "?", "?", "?"
    prices = found.prices
    cached = (
        prices.cached_usd_per_million if prices.HasField("cached_usd_per_million") else prices.input_usd_per_million
    )
    return f"{prices.input_usd_per_million:g}", f"{prices.output_usd_per_million:g}", f"{cached:g}"


def _context(found: admin_pb2.Arm) -> str:
    if not found.HasField("context_window_tokens"):
        return "–"
    tokens = found.context_window_tokens
    return f"{tokens / 1000:,.0f}k" if tokens >= 1000 else str(tokens)


def _state(found: admin_pb2.Arm) -> str:
    if found.retired:
        return "retired"
    if found.HasField("down_until"):
        return _down(found)
    out = len(found.endpoints_down)
    return f"up, but {out} of {len(found.endpoints)} endpoints down" if out else "up"


def _down(found: admin_pb2.Arm) -> str:
    left = found.down_until.seconds - time.time()
    back = f" (in {duration(left)})" if left > 0 else ""
    return f"down until {moment(found.down_until)}{back}{_why(found.down_why)}"


def _why(why: str) -> str:
    return f": {plain(why)}" if why else ""


# --- a choice -------------------------------------------------------------------------------------------------------


def choice(response: pb.SelectResponse, output: Output) -> None:
    """The arm, on a line of its own, and why."""
    output.line(plain(response.arm), style="bold")
    output.facts(
        [
            ("why", REASONS.get(response.reason, "unknown")),
            ("chance", percent(response.propensity)),
            ("endpoint", plain(response.endpoint)),
            ("if it fails", plain(" > ".join(response.ladder)) or "no further attempt planned"),
            ("session", f"{plain(response.session_id)}, attempt {response.attempt}"),
            ("decision", plain(response.decision_id)),
            ("decided by", f"policy version {plain(response.policy_version)}, epoch {response.epoch:,}"),
        ]
    )
    output.line()
    scores(response.scores, response.arm, output)


def escalated(response: pb.EscalateResponse, output: Output) -> None:
    """The next choice, or that there is none."""
    if response.HasField("next"):
        choice(response.next, output)
        return
    output.line("exhausted", style="bold")
    stop = response.exhausted.stop_propensity
    close = f"; a close call, drawn with a chance of {percent(stop)}" if stop < 1 else ""
    output.line(f"No further attempt is worth its price, or none is left{close}. The session can still be rewarded.")


def scores(found: Sequence[pb.ArmScore], taken: str, output: Output) -> None:
    """What the decision saw of each arm, the likeliest first."""
    wide = output.width >= _NARROW
    order = sorted(range(len(found)), key=lambda i: (-found[i].propensity, not found[i].eligible))
    shown = [i for i in order if found[i].eligible or found[i].propensity > 0]
    any_worth = any(score.HasField("worth_usd") for score in found)
    headings = ["arm", "chance", "success", *_if(wide, "90 %"), "cost", *_if(any_worth, "worth")]
    rows = []
    for i in shown:
        score = found[i]
        success = percent(score.success_mean) if score.HasField("success_mean") else "–"
        cost = dollars(score.cost_usd) if score.HasField("cost_usd") else "–"
        row = [plain(score.arm), percent(score.propensity), success, *_if(wide, _interval(score)), cost]
        rows.append([*row, *_if(any_worth, dollars(score.worth_usd) if score.HasField("worth_usd") else "–")])
    taken_row = next((row for row, i in enumerate(shown) if found[i].arm == taken), None)
    output.table(headings, rows, chosen=taken_row)
    barred = [score for score in found if not score.eligible]
    if barred:
        output.line()
        output.line("not eligible", style="dim")
        output.facts([(plain(score.arm), plain(score.ineligible_reason)) for score in barred])


def _interval(score: pb.ArmScore) -> str:
    if not score.HasField("success_low") or not score.HasField("success_high"):
        return "–"
    return f"{100 * score.success_low:.0f} to {100 * score.success_high:.0f} %"


def _if(shown: bool, cell: str) -> list[str]:
    """A column that may be left out."""
    return [cell] if shown else []


def duration(seconds: float) -> str:
    """A length of time, for people."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or seconds == length:
            count = round(seconds / length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds:.0f} seconds"
