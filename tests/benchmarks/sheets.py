"""Tables of results, shown three ways: to people on a terminal, in Markdown, and as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.result import Difference

Row = Mapping[str, object]
Column = tuple[str, Callable[[Row], str]]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table: what it shows, its columns, and the numbers of its rows."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    def show(self, console: Console) -> None:
        """Prints it."""
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i, (heading, _) in enumerate(self.columns):
            table.add_column(heading, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*(escape(cell(row)) for _, cell in self.columns))
        console.print(table)

    def markdown(self) -> str:
        """The title in bold and the table, for a Markdown file."""
        lines = [f"**{self.title}**", "", "| " + " | ".join(heading for heading, _ in self.columns) + " |"]
        lines.append("|---" * len(self.columns) + "|")
        lines += ["| " + " | ".join(cell(row) for _, cell in self.columns) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


def text(key: str) -> Callable[[Row], str]:
    """A cell as it is."""
    return lambda row: str(row[key])


def share(key: str) -> Callable[[Row], str]:
    """A share as per cent, with its standard error where the row has one."""

    def cell(row: Row) -> str:
        error = f" ± {100 * row[key + '_stderr']:.1f}" if key + "_stderr" in row else ""  # type: ignore[operator]
        return f"{100 * row[key]:.1f}{error} %"  # type: ignore[operator]

    return cell


def at_least(key: str) -> Callable[[Row], str]:
    """A share that is to be reached."""
    return lambda row: f"≥ {100 * row[key]:.1f} %"  # type: ignore[operator]


def usd(key: str) -> Callable[[Row], str]:
    """Dollars, with their standard error where the row has one."""

    def cell(row: Row) -> str:
        error = f" ± {row[key + '_stderr']:.3f}" if key + "_stderr" in row else ""
        return f"{row[key]:.3f}{error}"

    return cell


def gap(key: str) -> Callable[[Row], str]:
    """A paired difference with its interval; a dash where there is none."""

    def cell(row: Row) -> str:
        found = row.get(key)
        if not isinstance(found, Difference):
            return "–"
        return f"{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})"

    return cell


def yes(key: str) -> Callable[[Row], str]:
    """Whether something holds; a dash where it was not asked."""
    return lambda row: "–" if row.get(key) is None else "yes" if row[key] else "NO"


def mean_and_stderr(numbers: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error: NaN of one number."""
    array = np.asarray(numbers)
    return float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else float("nan")


def reached(mean: float, stderr: float, aim: float) -> bool:
    """Whether the mean and two standard errors reach an aim; with one number, the mean alone has to."""
    return mean + 2 * (0.0 if np.isnan(stderr) else stderr) >= aim
