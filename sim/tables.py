"""A simulation's result for people: tables, and one sentence that says what won and by how much."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.result import Difference, OptimumResult, PolicyResult, Result, Three


def show(result: Result, console: Console) -> None:
    """Prints the tables and the sentence."""
    ladder = result.references.best_fixed_ladder
    policies = table(
        f"Policies on {result.tasks} tasks, a success worth ${result.value:g}",
        ("policy", "success", "$ each", "utility", "of ladder", "2nd half", "escalated"),
    )
    gaps = table(
        "Utility minus the reference's, and 95 % interval",
        ("policy", "best ladder", escape(f"always {_single(result)}")),
    )
    for policy in ranked(result):
        policies.add_row(
            escape(policy.name),
            *_cells(policy),
            share(policy, ladder),
            share(policy.second_half, ladder),
            f"{100 * policy.escalation_rate:.1f} %",
        )
        paired = result.paired[policy.name]
        gaps.add_row(escape(policy.name), _gap(paired["best_fixed_ladder"]), _gap(paired["best_single"]))
    references = table(
        "References, in hindsight on these tasks", ("reference", "success", "$ each", "utility", "of ladder")
    )
    named: list[tuple[str, Three]] = [
        ("oracle: the best on each task", result.references.oracle),
        (f"best fixed ladder: {ladder.ladder}", ladder),
        *((f"always {arm}", three) for arm, three in by_utility(result.references.always)),
    ]
    for name, three in named:
        references.add_row(escape(name), *_cells(three), share(three, ladder))
    for each in (policies, gaps, references):
        console.print(each, "")
    for said in of_optimum(result.optimum) if result.optimum is not None else ():
        say(console, said)
    say(console, sentence(result))


def table(title: str, headings: Sequence[str]) -> Table:
    """A table whose first column is a name, which may be long, and whose others are numbers."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(headings[0], overflow="fold", min_width=16)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def say(console: Console, text: str) -> None:
    """Prints a sentence, whatever is in it."""
    console.print(text, markup=False, highlight=False)


def sentence(result: Result) -> str:
    """What won and by how much, in words; what may be chance has not won."""
    first, *others = ranked(result)
    single = result.references.best_single
    points = 100 * (first.success_rate - single.success_rate)
    gap = result.paired[first.name][others[0].name] if others else None
    won = gap is not None and gap.low > 0
    said = (
        f"{first.name} {'won with' if won else 'reached'} a utility of ${first.utility_per_session:.3f} a session, "
        f"{share(first, result.references.best_fixed_ladder)} of the best fixed ladder's in hindsight: against always "
        f"{single.arm}, the best arm alone, {abs(points):.1f} points {'more' if points >= 0 else 'less'} success"
    )
    if single.cost_usd_per_session > 0:
        saved = 100 * (1 - first.cost_usd_per_session / single.cost_usd_per_session)
        said += f" at {abs(saved):.0f} % {'less' if saved >= 0 else 'more'} cost"
    if gap is not None:
        said += (
            f"; ahead of {others[0].name} by ${gap.difference:.3f} a session "
            f"(95 %: {gap.low:.3f} to {gap.high:.3f})"
            f"{'' if won else ', which may be chance: no clear winner'}"
        )
    return said + "."


def of_optimum(optimum: OptimumResult) -> list[str]:
    """The best that can be done in a synthetic world, in sentences: over the whole run, then between its changes."""
    return [
        f"Over all tasks this world may make, the best arm is {optimum.best_single} "
        f"({optimum.best_single_utility:.3f} a session), the best fixed ladder {optimum.best_fixed_ladder} "
        f"({optimum.best_fixed_ladder_utility:.3f}), and the best policy that sees the features reaches "
        f"{optimum.best_policy_utility:.3f}.",
        *(
            f"From session {phase.first_session} on the best arm is {phase.best_single} "
            f"({phase.best_single_utility:.3f}), the best fixed ladder {phase.best_fixed_ladder} "
            f"({phase.best_fixed_ladder_utility:.3f}), the best policy's {phase.best_policy_utility:.3f}."
            for phase in optimum.phases
        ),
    ]


def ranked(result: Result) -> list[PolicyResult]:
    """Policies, the best first."""
    return sorted(result.policies, key=lambda policy: policy.utility_per_session, reverse=True)


def _single(result: Result) -> str:
    return result.references.best_single.arm


def by_utility(always: Mapping[str, Three]) -> list[tuple[str, Three]]:
    """Arms alone, the best first."""
    return sorted(always.items(), key=lambda item: item[1].utility_per_session, reverse=True)


def _gap(gap: Difference) -> str:
    return f"{gap.difference:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"


def _cells(three: Three) -> tuple[str, str, str]:
    return (
        f"{100 * three.success_rate:.1f} %",
        f"{three.cost_usd_per_session:.3f}",
        f"{three.utility_per_session:.3f}",
    )


def share(three: Three, ladder: Three) -> str:
    """Utility as a share of the best ladder's; a share of what is not positive says nothing."""
    if ladder.utility_per_session <= 0:
        return "–"
    return f"{100 * three.utility_per_session / ladder.utility_per_session:.1f} %"
