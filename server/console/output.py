"""Where answers go: tables for people, JSON for machines, and never a character that a terminal would obey."""

import json
import sys
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bandit.errors import InvalidInput
from server import words
from server.words import plain


def moment(at: Timestamp) -> str:
    """A time, in UTC to the second."""
    return words.moment(at.seconds * 1_000_000 + at.nanos // 1000)


class Output:
    """One command's answer. With `--json -` standard output is JSON only, and people read standard error.

    Raises InvalidInput where the file cannot be written, before anything has been asked of the server.
    """

    def __init__(self, json_target: str | None) -> None:
        self._target = json_target
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character gets another one.
            getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
        self._console = Console(stderr=json_target == "-", highlight=False, markup=False, emoji=False)
        if json_target not in (None, "-"):
            self._write("", "a")

    @property
    def width(self) -> int:
        """Columns that there are."""
        return self._console.width

    def json(self, document: Any) -> None:
        """Writes the document where it was asked for."""
        if self._target is None:
            return
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        if self._target == "-":
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            self._write(text, "w")

    def line(self, text: str = "", style: str | None = None) -> None:
        """A line of words, wrapped."""
        self._print(Text(text, style=style or ""))

    def facts(self, facts: list[tuple[str, str]]) -> None:
        """Named values beneath each other; those that are empty are left out."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in facts:
            if value:
                grid.add_row(name, value)
        self._print(grid)

    def table(self, headings: list[str], rows: list[list[str]], *, words: int = 1, chosen: int | None = None) -> None:
        """Rows whose first `words` columns are words and may be folded, and whose others are numbers."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for i, heading in enumerate(headings):
            if i < words:
                table.add_column(heading, overflow="fold", min_width=6)
            else:
                table.add_column(heading, justify="right", no_wrap=True)
        for i, row in enumerate(rows):
            table.add_row(*row, style="bold" if i == chosen else None)
        self._print(table)

    def _print(self, shown: RenderableType) -> None:
        # By way of a string: rich fills lines up with blanks, and ends the program by itself where nobody reads on.
        with self._console.capture() as captured:
            self._console.print(shown)
        self._console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
        self._console.file.flush()

    def _write(self, text: str, how: str) -> None:
        try:
            with Path(str(self._target)).open(how, encoding="utf-8", errors="replace") as file:
                file.write(text)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput("--json", f"{plain(str(self._target))} cannot be written: {why}") from error
