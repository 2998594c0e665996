"""Why this model? A decision's record, told in words and numbers."""

from collections.abc import Sequence

from bandit import record
from bandit.events import Decided
from bandit.types import Objective, Situation
from pointsman.v1 import routing_pb2 as pb
from server.console import tables
from server.console.output import Output, dollars, exact, moment, percent, plain

_LONGEST_VALUE = 60
_CERTAIN = (pb.SELECT_REASON_PINNED, pb.SELECT_REASON_ONLY_ELIGIBLE, pb.SELECT_REASON_BASELINE)

_LOTS = {
    pb.SELECT_REASON_SAMPLED: "It was drawn by lot",
    pb.SELECT_REASON_ESCALATED: "The attempt before was left, and this arm was drawn by lot among those not tried yet",
    pb.SELECT_REASON_REROUTED_UNAVAILABLE: "The arm before went down, and this one was drawn by lot",
    pb.SELECT_REASON_REROUTED_CAPABILITY: "The arm before cannot do what is required, and this one was drawn by lot",
    pb.SELECT_REASON_REROUTED_POLICY: "The arm before is not allowed any more, and this one was drawn by lot",
}

_LEFT = {
    pb.ESCALATION_REASON_VERIFIED_FAILURE: "found wrong",
    pb.ESCALATION_REASON_STRUGGLING: "was not getting anywhere",
    pb.ESCALATION_REASON_USER_REQUEST: "the user wanted another arm",
    pb.ESCALATION_REASON_CAPABILITY: "the arm lacked an ability",
    pb.ESCALATION_REASON_UNAVAILABLE: "the arm did not answer",
    pb.ESCALATION_REASON_POLICY: "the arm was no longer allowed",
}


def session(found: pb.GetSessionResponse, decisions: Sequence[pb.GetDecisionResponse], output: Output) -> None:
    """A session's course, then each of its decisions."""
    state = "closed" if found.final else "exhausted" if found.exhausted else "open"
    count = len(found.attempts)
    said = [f"{count} attempt{'s' if count != 1 else ''}", state]
    if found.HasField("success"):
        said.append(f"success {percent(found.success)}")
    if found.HasField("cost_usd"):
        said.append(dollars(found.cost_usd))
    output.line(f"session {plain(found.session_id)}: {', '.join(said)}", style="bold")
    if found.closed:
        output.line("It was closed because no reward came in time; a late one still counts.")
    if found.erased:
        output.line("Its features have been erased on request.")
    output.line()
    output.table(
        ["attempt", "arm", "left because", "success", "cost"],
        [
            [
                str(attempt.attempt),
                plain(attempt.arm),
                _LEFT.get(attempt.left_reason, "–"),
                percent(attempt.outcome.success) if attempt.outcome.HasField("success") else "–",
                dollars(attempt.outcome.cost_usd) if attempt.outcome.HasField("cost_usd") else "–",
            ]
            for attempt in found.attempts
        ],
        words=3,
    )
    for each in decisions:
        output.line()
        output.line("─" * min(output.width, 80), style="dim")
        decision(each, output)


def decision(found: pb.GetDecisionResponse, output: Output) -> None:
    """One decision: why, what was known, what was believed of each arm, under which rules, and how it went."""
    situation = _situation(found)
    worth = _worth(found, situation)
    output.line(f"Why {plain(found.arm)}?", style="bold")
    output.line(
        f"Attempt {found.attempt} of session {plain(found.session_id)}, decided {moment(found.at)}.", style="dim"
    )
    output.line()
    for said in (_lot(found, situation), _comparison(found, situation, worth), _plan(found)):
        if said:
            output.line(said)
    output.line()
    output.line("What was known", style="bold")
    output.facts(_knowledge(found, situation))
    output.line()
    output.line("What was believed of each arm", style="bold")
    tables.scores(found.scores, found.arm, output, worth)
    output.line()
    output.line("Who decided, and on what terms", style="bold")
    output.facts(_terms(found, situation))
    output.line()
    output.line("How it went", style="bold")
    output.facts(_outcome(found.outcome))
    output.line()
    if found.confirmed:
        output.line("Confirmed: recomputed from the log, the decision comes out the same.", style="green")
    else:
        output.line(f"Not confirmed: {plain(found.unconfirmed_reason)}.", style="yellow")


