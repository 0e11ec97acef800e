"""The page of a report: its parts as HTML, with all scripts and styles inside."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from taskvine_exec.insight.report.text import escaped


class Section:
    """A section of the page, built from top to bottom.

    Parameters
    ----------
    name : str
        Its id.
    title : str
        Its heading.
    """

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title
        self._parts: list[str] = []
        self._charts = 0

    def text(self, words: str) -> None:
        """Add a paragraph; the words are escaped."""
        self._parts.append(f"<p>{escaped(words)}</p>\n")

    def note(self, words: str) -> None:
        """Add a paragraph in small print; the words are escaped."""
        self._parts.append(f'<p class="note">{escaped(words)}</p>\n')

    def heading(self, words: str) -> None:
        """Add a heading; the words are escaped."""
        self._parts.append(f"<h3>{escaped(words)}</h3>\n")

    def details(self, summary: str, inside: Sequence[str], text: str = "") -> None:
        """Add a part that opens by a click: its summary, paragraphs, and a text as it is. All are escaped."""
        paragraphs = "".join(f"<p>{escaped(each)}</p>" for each in inside)
        block = f"<pre>{escaped(text)}</pre>" if text else ""
        self._parts.append(f"<details><summary>{escaped(summary)}</summary>{paragraphs}{block}</details>\n")

    def tiles(self, tiles: Iterable[tuple[str, str, bool]]) -> None:
        """Add numbers with their names; the last field marks a bad one."""
        each = (
            f'<div class="tile{" bad" if bad else ""}"><b>{escaped(value)}</b><span>{escaped(name)}</span></div>'
            for name, value, bad in tiles
        )
        self._parts.append(f'<div class="tiles">{"".join(each)}</div>\n')

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Add a table; all cells are escaped.

        A column whose name begins with ``#`` holds numbers, one whose name begins with ``~`` long texts.
        """
        marks = {"#": ' class="n"', "~": ' class="wide"'}
        classes = [marks.get(column[0], "") for column in columns]
        head = "".join(
            f"<th{style}>{escaped(column.lstrip('#~'))}</th>" for style, column in zip(classes, columns, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td{style}>{escaped(cell)}</td>" for style, cell in zip(classes, row, strict=True))
            + "</tr>\n"
            for row in rows
        )
        self._parts.append(f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>\n')

    def chart(self, figure: dict[str, Any]) -> None:
        """Add a chart."""
        self._charts += 1
        name = f"chart-{self.name}-{self._charts}"
        height = figure["layout"]["height"]
        # Within a script, only "</" and "<!--" could end it.
        data = json.dumps(figure, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        self._parts.append(
            f'<div class="chart" data-chart="{name}" aria-label="{escaped(self.title)}" style="height:{height}px">'
            f"</div>\n"
            f'<script type="application/json" id="{name}">{data}</script>\n'
        )

    def html(self) -> str:
        """Return the section."""
        return f'<section id="{self.name}">\n<h2>{escaped(self.title)}</h2>\n{"".join(self._parts)}</section>\n'


def page(title: str, sections: Sequence[Section], footer: str, library: str) -> str:
    """Return the whole page.

    It may run only the scripts that are marked with a random word, so that no text of a user can run as a script, and
    it may load nothing.

    Parameters
    ----------
    title : str
        Its title.
    sections : sequence of Section
        Its sections.
    footer : str
        What its last line says.
    library : str
        The source of plotly.js.
    """
    word = secrets.token_urlsafe(16)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src 'nonce-{word}'"
    files = resources.files("taskvine_exec.insight.report")
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    script = files.joinpath("page.js").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{each.name}">{escaped(each.title)}</a>\n' for each in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<h1>{escaped(title)}</h1>\n<nav>\n{links}</nav>\n"
        + "".join(each.html() for each in sections)
        + f"<noscript><p>The charts need JavaScript.</p></noscript>\n<footer>{escaped(footer)}</footer>\n"
        f'<script nonce="{word}">{library}</script>\n<script nonce="{word}">\n{script}</script>\n</body>\n</html>\n'
    )
