"""A report as a folder: `report.html`, which holds everything, and its pictures as files beside it."""

import base64
import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bandit.errors import InvalidInput
from sim import canvas
from sim.html import Picture
from sim.plots import Draw


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A picture that is still to be drawn."""

    file: str
    """Its name without an ending."""
    section: str
    caption: str
    alt: str
    draw: Draw

    def drawn(self) -> Picture:
        """The picture in both schemes."""
        light, dark = (canvas.png(self.draw, scheme) for scheme in (canvas.LIGHT, canvas.DARK))
        return Picture(section=self.section, caption=self.caption, alt=self.alt, light=light, dark=dark)


def check(folder: Path) -> None:
    """Makes the folder. Raises InvalidInput where it cannot be made, or nothing written into it."""
    with _refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write(
    folder: Path,
    planned: Sequence[Planned],
    render: Callable[[Sequence[Picture]], str],
    *,
    on_picture: Callable[[], None],
) -> None:
    """Draws the pictures, and writes the document that `render` makes of them, in the place of an earlier report.

    `on_picture` is called after each. Raises InvalidInput where the folder cannot be written.
    """
    pictures = []
    with _refusing(folder):
        _remove_earlier(folder)
        for one in planned:
            pictures.append(picture := one.drawn())
            (folder / f"{one.file}.png").write_bytes(picture.light)
            on_picture()
        # A file's name may hold what is no letter at all.
        (folder / "report.html").write_bytes(render(pictures).encode("utf-8", "replace"))


def _remove_earlier(folder: Path) -> None:
    """Removes an earlier report's pictures, which are those that its page holds, and nothing else."""
    page = folder / "report.html"
    document = page.read_bytes() if page.is_file() else b""
    for picture in folder.glob("*.png"):
        if base64.b64encode(picture.read_bytes()) in document:
            picture.unlink()


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub("[^a-z0-9]+", "-", name.lower())[:40].strip("-")


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput("--report", f"{folder} cannot be written: {error.strerror}") from error
