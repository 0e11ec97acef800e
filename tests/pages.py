"""The pages of the documentation, and their blocks of code."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
_FENCE = re.compile(r"^( *)```(\w*) *(.*)\n((?:.*\n)*?)\1``` *$", re.MULTILINE)
_INDENTED = re.compile(r"(?:^|(?<=\n\n))((?: {4}.*\n)(?:(?: {4}.*)?\n)*)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its place, its marks, and its text."""

    page: Path
    line: int
    language: str
    title: str
    marks: frozenset[str]
    code: str
    output: str | None
    """The output that the page shows for it, if any."""

    @property
    def name(self) -> str:
        """The page and the line, as an id of a test."""
        return f"{shown(self.page)}:{self.line}"

    @property
    def fragment(self) -> bool:
        """Whether it is marked as a part of a program, which cannot run alone."""
        return "fragment" in self.marks

    @property
    def program(self) -> bool:
        """Whether it is a whole program, which is run in its own process."""
        return self.language == "python" and not self.fragment and "__main__" in self.code


def shown(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        indent, language, marks, code = match.groups()
        titles = re.search(r'title="([^"]*)"', marks)
        yield Block(
            page,
            text.count("\n", 0, match.start()) + 1,
            language,
            titles[1] if titles else "",
            frozenset(re.findall(r"\.([\w-]+)", re.sub(r'"[^"]*"', "", marks))),
            textwrap.dedent(code) if indent else code,
            _output(text[match.end() :]),
        )


def _output(rest: str) -> str | None:
    """Return the output that a page shows right after a block: a line that begins with "prints", then the output."""
    match = re.match(r"\s*prints\b.*\n\n((?: {4}.*\n|\n(?= {4}))+)", rest)
    return textwrap.dedent(match[1]) if match else None


def commands(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of indented and shell blocks, with their numbers. Lines that end in a backslash are joined."""
    text = page.read_text()
    without = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    found = [(match.start(), match[1]) for match in _INDENTED.finditer(without)]
    lines = [(without.count("\n", 0, start) + 1, code) for start, code in found]
    lines += [(block.line + 1, block.code) for block in blocks(page) if block.language in ("sh", "bash", "console")]
    for first, code in lines:
        number = first
        pending = ""
        for line in code.splitlines():
            pending += line.strip().removeprefix("$ ")
            if pending.endswith("\\"):
                pending = pending[:-1]
            else:
                yield number, pending
                pending = ""
            number += 1


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
"""All blocks of Python."""
PROGRAMS = [block for block in PYTHON if block.program]
FRAGMENTS = [block for block in PYTHON if block.fragment]
PARTS = [block for block in PYTHON if not block.program and not block.fragment]
"""Configurations and other code that is run as printed, in the process of the test."""


def write_files(page: Path, before: int, directory: Path) -> None:
    """Write the blocks of a page that have the name of a file as their title and come before a line."""
    for block in blocks(page):
        if block.line < before and re.fullmatch(r"[\w-]+\.\w+", block.title):
            (directory / block.title).write_text(block.code)
