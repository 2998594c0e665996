"""The picture of how sessions move: bands as wide as the sessions in them."""

from collections.abc import Callable

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path

from sim import canvas, plots
from sim.canvas import Scheme
from sim.flows import Flows
from sim.study import PolicyStudy, Study
from sim.world import Floats

_GAP = 0.025
"""Between lanes, and the thickness of a column, in heights and widths of the picture."""
_COLUMN = 0.018
_AT_END = 0.2
"""Room for the labels of how sessions end, in widths."""
_LABELLED = 0.045
"""Share of the sessions from which on there is room for a label."""
_ORDINALS = ("1st", "2nd", "3rd", "4th")


def flows(study: Study, policy: PolicyStudy) -> Callable[[Scheme], Figure]:
    """Sessions from attempt to attempt, from the left, to their end, at the right."""

    def draw(scheme: Scheme) -> Figure:
        lane, names = plots.lanes(study)
        found = policy.flows.joined(lane, len(names))
        figure, axes = canvas.axes(2.9, names)
        axes.set_axis_off()
        colours = [*plots.lane_colours(scheme, len(names)), scheme.resolved, scheme.unresolved]
        # From the top: ended well, the arms, ended badly.
        order = [len(names), *range(len(names)), len(names) + 1]
        columns = len(found.moves) + 1
        letters = 60 // (columns - 1) - 6
        xs = np.linspace(0.0, 1.0, columns)
        tops = [_tops(found, column, order) for column in range(columns)]
        for column, moves in enumerate(found.moves):
            _bands(
                axes, (xs[column], xs[column + 1]), moves / found.sessions, tops[column : column + 2], order, colours
            )
        for column in range(columns):
            ended = column == columns - 1
            heading = "end" if ended else f"{_ORDINALS[column]} attempt"
            axes.text(xs[column] - _COLUMN / 2, 1.06, heading, fontsize=8.0, color=scheme.muted)
            for state, share in enumerate(found.at(column) / found.sessions):
                if not share:
                    continue
                top = tops[column][state]
                axes.add_patch(
                    Rectangle((xs[column] - _COLUMN / 2, top - share), _COLUMN, share, color=colours[state], lw=0)
                )
                if share >= _LABELLED:
                    called = ["resolved", "not resolved"][state - len(names)] if state >= len(names) else names[state]
                    # A name that has no room stands in the legend.
                    label = f"{called}\n" if ended else f"{called} " if len(called) <= letters else ""
                    axes.text(
                        xs[column] + _COLUMN,
                        top - share / 2,
                        f"{label}{100 * share:.0f} %",
                        va="center",
                        fontsize=7.5,
                        path_effects=[patheffects.withStroke(linewidth=2.0, foreground=scheme.surface)],
                    )
        axes.set(xlim=(-_COLUMN, 1.0 + _AT_END), ylim=(min(map(min, _bottoms(found, tops))), 1.15))
        canvas.legend(figure, [Patch(color=colour) for colour in colours[: len(names)]], names)
        return figure

    return draw


def _tops(found: Flows, column: int, order: list[int]) -> Floats:
    """Where the lanes of a column begin, shape (n_states,)."""
    share = found.at(column) / found.sessions
    tops = np.zeros(len(share))
    top = 1.0
    for state in order:
        tops[state] = top
        if share[state]:
            top -= share[state] + _GAP
    return tops


def _bottoms(found: Flows, tops: list[Floats]) -> list[list[float]]:
    return [(tops[column] - found.at(column) / found.sessions).tolist() for column in range(len(tops))]


def _bands(
    axes: Axes,
    xs: tuple[float, float],
    shares: Floats,
    tops: list[Floats],
    order: list[int],
    colours: list[str],
) -> None:
    """The bands between two columns; each leaves and arrives in the lanes' order, so that few cross."""
    left, right = tops[0].copy(), tops[1].copy()
    begin, end = xs[0] + _COLUMN / 2, xs[1] - _COLUMN / 2
    middle = (begin + end) / 2
    for source in order:
        for target in order:
            share = shares[source, target]
            if not share:
                continue
            a, b = left[source], right[target]
            left[source] -= share
            right[target] -= share
            upper = [(begin, a), (middle, a), (middle, b), (end, b)]
            lower = [(end, b - share), (middle, b - share), (middle, a - share), (begin, a - share)]
            codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
            path = Path([*upper, *lower, upper[0]], codes)
            axes.add_patch(PathPatch(path, facecolor=colours[source], alpha=0.45, lw=0))
