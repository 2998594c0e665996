"""Replay: how other policies would have done on a log, and whether they pass a gate."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bandit import epoch_file, gate, policy_file
from bandit import policy as policies
from bandit.errors import InvalidInput
from bandit.events import PolicyPut, RouterPut
from bandit.gate import Condition
from bandit.intervals import Interval
from bandit.learner import Learner
from bandit.types import Mode, RouterSettings
from sim.candidates import Candidate, Learned, rule
from sim.evaluation import Evaluation
from sim.logged import Log
from sim.replay_result import (
    CandidateResult,
    Diagnostics,
    Figure,
    Figures,
    GateResult,
    Missing,
    ReplayResult,
)
from sim.scoring import evaluate_all
from sim.trust import Trust

_LEAST_SAMPLE = 500
"""Effective sessions below which no gate decides: intervals by the central limit theorem covered 79 % at 78."""
_WEIGHT_Z, _LOTTERY_P = 4.0, 1e-5
"""A log is not trusted where the mean weight is further from 1 than so many standard errors, or its arms differ so
improbably from their propensities."""
_MOST_TORN = 0.01
"""Share of sessions left out, for they are not whole, beyond which a log is not trusted: long ones are lost sooner."""
_MOST_UNEQUAL = 0.02
"""By how much outcomes may be missing more often, or less, of the candidate's sessions than of the baseline's: as much
as a gate's usual margin."""
_RESTS_ON = {"success": ("success",), "cost": ("cost",), "utility": ("success", "cost")}
"""What has to be told for a metric to be known."""
_LOGGED = "logged"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be replayed."""

    candidates: Sequence[str]
    """Specifications, policy files, or epoch files."""
    baseline: str = _LOGGED
    value_usd: float = 5.0
    gate: str | None = None


def replay(
    log: Log,
    asked: Asked,
    *,
    jobs: int = 1,
    ray: str | None = None,
    on_sessions: Callable[[int], None] = lambda _n: None,
) -> ReplayResult:
    """Scores every candidate. `jobs` and `ray` are as in `workers.working` and change nothing in it; `on_sessions` is
    told of sessions that are done.

    Raises InvalidInput naming `--candidate`, `--baseline`, `--gate`, `--ray` or `--events`.
    """
    conditions = gate.parse(asked.gate, "--gate") if asked.gate is not None else None
    baseline = None
    if asked.baseline != _LOGGED:
        baseline = candidate(log, asked.baseline, asked.value_usd, "--baseline")
    candidates = [candidate(log, name, asked.value_usd, "--candidate") for name in asked.candidates]
    found = evaluate_all(
        log, candidates, value_usd=asked.value_usd, baseline=baseline, jobs=jobs, ray=ray, on_sessions=on_sessions
    )
    of_log = _doubts_of_log(log, baseline)
    results = tuple(
        _result(each, evaluation, conditions, of_log) for each, evaluation in zip(candidates, found, strict=True)
    )
    first = found[0]
    return ReplayResult(
        events=log.events,
        decisions=log.decisions,
        sessions=log.sessions,
        value=asked.value_usd,
        candidates=results,
        baseline=_figures(first, first.baseline_level, name=asked.baseline, bounded=True),
        diagnostics=_worst([result.diagnostics for result in results]),
    )


def candidate(log: Log, name: str, value_usd: float, flag: str) -> Candidate:
    """What a name stands for on a log: a fixed rule, a policy fitted on its first half, or a saved epoch.

    Raises InvalidInput naming `flag`.
    """
    try:
        if _is_file(name) and not name.endswith(".toml"):
            return _saved(log, name, value_usd)
        settings = _settings(log, name, value_usd)
        policy = policies.parse(settings.policy)
        fixed = rule(name, policy, log.arms, settings.max_attempts)
        return fixed if fixed is not None else _fitted(log, name, settings)
    except InvalidInput as error:
        if error.field.startswith("--"):
            raise
        raise InvalidInput(flag, f"{name!r}: {error.why}") from error


def _settings(log: Log, name: str, value_usd: float) -> RouterSettings:
    """What the router of a policy would be set to: as in the log, but for what the policy sets itself."""
    logged = log.settings
    mine = msgspec.structs.replace(
        logged,
        policy=name,
        policy_version=f"replay {name}",
        mode=Mode.LIVE,
        objective=msgspec.structs.replace(logged.objective, value_usd=value_usd),
    )
    if not name.endswith(".toml"):
        return mine
    try:
        said = policy_file.parse(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput("policy", f"cannot be read: {error}") from error
    return said.over(msgspec.structs.replace(mine, policy=said.policy))


def _saved(log: Log, name: str, value_usd: float) -> Candidate:
    """A saved epoch, as it is."""
    try:
        learner = epoch_file.resume(Path(name).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInput("epoch", f"cannot be read: {error}") from error
    settings, vintage = learner.configuration.settings, learner.vintage
    assert settings is not None and vintage is not None, "an epoch file holds both"
    objective = msgspec.structs.replace(settings.objective, value_usd=value_usd)
    return Learned(
        name=name,
        begins=0,
        settings=msgspec.structs.replace(settings, objective=objective),
        vintage=vintage,
        log=log,
        # Whether the log is that of the epoch's own server no one can tell: its numbers and its router are the same.
        learned=log.begun_by(settings.id, learner.epoch_seq),
    )


def _fitted(log: Log, name: str, settings: RouterSettings) -> Candidate:
    """A policy that learns: fitted on the first half of the sessions, frozen for the second."""
    half = log.sessions // 2
    learner = Learner()
    for number, at_us, session_id, event in log.events_until(half):
        if isinstance(event, PolicyPut):
            continue
        if isinstance(event, RouterPut):
            # The router's seed stays; what decides is the candidate.
            event = RouterPut(settings=msgspec.structs.replace(settings, seed=event.settings.seed))
        learner.feed(number, event, session_id, at_us)
    if learner.vintage is None:
        raise InvalidInput("policy", "the first half of the log does not say what the router was set to")
    return Learned(name=name, begins=half, settings=settings, vintage=learner.vintage, log=log)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


# --- results -----------------------------------------------------------------------------------------------------


def _result(
    candidate: Candidate, evaluation: Evaluation, conditions: tuple[Condition, ...] | None, of_log: Sequence[str]
) -> CandidateResult:
    own = _figures(evaluation, evaluation.level, bounded=True)
    trust = evaluation.trust
    of_all = (*of_log, *_learned(candidate), *_doubts(evaluation))
    doubts = (*of_all, *_untold(evaluation, ("success", "cost")))
    return CandidateResult(
        name=candidate.name,
        success_rate=own.success_rate,
        cost_usd_per_session=own.cost_usd_per_session,
        utility_per_session=own.utility_per_session,
        estimator="dr",
        sessions=trust.sessions,
        difference=_figures(evaluation, evaluation.difference),
        others={name: _figures(evaluation, functools.partial(evaluation.other, name)) for name in evaluation.others},
        gate=None if conditions is None else _judged(evaluation, conditions, of_all),
        diagnostics=_diagnostics(trust, doubts),
        missing=_missing(evaluation) if trust.missing_rewards else None,
    )


def _figures(
    evaluation: Evaluation, interval: Callable[[str], Interval], *, name: str | None = None, bounded: bool = False
) -> Figures:
    """The three; `bounded`: success lies in [0, 1] and dollars are not negative, and so do their intervals."""
    success, cost, utility = (_figure(evaluation, interval(metric)) for metric in ("success", "cost", "utility"))
    if bounded:
        success, cost = _held(success, 0.0, 1.0), _held(cost, 0.0, float("inf"))
    return Figures(name=name, success_rate=success, cost_usd_per_session=cost, utility_per_session=utility)


def _figure(evaluation: Evaluation, once: Interval) -> Figure:
    anytime = evaluation.anytime(once)
    return Figure(
        estimate=once.estimate, low=once.low, high=once.high, anytime_low=anytime.low, anytime_high=anytime.high
    )


def _held(figure: Figure, lowest: float, highest: float) -> Figure:
    """The figure with the ends of its intervals held to where it can be."""
    once = Interval(figure.estimate, figure.low, figure.high).clipped(lowest, highest)
    anytime = Interval(figure.estimate, figure.anytime_low, figure.anytime_high).clipped(lowest, highest)
    return Figure(
        estimate=once.estimate, low=once.low, high=once.high, anytime_low=anytime.low, anytime_high=anytime.high
    )


def _judged(evaluation: Evaluation, conditions: tuple[Condition, ...], of_all: Sequence[str]) -> GateResult:
    asked = {metric for condition in conditions for metric in _RESTS_ON[condition.metric]}
    if doubts := (*of_all, *_untold(evaluation, sorted(asked, reverse=True))):
        return GateResult(verdict="undecided", why="; ".join(doubts))

    def excess(condition: Condition) -> Interval:
        interval = evaluation.difference(condition.metric, condition.factor)
        return Interval(*(end - condition.offset for end in interval))

    verdict, why = gate.judge(conditions, excess)
    return GateResult(verdict=verdict, why=why)


# --- whether the log can tell --------------------------------------------------------------------------------------


def _doubts_of_log(log: Log, baseline: Candidate | None) -> list[str]:
    """Why the log can tell of no candidate, in words."""
    doubts = []
    begun = log.sessions + log.torn_sessions
    if log.torn_sessions > _MOST_TORN * begun:
        doubts.append(f"of {log.torn_sessions} of {begun} sessions not all decisions are there")
    if baseline is not None:
        doubts += [f"of the baseline: {doubt}" for doubt in _learned(baseline)]
    return doubts


def _learned(candidate: Candidate) -> list[str]:
    """Whether a policy looks too good, for it is scored on what it has learned from, in words."""
    if not candidate.learned:
        return []
    return [f"it may have learned from {candidate.learned} of these sessions: give the policy's name, or a later log"]


def _doubts(evaluation: Evaluation) -> list[str]:
    """Why the log cannot tell of a candidate, or of its baseline, in words."""
    trust, baseline = evaluation.trust, evaluation.baseline_trust
    doubts = _unsupported(trust)
    if baseline is not None:
        doubts += [f"of the baseline: {doubt}" for doubt in _unsupported(baseline)]
    if trust.lottery_p < _LOTTERY_P:
        doubts.append(f"the logged propensities are not those of what was taken (p = {trust.lottery_p:.1g})")
    return doubts


def _unsupported(trust: Trust) -> list[str]:
    doubts = []
    if trust.effective_sample_size < _LEAST_SAMPLE:
        doubts.append(f"the effective sample is {trust.effective_sample_size:.0f} sessions, less than {_LEAST_SAMPLE}")
    if trust.unsupported_decisions:
        doubts.append(f"at {trust.unsupported_decisions} decisions it may take what the log never would have")
    if abs(trust.mean_weight_z) > _WEIGHT_Z:
        doubts.append(f"the mean weight is {trust.mean_weight:.3f}, {abs(trust.mean_weight_z):.1f} errors from 1")
    if trust.imbalance_z > _WEIGHT_Z:
        doubts.append(
            f"its weights go with what is foretold of sessions, {trust.imbalance_z:.1f} errors: propensities are not "
            "those of every context"
        )
    return doubts


def _untold(evaluation: Evaluation, metrics: Sequence[str]) -> list[str]:
    """Why what was not told of some metrics, success or cost, leaves the log unable to tell, in words."""
    doubts = []
    for metric in metrics:
        mine, theirs, gap = evaluation.untold(metric)
        if mine.estimate > 0.0 and evaluation.told_sample(metric) < _LEAST_SAMPLE:
            doubts.append(
                f"{metric} was told in an effective sample of {evaluation.told_sample(metric):.0f} sessions, less than "
                f"{_LEAST_SAMPLE}"
            )
        if abs(gap.estimate) > _MOST_UNEQUAL and not gap.low <= 0.0 <= gap.high:
            doubts.append(
                f"{metric} was not told in {mine.estimate:.1%} of its sessions, but in {theirs.estimate:.1%} of the "
                "baseline's"
            )
    return doubts


def _diagnostics(trust: Trust, doubts: Sequence[str]) -> Diagnostics:
    return Diagnostics(
        effective_sample_size=trust.effective_sample_size,
        max_weight=trust.max_weight,
        mean_weight=trust.mean_weight,
        min_propensity=trust.min_propensity,
        unsupported_decisions=trust.unsupported_decisions,
        missing_rewards=trust.missing_rewards,
        missing_costs=trust.missing_costs,
        lottery_p=trust.lottery_p,
        doubts=tuple(doubts),
    )


def _worst(all_of_them: Sequence[Diagnostics]) -> Diagnostics:
    """Of several candidates' the one of the least effective sample."""
    return min(all_of_them, key=lambda diagnostics: diagnostics.effective_sample_size)


def _missing(evaluation: Evaluation) -> Missing:
    """What success and utility would be, had every success that was not told been a failure, or all of them none."""
    low, high = evaluation.if_missing(0.0), evaluation.if_missing(1.0)
    base = evaluation.baseline.utility.value
    span = high.utility.value - low.utility.value
    return Missing(
        success_if_failures=low.success.value,
        success_if_successes=high.success.value,
        tipping_point=(base - low.utility.value) / span if span > 0.0 else None,
    )
