"""A report as one HTML document, which needs nothing but itself."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sim import tables
from sim.result import Calibration, Four, PolicyResult, Result, Three
from sim.study import Study
from sim.world import Terms


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture, for light and for dark pages."""

    section: str
    """A key of `SECTIONS`."""
    caption: str
    alt: str
    light: bytes
    """PNG."""
    dark: bytes


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

_STYLE = """
:root { color-scheme: light dark; --surface: #ffffff; --page: #f6f5f1; --ink: #1c1c1a; --muted: #65645f;
  --line: #e4e3dd; --mark: #2a78d6; }
@media (prefers-color-scheme: dark) { :root { --surface: #1a1a19; --page: #111110; --ink: #f2f1ec; --muted: #b3b1a8;
  --line: #363632; --mark: #6aa6ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.4rem; margin: 0 0 .75rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; overflow-wrap: anywhere; }
.how, .note, figcaption { color: var(--muted); font-size: .92rem; }
.verdict { font-size: 1.12rem; border-left: 4px solid var(--mark); padding: .1rem 0 .1rem .9rem; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  align-items: start; }
.pictures.one { max-width: 46rem; }
figure { margin: 0; padding: .6rem; background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
  max-width: 46rem; }
figcaption { overflow-wrap: anywhere; padding: 0 .2rem .4rem; }
img { display: block; width: 100%; height: auto; }
.table { overflow-x: auto; background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
  margin-bottom: 1rem; }
small { color: var(--muted); font-size: .85em; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; white-space: normal; vertical-align: bottom; max-width: 16rem; overflow-wrap: break-word;
  color: var(--muted); font-weight: 500; }
th:first-child { text-align: left; font-weight: 600; white-space: normal; overflow-wrap: break-word;
  min-width: 9.5rem; max-width: 24rem; }
"""


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """Two lines, the first bold where it is sure."""

    text: str
    under: str
    sure: bool


def render(study: Study, pictures: Sequence[Picture]) -> str:
    """The document; all names in it are escaped."""
    result = study.result
    title = f"Pointsman: {len(result.policies)} {_plural('policy', 'policies', len(result.policies))} on {study.world}"
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
        parts.append(f'<section id="{key}"><h2>{escape(heading)}</h2><p class="how">{escape(how)}</p>')
        parts += _notes(key, study)
        parts.append(inside.get(key, ""))
        if shown:
            one = " one" if len(shown) == 1 else ""
            parts.append(f'<div class="pictures{one}">{"".join(map(_figure, shown))}</div>')
        parts.append("</section>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _setting(result: Result, terms: Terms) -> str:
    first = result.policies[0]
    said = (
        f"{first.seeds} {_plural('seed', 'seeds', first.seeds)} of {first.sessions} "
        f"{_plural('session', 'sessions', first.sessions)} each, {result.tasks} tasks, {len(result.arms)} "
        f"{_plural('arm', 'arms', len(result.arms))}; a success is worth ${terms.value_usd:g}, a session has up to "
        f"{terms.max_attempts} {_plural('attempt', 'attempts', terms.max_attempts)}, a failure is noticed with chance "
        f"{terms.detect:g}, and a good attempt thought failed with chance {terms.false_alarm:g}"
    )
    if terms.delay:
        said += f"; how attempts went is told {terms.delay} {_plural('session', 'sessions', terms.delay)} later"
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
    return _table(headings, rows)


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
    rows: list[list[str | _Cell]] = []
    for name in ranked:
        row: list[str | _Cell] = [name]
        for other in others:
            gap = result.paired[name].get(other)
            if gap is None or other == name:
                row.append("")
                continue
            sure = gap.low > 0 or gap.high < 0
            row.append(_Cell(text=f"{gap.difference:+.3f}", under=f"{gap.low:+.3f} to {gap.high:+.3f}", sure=sure))
        rows.append(row)
    return _table(["policy", *others.values()], rows)


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
    return _table(["reference", "success", "$ a session", "utility", "of ladder"], rows)


def _calibrations(result: Result) -> str:
    rows = [[policy.name, *_foretold(policy.calibration)] for policy in result.policies if policy.calibration]
    headings = ["policy", "attempts", "Brier score", "foretold − real success", "$ spent over foretold"]
    return _table(headings, rows) if rows else ""


def _foretold(found: Calibration) -> list[str]:
    brier = "–" if found.brier is None else f"{found.brier:.4f}"
    bias = "–" if found.bias is None else f"{100 * found.bias:+.1f}{_spread(found.bias_stderr, 100)} points"
    ratio = "–" if found.cost_ratio is None else f"{found.cost_ratio:.3f}{_spread(found.cost_ratio_stderr, 1)}"
    return [f"{found.attempts:,}", brier, bias, ratio]


def _spread(stderr: float | None, scale: float) -> str:
    return "" if stderr is None else f" ± {scale * stderr:.{1 if scale > 1 else 3}f}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str | _Cell]]) -> str:
    head = "".join(f'<th scope="col">{_cell(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{_cell(name)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    return f'<div class="table" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: str | _Cell) -> str:
    if isinstance(cell, _Cell):
        text = f"<strong>{escape(cell.text)}</strong>" if cell.sure else escape(cell.text)
        return f"{text}<br><small>{escape(cell.under)}</small>"
    return escape(cell).replace("&gt;", "&gt;<wbr>")  # a ladder may go on in the next line


def _figure(picture: Picture) -> str:
    light, dark = (
        f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in (picture.light, picture.dark)
    )
    return (
        f"<figure><figcaption>{escape(picture.caption)}</figcaption><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{escape(picture.alt)}" src="{light}"></picture></figure>'
    )


def _plural(one: str, many: str, n: int) -> str:
    return one if n == 1 else many
