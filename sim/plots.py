"""A report's pictures, each drawn from plain data in the colours of a scheme."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from bandit.frontier import Point
from sim import canvas
from sim.canvas import Scheme
from sim.result import PolicyResult, Three
from sim.series import Curve
from sim.study import PolicyStudy, Study
from sim.world import Floats

Draw: TypeAlias = Callable[[Scheme], Figure]

_MARKERS = "osD^vP*X"
_DASHES = ("-", "--", ":", "-.")
_NEAR = 6.0
"""Points from a mark to its name."""
_FROM, _TO = 0.1, 10.0
"""Cost ratios beyond are drawn at the edge."""
_RATIOS = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
_CLOSE_RATIOS = [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0]


def success_against_cost(study: Study) -> Draw:
    """Every policy, every arm alone, the best fixed ladder, the oracle, and what no fixed choice does better."""

    def draw(scheme: Scheme) -> Figure:
        references = study.result.references
        fixed = ["an arm alone", "best fixed ladder", "oracle", "frontier of arms", "frontier of ladders"]
        names = [*_policies(study), *fixed]
        figure, axes = canvas.axes(3.2, names)
        corners = {study.result.arms[point.ladder[0]] for point in study.arm_frontier}
        arms = sorted(references.always.items(), key=lambda item: item[0] not in corners)
        every = [*references.always.values(), *study.result.policies, references.best_fixed_ladder, references.oracle]
        axes.margins(x=0.18, y=0.08)
        _dollar_axis(axes, [three.cost_usd_per_session for three in every])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %"))
        axes.set(xlabel="dollars a session", ylabel="sessions resolved")
        handles: list[Artist] = []
        for i, policy in enumerate(study.result.policies):
            (x,), (y,) = _xy([policy])
            usd, success = _bars(policy)
            bars = axes.errorbar(
                x,
                y,
                xerr=[[x - usd.min()], [usd.max() - x]],
                yerr=[[y - success.min()], [success.max() - y]],
                fmt=_MARKERS[i % len(_MARKERS)],
                ms=7,
                color=_colour(scheme, i),
                mec=scheme.surface,
                mew=0.8,
                elinewidth=1.4,
                zorder=4,
            )
            handles.append(bars.lines[0])
        handles += [
            *axes.plot(*_xy(references.always.values()), "o", ms=5, color=scheme.rest),
            *axes.plot(*_xy([references.best_fixed_ladder]), "s", ms=8, mfc="none", mew=1.8, color=scheme.ink),
            *axes.plot(*_xy([references.oracle]), "*", ms=11, color=scheme.ink),
            *axes.plot(*_along(study.arm_frontier), color=scheme.rest, lw=1.4, ls=":"),
            *axes.plot(*_along(study.ladder_frontier), color=scheme.ink, lw=1.2, alpha=0.7),
        ]
        canvas.legend(figure, handles, names)
        lines = [_along(study.arm_frontier), _along(study.ladder_frontier), *map(_bars, study.result.policies)]
        _write_beside(figure, axes, arms, every, lines, scheme)
        return figure

    return draw


def utility(study: Study) -> Draw:
    """Dollars earned so far."""
    return _curves(study, "dollars earned so far", lambda policy: policy.utility)


def regret(study: Study) -> Draw:
    """Dollars behind the best fixed ladder so far."""
    return _curves(study, "dollars behind so far", lambda policy: policy.regret)


def shares(study: Study, policy: PolicyStudy) -> Draw:
    """The arms that sessions begin on, by when they begin."""

    def draw(scheme: Scheme) -> Figure:
        lane, names = lanes(study)
        figure, axes = canvas.axes(2.2, names)
        of_lane = np.zeros((len(policy.shares.of_arm), len(names)))
        np.add.at(of_lane.T, np.array(lane), policy.shares.of_arm.T)
        edges = np.repeat(policy.shares.edges, 2)[1:-1]
        colours = lane_colours(scheme, len(names))
        axes.stackplot(edges, np.repeat(of_lane, 2, axis=0).T, colors=colours, lw=0)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0.0, 1.0), xlabel="sessions begun", ylabel="share of sessions")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
        axes.grid(visible=False)
        canvas.legend(figure, [Patch(color=colour) for colour in colours], names)
        return figure

    return draw


def reliability(study: Study, policy: PolicyStudy) -> Draw:
    """What was foretold of success against what came."""

    def draw(scheme: Scheme) -> Figure:
        figure, axes = canvas.axes(3.0)
        axes.plot([0.0, 1.0], [0.0, 1.0], color=scheme.muted, lw=1.0, ls="--")
        axes.errorbar(
            [one.foretold for one in policy.reliability],
            [one.success for one in policy.reliability],
            yerr=[2.0 * (one.stderr or 0.0) for one in policy.reliability],
            fmt="o-",
            ms=5,
            lw=1.2,
            color=_colour(scheme, study.policies.index(policy)),
        )
        percent = FuncFormatter(lambda x, _: f"{100 * x:.0f} %")
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="foretold chance of success", ylabel="attempts good")
        return figure

    return draw


def cost_ratio(study: Study, policy: PolicyStudy) -> Draw:
    """Dollars spent over dollars foretold, of all attempts and of each arm's."""

    def draw(scheme: Scheme) -> Figure:
        found = policy.figures.calibration
        assert found is not None, "drawn only where it foretells dollars"
        order = [study.result.arms[arm] for arm in study.by_use]
        rows = [("all attempts", found), *((arm, found.arms[arm]) for arm in order if arm in found.arms)]
        shown = [(arm, of) for arm, of in rows if of.cost_ratio is not None]
        figure, axes = canvas.axes(0.75 + 0.24 * len(shown))
        axes.axvline(1.0, color=scheme.muted, lw=1.0, ls="--")
        for row, (_, of) in enumerate(shown):
            ratio, spread = of.cost_ratio or 0.0, 2.0 * (of.cost_ratio_stderr or 0.0)
            low, middle, high = (min(max(x, _FROM), _TO) for x in (ratio - spread, ratio, ratio + spread))
            colour = _colour(scheme, study.policies.index(policy)) if row else scheme.ink
            axes.errorbar(middle, row, xerr=[[middle - low], [high - middle]], fmt="o", ms=5, color=colour)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(max(_FROM, min(low, 0.66)) * 0.97, min(_TO, max(high, 1.5)) * 1.03)
        low, high = axes.get_xlim()
        ticks = _RATIOS if high > 8.0 * low else _CLOSE_RATIOS
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
        axes.set_yticks(range(len(shown)), [canvas.name(arm) for arm, _ in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("dollars spent over dollars foretold")
        axes.grid(axis="y", visible=False)
        return figure

    return draw


def lanes(study: Study) -> tuple[list[int], list[str]]:
    """Which colour each arm has, by its position, and what the colours are called: those most used have their own."""
    arms = study.result.arms
    own = study.by_use if len(arms) <= canvas.COLOURS + 1 else study.by_use[: canvas.COLOURS]
    lane = [len(own)] * len(arms)
    for i, arm in enumerate(own):
        lane[arm] = i
    names = [canvas.name(arms[arm]) for arm in own]
    if len(own) < len(arms):
        names.append(f"{len(arms) - len(own)} others")
    return lane, names


def lane_colours(scheme: Scheme, n_lanes: int) -> list[str]:
    """One a lane; the last may be that of all others."""
    return [*scheme.series, scheme.rest][:n_lanes]


def _curves(study: Study, what: str, curve: Callable[[PolicyStudy], Curve]) -> Draw:
    def draw(scheme: Scheme) -> Figure:
        names = _policies(study)
        figure, axes = canvas.axes(2.4, names)
        handles: list[Artist] = []
        for i, policy in enumerate(study.policies):
            along = curve(policy)
            x, mean = np.append(0.0, along.sessions), np.append(0.0, along.mean)
            dashes = _DASHES[i // canvas.COLOURS % len(_DASHES)]
            handles += axes.plot(x, mean, color=_colour(scheme, i), ls=dashes)
            if along.stderr is not None:
                band = np.append(0.0, 2.0 * along.stderr)
                axes.fill_between(x, mean - band, mean + band, color=_colour(scheme, i), alpha=0.2, lw=0)
        axes.axhline(0.0, color=scheme.muted, lw=0.8)
        axes.set(xlabel="sessions", ylabel=what)
        axes.set_xlim(0.0, float(curve(study.policies[0]).sessions[-1]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{'−' if y < 0 else ''}${abs(y):,.10g}"))
        canvas.legend(figure, handles, names)
        return figure

    return draw


def _dollar_axis(axes: Axes, usd: Sequence[float]) -> None:
    """Logarithmic where it says more."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"${x:.3g}"))
    if min(usd) <= 0.0 or max(usd) < 4.0 * min(usd):
        return
    axes.set_xscale("log")
    wide = max(usd) > 300.0 * min(usd)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"${x:.3g}"))


def _write_beside(
    figure: Figure,
    axes: Axes,
    arms: Sequence[tuple[str, Three]],
    marks: Sequence[Three],
    lines: Sequence[tuple[Floats, Floats]],
    scheme: Scheme,
) -> None:
    """The arms' names, each where it covers no mark and no other name, and as little of a line as can be.

    One that is not near its mark has a line to it, one that has no room is left out. The first have the choice.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    inside = axes.get_window_extent()
    pixels = figure.dpi / 72.0
    half = 4.5 * pixels
    taken = [
        Bbox.from_extents(x - half, y - half, x + half, y + half)
        for x, y in axes.transData.transform(np.column_stack(_xy(marks)))
    ]
    drawn = np.concatenate([axes.transData.transform(np.column_stack(line)) for line in lines])
    for arm, three in arms:
        mark = (three.cost_usd_per_session, three.success_rate)
        text = axes.annotate(
            canvas.name(arm, 20),
            mark,
            xytext=(0.0, 0.0),
            textcoords="offset points",
            fontsize=7.5,
            color=scheme.muted,
        )
        size, at = text.get_window_extent(), axes.transData.transform(mark)
        found: list[tuple[int, float, float, Bbox, Floats]] = []
        for far, dx, dy in itertools.product((_NEAR, 12.0, 20.0), (1, -1, 0), (0, -1, 1)):
            end = at + far * pixels * np.array([dx, dy])
            low = end + np.array([size.width * (dx - 1), size.height * (dy - 1)]) / 2.0
            box = Bbox.from_bounds(low[0], low[1], size.width, size.height)
            if not (inside.contains(*box.min) and inside.contains(*box.max)) or box.count_overlaps(taken):
                continue
            line = np.linspace(at, end, 20)[8:] if far > _NEAR else np.empty((0, 2))
            if not any(other.count_contains(line) for other in taken):
                found.append((int(box.count_contains(drawn)), far * dx, far * dy, box, line))
        if not found:
            text.remove()
            continue
        _, x, y, box, line = min(found, key=lambda one: one[0])
        text.set(
            position=(x, y),
            horizontalalignment="left" if x > 0 else "right" if x else "center",
            verticalalignment="bottom" if y > 0 else "top" if y else "center",
        )
        taken.append(box)
        if len(line):
            drawn = np.concatenate([drawn, line])
            axes.annotate(
                "",
                mark,
                xytext=(0.9 * x, 0.9 * y),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": scheme.muted, "lw": 0.6, "shrinkA": 0.0, "shrinkB": 2.5},
            )


def _policies(study: Study) -> list[str]:
    return [canvas.name(policy.figures.name) for policy in study.policies]


def _colour(scheme: Scheme, policy: int) -> str:
    return scheme.series[policy % len(scheme.series)]


def _xy(threes: Iterable[Three]) -> tuple[list[float], list[float]]:
    pairs = [(three.cost_usd_per_session, three.success_rate) for three in threes]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _bars(policy: PolicyResult) -> tuple[Floats, Floats]:
    """The cross of two standard errors, as points; dollars end at 0, and on a logarithmic axis before."""
    (x,), (y,) = _xy([policy])
    usd, success = 2.0 * policy.stderr.cost_usd_per_session, 2.0 * policy.stderr.success_rate
    along = np.linspace(x - min(usd, 0.9 * x), x + usd, 40), np.linspace(y - success, y + success, 40)
    return np.concatenate([along[0], np.full(40, x)]), np.concatenate([np.full(40, y), along[1]])


def _along(frontier: Sequence[Point]) -> tuple[Floats, Floats]:
    """The line through its corners, straight in dollars whatever the axis."""
    usd, success = (np.array([getattr(point, of) for point in frontier]) for of in ("cost_usd", "success"))
    corners = np.arange(len(frontier), dtype=np.float64)
    at = np.linspace(0.0, len(frontier) - 1.0, 60 * (len(frontier) - 1) + 1)
    return np.interp(at, corners, usd), np.interp(at, corners, success)
