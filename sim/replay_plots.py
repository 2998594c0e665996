"""Pictures of a replay: intervals side by side, in the colours of a scheme."""

from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from sim import canvas
from sim.canvas import Scheme
from sim.plots import Draw
from sim.replay_result import CandidateResult, Figures, ReplayResult
from sim.replay_result import Figure as Interval


def differences(result: ReplayResult) -> Draw:
    """Utility of every candidate minus the baseline's: once, and for whoever looks again as the log grows."""

    def draw(scheme: Scheme) -> Figure:
        rows = [(candidate.name, candidate.difference.utility_per_session) for candidate in result.candidates]
        figure, axes = canvas.axes(0.75 + 0.34 * len(rows))
        axes.axvline(0.0, color=scheme.muted, lw=1.0, ls="--")
        for row, (_, found) in enumerate(rows):
            colour = scheme.series[row % canvas.COLOURS]
            axes.plot([found.anytime_low, found.anytime_high], [row, row], color=colour, lw=1.0, alpha=0.6)
            axes.plot([found.low, found.high], [row, row], color=colour, lw=3.2)
            axes.plot([found.estimate], [row], "o", ms=5.5, color=colour)
        axes.set_yticks(range(len(rows)), [canvas.name(name) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("utility minus the baseline's, dollars")
        axes.grid(axis="y", visible=False)
        return figure

    return draw


def estimators(result: ReplayResult, candidate: CandidateResult, what: str, label: str) -> Draw:
    """One figure of a candidate, by attribute `what` of its results, as every estimator has it, and the baseline's."""

    def draw(scheme: Scheme) -> Figure:
        read: Callable[[Figures | CandidateResult], Interval] = lambda found: getattr(found, what)  # noqa: E731
        rows: Sequence[tuple[str, Interval]] = [
            ("doubly robust", read(candidate)),
            *((name, read(figures)) for name, figures in candidate.others.items()),
        ]
        figure, axes = canvas.axes(0.75 + 0.24 * len(rows))
        baseline = read(result.baseline)
        axes.axvspan(baseline.low, baseline.high, color=scheme.grid, lw=0.0)
        axes.axvline(baseline.estimate, color=scheme.muted, lw=1.0, ls="--")
        for row, (_, found) in enumerate(rows):
            colour = scheme.series[0] if row == 0 else scheme.rest
            axes.plot([found.low, found.high], [row, row], color=colour, lw=2.4)
            axes.plot([found.estimate], [row], "o", ms=5, color=colour)
        axes.set_yticks(range(len(rows)), [canvas.name(name) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
        return figure

    return draw
