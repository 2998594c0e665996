"""The report of a simulation as one HTML document."""

from collections.abc import Mapping, Sequence
from html import escape

from sim import html, tables
from sim.html import Cell, Picture, plural, table
from sim.result import Calibration, Four, PolicyResult, Result, Three
from sim.study import Study
from sim.world import Terms

SECTIONS: Mapping[str, tuple[str, str]] = {
    "policies": (
        "Policies",
        "Means over all sessions of all seeds, ± one standard error; utility is what successes are worth, less "
        "what was spent, and its share is of the best fixed ladder's in hindsight.",
    ),
    "paired": (
        "Differences",
        "Utility of the row minus that of the column, in dollars a session, with its 95 % interval over tasks and "
        "seeds; a difference whose interval is without 0 stands in bold.",
    ),
    "references": (
        "References",
        "What fixed choices come to on these very tasks, in expectation: the oracle takes the best on each task, and "
        "cannot be reached.",
    ),
    "cost": (
        "Success against cost",
        "Up and to the left is better; bars are two standard errors, and whatever lies above the frontier does better "
        "than any fixed choice, or any coin between two of them.",
    ),
    "time": (
        "Utility and regret",
        "Dollars so far, and dollars behind the best fixed ladder in hindsight on the same sessions: a curve of regret "
        "that flattens has learned, one that falls overtakes.",
    ),
    "shares": (
        "Arms over time",
        "The arms that sessions begin on, all seeds together: what is being learned shows as areas that grow.",
    ),
    "calibration": (
        "Calibration",
        "What was foretold of an attempt when it was decided, before anything was learned from it, against what came: "
        "points on the dashed line came true, and bars are two standard errors, over tasks.",
    ),
    "flows": (
        "Ladders",
        "From the left, the arms that sessions begin on, where they move when an attempt is thought failed, and how "
        "they end; a band is as wide as the sessions in it are many.",
    ),
}
"""Key -> its heading and how to read it, in the order of the page."""


def render(study: Study, pictures: Sequence[Picture]) -> str:
    """The document."""
    result = study.result
    title = f"Pointsman: {len(result.policies)} {plural('policy', 'policies', len(result.policies))} on {study.world}"
    inside = {
        "policies": _policies(result),
        "paired": _paired(result),
        "references": _references(result),
        "calibration": _calibrations(result),
    }
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">{escape(tables.sentence(result))}</p>',
        *(f"<p>{escape(said)}</p>" for said in (tables.of_optimum(result.optimum) if result.optimum else ())),
        f'<p class="note">{escape(_setting(result, study.terms))}</p>',
    ]
    for key, (heading, how) in SECTIONS.items():
        shown = [picture for picture in pictures if picture.section == key]
        parts.append(html.section(key, heading, how, [*_notes(key, study), inside.get(key, "")], shown))
    return html.document(title, parts)


def _setting(result: Result, terms: Terms) -> str:
    first = result.policies[0]
    said = (
        f"{first.seeds} {plural('seed', 'seeds', first.seeds)} of {first.sessions} "
        f"{plural('session', 'sessions', first.sessions)} each, {result.tasks} tasks, {len(result.arms)} "
        f"{plural('arm', 'arms', len(result.arms))}; a success is worth ${terms.value_usd:g}, a session has up to "
        f"{terms.max_attempts} {plural('attempt', 'attempts', terms.max_attempts)}, a failure is noticed with chance "
        f"{terms.detect:g}, and a good attempt thought failed with chance {terms.false_alarm:g}"
    )
    if terms.delay:
        said += f"; how attempts went is told {terms.delay} {plural('session', 'sessions', terms.delay)} later"
    return said + "."