def _situation(found: pb.GetDecisionResponse) -> Situation | None:
    """What the logged event says beyond the response; None where it is of another version than this program."""
    try:
        event = record.decode("decided", found.event_json.encode(), b"").event
    except ValueError:
        return None
    return event.decision.situation if isinstance(event, Decided) else None


def _worth(found: pb.GetDecisionResponse, situation: Situation | None) -> list[float | None]:
    """By arm, dollars to expect of the attempt alone: value x success - (1 + price of the budget) x cost.

    None where that is not what the router is out for: with a quality floor.
    """
    if situation is None or situation.objective.quality_floor is not None:
        return [None] * len(found.scores)
    value, price = situation.objective.value_usd, 1.0 + situation.budget_price
    return [
        value * score.success_mean - price * score.cost_usd
        if score.HasField("success_mean") and score.HasField("cost_usd")
        else None
        for score in found.scores
    ]


def _lot(found: pb.GetDecisionResponse, situation: Situation | None) -> str:
    """How the arm came to be taken."""
    if found.reason == pb.SELECT_REASON_PINNED:
        return "The caller named it. An explicit pick wins over everything but an arm that is down or incapable."
    if found.reason == pb.SELECT_REASON_ONLY_ELIGIBLE:
        return "No other arm was eligible."
    if found.reason == pb.SELECT_REASON_BASELINE:
        return "The router was in apprentice mode, in which its baseline arm takes every session."
    said = f"{_LOTS.get(found.reason, 'It was taken')}, with a chance of {percent(found.propensity)}."
    if situation is None or not found.policy.startswith("thompson"):
        return f"{said} The chances are those of policy {plain(found.policy)}."
    return (
        f"{said} An arm's chance is the share of {situation.draws} draws from what is believed in which it was best, "
        f"with {percent(situation.exploration_floor)} of all spread evenly over the eligible arms, so that "
        "each is still learned of."
    )


def _comparison(found: pb.GetDecisionResponse, situation: Situation | None, worth: Sequence[float | None]) -> str:
    """How it stands among the eligible arms by expectation."""
    if situation is not None and situation.objective.quality_floor is not None and found.reason not in _CERTAIN:
        return (
            f"In each draw the best is the cheapest arm whose success reaches {_floor(situation.objective)}, or the "
            "strongest where none does."
        )
    eligible = {
        score.arm: value
        for score, value in zip(found.scores, worth, strict=True)
        if value is not None and (score.eligible or score.arm == found.arm)
    }
    if situation is None or found.arm not in eligible or len(eligible) < 2:
        return ""
    mine = eligible[found.arm]
    score = next(score for score in found.scores if score.arm == found.arm)
    price = f" x {1 + situation.budget_price:.2f}" if situation.budget_price else ""
    said = (
        f"The attempt alone is worth {dollars(mine)} by expectation ({exact(situation.objective.value_usd)} x "
        f"{percent(score.success_mean)} - {dollars(score.cost_usd)}{price}"
        f"{', latency apart' if situation.objective.latency_usd_per_second else ''})"
    )
    best = max(eligible, key=lambda arm: eligible[arm])
    if best == found.arm:
        return f"{said}, the most of {len(eligible)} eligible arms."
    rank = 1 + sum(value > mine for value in eligible.values())
    said += f", number {rank} of {len(eligible)} eligible arms; {plain(best)} is first with {dollars(eligible[best])}."
    if found.reason in _CERTAIN:
        return said
    if found.ladder:
        said += (
            " A plan counts what comes after a failure too, so that a cheap arm may be the better one to begin with."
        )
    return said


def _floor(objective: Objective) -> str:
    share = percent(objective.quality_floor or 0.0)
    return f"{share} of the best arm's" if objective.quality_floor_relative else share


def _plan(found: pb.GetDecisionResponse) -> str:
    said = f"If it fails: {plain(', then '.join(found.ladder))}." if found.ladder else "No attempt after it is planned."
    if found.stop_propensity > 0:
        said += f" Giving up instead had a chance of {percent(found.stop_propensity)}."
    return said


