"""Pictures for light and dark pages: their colours, names that fit, and PNG.

With `plots` and `flow_plot` the only modules that import matplotlib, which takes longer to import than many a run.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

WIDTH = 4.2
"""Inches: narrow, so that letters are still readable on a telephone."""
_DPI = 220
_PALETTE = 192
_NO_DITHER = Image.Dither.NONE
_FONT = "DejaVu Sans"
"""Comes with matplotlib."""
_LEGEND_ROW = 0.19
_LEGEND_LETTERS = 58


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Colours of a page."""

    surface: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    """One a policy or an arm, in this order."""
    rest: str
    """Arms that have no colour of their own."""
    resolved: str
    unresolved: str


LIGHT = Scheme(
    surface="#ffffff",
    ink="#1c1c1a",
    muted="#65645f",
    grid="#e4e3dd",
    series=("#2a78d6", "#eb6834", "#1baf7a", "#eda100", "#e87ba4", "#008300", "#4a3aa7", "#e34948"),
    rest="#9c9a92",
    resolved="#d5dbd2",
    unresolved="#55534d",
)
DARK = Scheme(
    surface="#1a1a19",
    ink="#f2f1ec",
    muted="#b3b1a8",
    grid="#363632",
    series=("#3987e5", "#d95926", "#199e70", "#c98500", "#d55181", "#32a032", "#9085e9", "#e66767"),
    rest="#77756e",
    resolved="#3d453f",
    unresolved="#c9c6bb",
)
COLOURS = len(LIGHT.series)


def png(draw: Callable[[Scheme], Figure], scheme: Scheme) -> bytes:
    """What `draw` draws, as a file; equal data give equal files."""
    with _style(scheme):
        figure = draw(scheme)
        pixels, target = io.BytesIO(), io.BytesIO()
        figure.savefig(pixels, format="rgba", dpi=_DPI)
        size = figure.canvas.get_width_height()
        # A palette makes files a third as large.
        picture = Image.frombytes("RGBA", size, pixels.getvalue()).convert("RGB").quantize(_PALETTE, dither=_NO_DITHER)
        picture.save(target, "PNG")
        return target.getvalue()


@contextmanager
def _style(scheme: Scheme) -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "font.family": _FONT,
                "font.size": 9.0,
                "text.parse_math": False,  # a dollar is a dollar
                "text.color": scheme.ink,
                "figure.facecolor": scheme.surface,
                "axes.facecolor": scheme.surface,
                "axes.edgecolor": scheme.muted,
                "axes.labelcolor": scheme.muted,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.unicode_minus": True,
                "grid.color": scheme.grid,
                "grid.linewidth": 0.8,
                "xtick.color": scheme.muted,
                "ytick.color": scheme.muted,
                "legend.frameon": False,
                "legend.fontsize": 8.5,
                "lines.linewidth": 1.8,
            }
        )
        yield


def axes(height: float, legend: Sequence[str] = ()) -> tuple[Figure, Axes]:
    """A figure `height` inches high, and higher where these names are to stand below it."""
    rows = -(-len(legend) // _columns(legend)) if legend else 0
    figure = Figure(figsize=(WIDTH, height + _LEGEND_ROW * rows), dpi=_DPI, layout="constrained")
    return figure, figure.add_subplot()


def legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Names below the picture, where they cover nothing."""
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=_columns(names),
        handlelength=1.6,
        columnspacing=1.2,
        borderaxespad=0.3,
        labelspacing=0.3,
    )


def _columns(names: Sequence[str]) -> int:
    return max(1, min(len(names), _LEGEND_LETTERS // (max(map(len, names)) + 5)))


def name(text: str, most: int = 26) -> str:
    """A name from outside as a picture can show it: on one line, in letters that the font has, not too long."""
    letters = font_manager.get_font(font_manager.findfont(_FONT))
    one_line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    shown = "".join(c if letters.get_char_index(ord(c)) else "□" for c in one_line)
    if len(shown) > most:
        tail = (most - 1) // 3
        shown = f"{shown[: most - 1 - tail]}…{shown[len(shown) - tail :]}"
    # What begins with an underscore has no place in a legend of matplotlib's.
    return f" {shown}" if shown.startswith("_") else shown