def _notes(key: str, study: Study) -> list[str]:
    """What has to be said of this very run."""
    said = []
    seeds = study.result.policies[0].seeds
    if key == "policies" and seeds == 1:
        said.append("With one seed, standard errors are those between its sessions.")
    if key == "time":
        band = "Bands are two standard errors of the mean over seeds." if seeds > 1 else "One seed: there are no bands."
        said.append(band)
    if key in ("cost", "references") and (missing := _not_always(study.result)):
        said.append(
            f"Arms that are not there all the time are no fixed choice, and are left out: {', '.join(missing)}."
        )
    if key == "calibration":
        said += [f"{policy.name} predicts nothing." for policy in study.result.policies if policy.calibration is None]
    return [f'<p class="note">{escape(one)}</p>' for one in said]


def _not_always(result: Result) -> list[str]:
    return [arm for arm in result.arms if arm not in result.references.always]


def _policies(result: Result) -> str:
    ladder = result.references.best_fixed_ladder
    rows = []
    for policy in tables.ranked(result):
        second = policy.second_half
        rows.append(
            [
                policy.name,
                *_four(policy, policy.stderr),
                tables.share(policy, ladder),
                f"{second.utility_per_session:.3f}",
                tables.share(second, ladder),
            ]
        )
    headings = ["policy", "success", "$ a session", "utility", "escalated", "of ladder", "2nd half", "of ladder"]
    return table(headings, rows)


def _four(policy: PolicyResult, spread: Four) -> list[str]:
    return [
        f"{100 * policy.success_rate:.1f} ± {100 * spread.success_rate:.1f} %",
        f"{policy.cost_usd_per_session:.3f} ± {spread.cost_usd_per_session:.3f}",
        f"{policy.utility_per_session:.3f} ± {spread.utility_per_session:.3f}",
        f"{100 * policy.escalation_rate:.1f} ± {100 * spread.escalation_rate:.1f} %",
    ]


def _paired(result: Result) -> str:
    ranked = [policy.name for policy in tables.ranked(result)]
    fixed = {
        "best_fixed_ladder": "best fixed ladder",
        "best_single": f"always {result.references.best_single.arm}",
        "oracle": "oracle",
    }
    others = {**fixed, **{name: name for name in ranked if len(ranked) > 1}}
    rows: list[list[str | Cell]] = []
    for name in ranked:
        row: list[str | Cell] = [name]
        for other in others:
            gap = result.paired[name].get(other)
            if gap is None or other == name:
                row.append("")
                continue
            sure = gap.low > 0 or gap.high < 0
            row.append(Cell(text=f"{gap.difference:+.3f}", under=f"{gap.low:+.3f} to {gap.high:+.3f}", sure=sure))
        rows.append(row)
    return table(["policy", *others.values()], rows)


def _references(result: Result) -> str:
    references = result.references
    ladder = references.best_fixed_ladder
    named: list[tuple[str, Three]] = [
        ("oracle", references.oracle),
        (f"best fixed ladder: {ladder.ladder}", ladder),
        *((f"always {arm}", three) for arm, three in tables.by_utility(references.always)),
    ]
    rows = [
        [
            name,
            f"{100 * three.success_rate:.1f} %",
            f"{three.cost_usd_per_session:.3f}",
            f"{three.utility_per_session:.3f}",
            tables.share(three, ladder),
        ]
        for name, three in named
    ]
    return table(["reference", "success", "$ a session", "utility", "of ladder"], rows)


def _calibrations(result: Result) -> str:
    rows = [[policy.name, *_foretold(policy.calibration)] for policy in result.policies if policy.calibration]
    headings = ["policy", "attempts", "Brier score", "foretold − real success", "$ spent over foretold"]
    return table(headings, rows) if rows else ""


def _foretold(found: Calibration) -> list[str]:
    brier = "–" if found.brier is None else f"{found.brier:.4f}"
    bias = "–" if found.bias is None else f"{100 * found.bias:+.1f}{_spread(found.bias_stderr, 100)} points"
    ratio = "–" if found.cost_ratio is None else f"{found.cost_ratio:.3f}{_spread(found.cost_ratio_stderr, 1)}"
    return [f"{found.attempts:,}", brier, bias, ratio]


def _spread(stderr: float | None, scale: float) -> str:
    return "" if stderr is None else f" ± {scale * stderr:.{1 if scale > 1 else 3}f}"
