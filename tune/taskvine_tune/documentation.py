"""The tables of the documentation, generated from the declarations.

``python -m taskvine_tune.documentation docs/reference/tuning.md`` updates the text between the two marks of that file.
With ``--check`` it only reports whether an update is necessary (exit code 1).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from taskvine_manager.parameters import PARAMETERS, Parameter, Standing

__all__ = ["BEGIN", "END", "renewed", "tables"]

BEGIN = "<!-- made by `make docs-tuning` from the declarations: do not edit from here -->"
END = "<!-- to here -->"


def tables() -> str:
    """Return the tables of all parameters, in Markdown."""
    shown = []
    for title, ours in (("TaskVine's", False), ("The executor's own", True)):
        rows = _table([each for each in PARAMETERS.values() if each.ours == ours])
        shown.append("\n".join([f"### {title}", "", *rows]))
    return "\n\n".join(shown)


def renewed(text: str) -> str:
    """Return a document with the text between the marks replaced by :func:`tables`.

    Raises
    ------
    ValueError
        If it does not have each mark once, in this order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the document must have the lines {BEGIN!r} and {END!r} once each")
    return f"{before}{begin}\n\n{tables()}\n\n{end}{after}"


def _table(parameters: list[Parameter]) -> Iterator[str]:
    yield "| name | default | bounds | effect | TaskVine | embedded | since |"
    yield "|---|---|---|---|---|---|---|"
    for each in parameters:
        name = "<br>".join([f"`{each.name}`", *(f"`{alias}`" for alias in each.aliases)])
        meanings = "".join(f"; {value:g}: {meaning}" for value, meaning in each.meanings)
        row = (
            name,
            each.shown(each.default),
            each.bounds + meanings,
            each.effect if each.live else f"{each.effect} Before the start only.",
            _standing(each.on("taskvine")),
            _standing(each.on("embedded")),
            each.since,
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _standing(standing: Standing) -> str:
    word = standing.support.value
    word = f"**{word}**" if standing.support.acts else word
    return f"{word}: {standing.note}" if standing.note else word


def main(arguments: list[str]) -> int:
    """Update a document, or with ``--check`` report whether it is current."""
    check = "--check" in arguments
    paths = [argument for argument in arguments if argument != "--check"]
    if len(paths) != 1 or paths[0].startswith("-"):
        sys.stderr.write("usage: python -m taskvine_tune.documentation [--check] docs/reference/tuning.md\n")
        return 2
    path = Path(paths[0])
    old = path.read_text(encoding="utf-8")
    new = renewed(old)
    if check and old != new:
        sys.stderr.write(f"{path} is not current: make docs-tuning\n")
        return 1
    if old != new:
        path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