def _knowledge(found: pb.GetDecisionResponse, situation: Situation | None) -> list[tuple[str, str]]:
    """Features and demands."""
    facts = [(plain(name), _value(found.features[name])) for name in sorted(found.features)]
    if found.erased:
        facts.append(("features", "erased on request"))
    elif not facts:
        facts.append(("features", "none"))
    if situation is not None:
        needs = situation.requirements
        facts += [
            ("failed before", plain(", ".join(situation.alarmed))),
            ("allowed", plain(", ".join(sorted(needs.allow)))),
            ("denied", plain(", ".join(sorted(needs.deny)))),
            ("required", plain(", ".join(sorted(needs.capabilities)))),
            ("prompt", f"{needs.context_tokens:,} tokens" if needs.context_tokens else ""),
        ]
    return facts


def _value(value: pb.FeatureValue) -> str:
    match value.WhichOneof("value"):
        case "number":
            return f"{value.number:g}"
        case "flag":
            return "yes" if value.flag else "no"
        case "category":
            return _short(value.category)
        case "text":
            return f"“{_short(value.text)}”"
        case "embedding":
            return f"{len(value.embedding.values)} numbers"
    return "kept in hashed form only"


def _short(text: str) -> str:
    said = plain(text)
    return said if len(said) <= _LONGEST_VALUE else f"{said[:_LONGEST_VALUE]}…"


def _terms(found: pb.GetDecisionResponse, situation: Situation | None) -> list[tuple[str, str]]:
    learned = (
        f"epoch {found.epoch:,} ({plain(found.epoch_hash)[:12]})" if found.epoch else "epoch 0, nothing learned yet"
    )
    canary = f", which had a chance of {percent(found.policy_propensity)}" if 0 < found.policy_propensity < 1 else ""
    facts = [
        ("router", plain(found.router)),
        ("policy", f"{plain(found.policy)}, version {plain(found.policy_version)}{canary}"),
        ("learned state", learned),
    ]
    if situation is not None:
        offer = next((offer for offer in situation.offers if offer.arm == found.arm), None)
        price = offer.price if offer is not None else None
        objective = situation.objective
        second_usd = objective.latency_usd_per_second
        facts += [
            ("mode", situation.mode.value),
            ("a success", f"worth {exact(objective.value_usd)}"),
            ("a second", f"costs {exact(second_usd)}" if second_usd else ""),
            ("quality floor", _floor(objective) if objective.quality_floor is not None else ""),
            ("attempts left", f"{situation.attempts_left}, this one included"),
            (
                "its price",
                f"${price.input_usd:g} in, ${price.output_usd:g} out, per million tokens" if price is not None else "",
            ),
            ("cost cap", dollars(situation.cost_cap_usd) if situation.cost_cap_usd is not None else ""),
            ("budget", f"a dollar counted as {dollars(1 + situation.budget_price)}" if situation.budget_price else ""),
            ("read anew", f"{situation.reread_tokens:,} tokens" if situation.reread_tokens else ""),
        ]
    facts += [("endpoint", plain(found.endpoint)), ("decision", plain(found.decision_id))]
    return facts


def _outcome(outcome: pb.Outcome) -> list[tuple[str, str]]:
    usage = outcome.usage
    counts = (
        (usage.HasField("input_tokens"), usage.input_tokens, "in"),
        (usage.HasField("output_tokens"), usage.output_tokens, "out"),
        (usage.HasField("cached_tokens"), usage.cached_tokens, "cached"),
    )
    tokens = [f"{count:,} {name}" for known, count, name in counts if known]
    facts = [
        ("success", percent(outcome.success) if outcome.HasField("success") else ""),
        ("", "it was left for a reason that says nothing about success" if outcome.success_censored else ""),
        ("cost", dollars(outcome.cost_usd) if outcome.HasField("cost_usd") else ""),
        ("tokens", ", ".join(tokens)),
        ("seconds", f"{outcome.latency_seconds:,.1f}" if outcome.HasField("latency_seconds") else ""),
        ("served by", plain(outcome.served_arm)),
        *((plain(name), f"{outcome.metrics[name]:g}") for name in sorted(outcome.metrics)),
    ]
    return facts if any(value for _, value in facts) else [("outcome", "nothing was reported yet")]
