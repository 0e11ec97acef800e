"""Numbers, times and names as a reader wants them."""

from __future__ import annotations

import html
import time

from rich import filesize

NAME = 28
"""Characters of a name in a chart."""


def escaped(text: object) -> str:
    """Escape a text for HTML, and for the labels of charts, which understand some HTML too."""
    return html.escape(str(text))


def clipped(name: str, length: int = NAME) -> str:
    """Shorten a name in its middle."""
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def size(count: float) -> str:
    """Describe a number of bytes."""
    return filesize.decimal(max(0, int(count)))


def seconds(value: float | None) -> str:
    """Describe a duration; a dash if it is unknown."""
    if value is None:
        return "–"
    if value < 0.0995:
        return f"{value * 1000:.3g} ms"
    if value < 99.5:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def number(value: float) -> str:
    """Write a number with separators of thousands."""
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """Write a share in percent; a dash if there is no whole."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def moment(value: float) -> str:
    """Write a moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(value))


def several(count: int, noun: str) -> str:
    """Write a number with its noun, such as ``3 tasks``."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"
