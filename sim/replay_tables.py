"""A replay's result for people: tables, and in words what may be believed of it."""

from rich.console import Console
from rich.markup import escape

from sim.replay_result import CandidateResult, Figure, Figures, ReplayResult
from sim.tables import say, table


def show(result: ReplayResult, console: Console) -> None:
    """Prints the tables and the sentences."""
    levels = table(
        f"{result.sessions} sessions, {result.decisions} decisions; a success worth ${result.value:g}; 95 % intervals",
        ("policy", "success %", "$ each", "utility"),
    )
    gaps = table(
        f"Minus the baseline, {escape(result.baseline.name or '')}, with 95 % intervals",
        ("policy", "success %", "$ each", "utility"),
    )
    for candidate in result.candidates:
        levels.add_row(escape(candidate.name), *map(escape, _three(candidate)))
        gaps.add_row(escape(candidate.name), *map(escape, _three(candidate.difference)))
    levels.add_row(f"baseline: {escape(result.baseline.name or '')}", *map(escape, _three(result.baseline)))
    others = table("Utility by other estimators", ("policy", *_estimators(result)))
    for candidate in result.candidates:
        others.add_row(
            escape(candidate.name),
            *(f"{figures.utility_per_session.estimate:.3f}" for figures in candidate.others.values()),
        )
    trust = table(
        "How far the log can tell", ("policy", "effective", "mean weight", "largest", "unsupported", "missing")
    )
    for candidate in result.candidates:
        told = candidate.diagnostics
        trust.add_row(
            escape(candidate.name),
            f"{told.effective_sample_size:.0f} of {candidate.sessions}",
            f"{told.mean_weight:.3f}",
            f"{told.max_weight:.1f}",
            f"{told.unsupported_decisions}",
            f"{told.missing_rewards}",
        )
    for each in (levels, gaps, others, trust):
        console.print(each, "")
    for candidate in result.candidates:
        say(console, sentence(candidate, result.baseline.name or ""))


def sentence(candidate: CandidateResult, baseline: str) -> str:
    """What was found of a candidate, in words."""
    gap = candidate.difference.utility_per_session
    if gap.low > 0.0:
        found = f"would have been ahead of {baseline} by ${gap.estimate:.3f} a session"
    elif gap.high < 0.0:
        found = f"would have been behind {baseline} by ${-gap.estimate:.3f} a session"
    else:
        found = f"cannot be told from {baseline}: ${gap.estimate:+.3f} a session"
    said = f"{candidate.name} {found} (95 %: {gap.low:+.3f} to {gap.high:+.3f})"
    if candidate.gate is not None:
        said += f"; gate: {candidate.gate.verdict}, {candidate.gate.why}"
    elif candidate.diagnostics.doubts:
        said += f"; beware: {'; '.join(candidate.diagnostics.doubts)}"
    return said + "."


def _estimators(result: ReplayResult) -> tuple[str, ...]:
    return tuple(result.candidates[0].others)


def _three(figures: Figures | CandidateResult) -> tuple[str, str, str]:
    return (
        _figure(figures.success_rate, 100.0, 1),
        _figure(figures.cost_usd_per_session, 1.0, 3),
        _figure(figures.utility_per_session, 1.0, 2),
    )


def _figure(figure: Figure, scale: float, digits: int) -> str:
    estimate, low, high = (f"{scale * x:.{digits}f}" for x in (figure.estimate, figure.low, figure.high))
    return f"{estimate} [{low}, {high}]"
