"""The report of a replay: its document, its pictures, and the folder with all of it."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from sim import html, replay_plots, replay_tables, report_folder
from sim.html import Cell, Picture, plural, table
from sim.replay_result import CandidateResult, Figure, Figures, ReplayResult
from sim.report_folder import Planned, slug

_FIGURES = {
    "utility_per_session": "utility a session, dollars",
    "success_rate": "share of sessions resolved",
    "cost_usd_per_session": "dollars a session",
}


def plan(result: ReplayResult) -> list[Planned]:
    """Every picture of the report, in its order."""
    told = "; ".join(replay_tables.sentence(one, result.baseline.name or "") for one in result.candidates)
    pictures = [
        Planned(
            file="differences",
            section="difference",
            caption="Utility minus the baseline's",
            alt=told,
            draw=replay_plots.differences(result),
        )
    ]
    for number, candidate in enumerate(result.candidates, 1):
        for what, label in _FIGURES.items():
            found: Figure = getattr(candidate, what)
            pictures.append(
                Planned(
                    file=f"{what.split('_')[0]}-{number}-{slug(candidate.name)}".rstrip("-"),
                    section="estimators",
                    caption=f"{candidate.name}: {label}",
                    alt=f"Doubly robust {found.estimate:.3f}, between {found.low:.3f} and {found.high:.3f}.",
                    draw=replay_plots.estimators(result, candidate, what, label),
                )
            )
    return pictures


def render(result: ReplayResult, pictures: Sequence[Picture]) -> str:
    """The document."""
    baseline = result.baseline.name or ""
    count = len(result.candidates)
    title = f"Pointsman: {count} {plural('policy', 'policies', count)} on a log of {result.sessions:,} sessions"

    def of(section: str) -> list[Picture]:
        return [picture for picture in pictures if picture.section == section]

    return html.document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            *(
                f'<p class="verdict">{escape(replay_tables.sentence(candidate, baseline))}</p>'
                for candidate in result.candidates
            ),
            f'<p class="note">{result.events:,} events, {result.decisions:,} decisions; a success is worth '
            f"${result.value:g}.</p>",
            html.section(
                "levels",
                "What each policy would have come to",
                "Doubly robust estimates on the sessions a candidate may be scored on, with 95 % intervals.",
                [_levels(result)],
            ),
            html.section(
                "difference",
                "Against the baseline",
                "Thick: the 95 % interval for one look at this log. Thin: for whoever looks again and again while it "
                "grows. What lies right of the line is better.",
                [_differences(result)],
                of("difference"),
            ),
            html.section(
                "estimators",
                "By other estimators",
                "Where they disagree by more than their intervals, somebody's assumption does not hold. The dashed "
                "line and its band are the baseline's; dm is the model alone, and its interval knows nothing of "
                "what the model gets wrong.",
                [],
                of("estimators"),
            ),
            html.section(
                "trust",
                "How far the log can tell",
                "A candidate that does what was seldom done leans on few sessions of great weight. The mean weight is "
                "1 but for chance where all that it does is in the log.",
                [_trust(result), *_doubts(result)],
            ),
        ],
    )


def _levels(result: ReplayResult) -> str:
    rows: list[list[str | Cell]] = [
        [candidate.name, *_three(candidate), f"{candidate.sessions:,}"] for candidate in result.candidates
    ]
    rows.append([f"baseline: {result.baseline.name}", *_three(result.baseline), ""])
    return table(["policy", "success", "$ a session", "utility", "sessions"], rows)


def _differences(result: ReplayResult) -> str:
    rows: list[list[str | Cell]] = []
    for candidate in result.candidates:
        row: list[str | Cell] = [candidate.name]
        for what in ("success_rate", "cost_usd_per_session", "utility_per_session"):
            found: Figure = getattr(candidate.difference, what)
            sure = found.low > 0.0 or found.high < 0.0
            row.append(Cell(text=f"{found.estimate:+.3f}", under=f"{found.low:+.3f} to {found.high:+.3f}", sure=sure))
        gate = candidate.gate
        row.append("–" if gate is None else Cell(text=gate.verdict, under="", sure=gate.verdict != "undecided"))
        rows.append(row)
    return table(["policy", "success", "$ a session", "utility", "gate"], rows)


def _three(figures: Figures | CandidateResult) -> list[Cell]:
    return [
        _figure(figures.success_rate, 100.0, 1, " %"),
        _figure(figures.cost_usd_per_session, 1.0, 3, ""),
        _figure(figures.utility_per_session, 1.0, 3, ""),
    ]


def _figure(figure: Figure, scale: float, digits: int, unit: str) -> Cell:
    estimate, low, high = (f"{scale * x:.{digits}f}" for x in (figure.estimate, figure.low, figure.high))
    return Cell(text=f"{estimate}{unit}", under=f"{low} to {high}", sure=False)


def _trust(result: ReplayResult) -> str:
    rows = []
    for candidate in result.candidates:
        told = candidate.diagnostics
        rows.append(
            [
                candidate.name,
                f"{told.effective_sample_size:,.0f}",
                f"{told.mean_weight:.3f}",
                f"{told.max_weight:,.1f}",
                f"{told.min_propensity:.4f}",
                f"{told.unsupported_decisions:,}",
                f"{told.missing_rewards:,}",
                f"{told.lottery_p:.2g}",
            ]
        )
    headings = ["policy", "effective sessions", "mean weight", "largest weight", "least propensity", "unsupported"]
    return table([*headings, "rewards missing", "lotteries' p"], rows)


def _doubts(result: ReplayResult) -> list[str]:
    said = [f"{one.name}: {'; '.join(one.diagnostics.doubts)}." for one in result.candidates if one.diagnostics.doubts]
    for one in result.candidates:
        if one.missing is not None:
            low, high = one.missing.success_if_failures, one.missing.success_if_successes
            said.append(
                f"{one.name}: with every success that was not told a failure it would be {100 * low:.1f} %, with all "
                f"of them successes {100 * high:.1f} %."
            )
    return [f'<p class="note">{escape(one)}</p>' for one in said]


def write(folder: Path, result: ReplayResult, *, on_picture: Callable[[], None]) -> None:
    """Writes the report; `on_picture` is called after each picture that `plan` has. Raises InvalidInput."""
    report_folder.write(folder, plan(result), lambda pictures: render(result, pictures), on_picture=on_picture)
