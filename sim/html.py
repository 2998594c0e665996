"""HTML documents that need nothing but themselves; all text from outside is escaped."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


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
class Cell:
    """Two lines, the first bold where it is sure."""

    text: str
    under: str
    sure: bool


def document(title: str, parts: Sequence[str]) -> str:
    """A document of parts in HTML; `title` is text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def section(key: str, heading: str, how: str, inside: Sequence[str], pictures: Sequence[Picture] = ()) -> str:
    """A section under its heading: how to read it (text), what is inside (HTML), and its pictures."""
    parts = [f'<section id="{key}"><h2>{escape(heading)}</h2><p class="how">{escape(how)}</p>', *inside]
    if pictures:
        one = " one" if len(pictures) == 1 else ""
        parts.append(f'<div class="pictures{one}">{"".join(map(_figure, pictures))}</div>')
    return "\n".join(part for part in (*parts, "</section>") if part)


def table(headings: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> str:
    """A table whose first column is a name; all of it is text."""
    head = "".join(f'<th scope="col">{_cell(heading)}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{_cell(name)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    )
    return f'<div class="table" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, Cell):
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


def plural(one: str, many: str, n: int) -> str:
    """The word for so many."""
    return one if n == 1 else many
