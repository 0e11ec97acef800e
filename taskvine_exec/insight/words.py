"""How views of a run write numbers, times and sizes."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence

from taskvine_tune.command.terminal import in_bytes

__all__ = ["ended", "few", "in_bytes", "in_seconds", "plural", "shown"]


def in_seconds(seconds: float) -> str:
    """Return a duration with one or two units, such as ``3.2 s`` or ``2 h 5 min``."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = int(seconds / 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def plural(count: int, noun: str) -> str:
    """Return a number and a noun: ``1 task``, ``2 tasks``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def few(items: Iterable[str], most: int = 3) -> str:
    """Return the first items of a list, and how many more there are."""
    listed: Sequence[str] = list(items)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more:,} more" if more > 0 else "")


def ended(status: int | None) -> str:
    """Return how a process ended, from its exit status or the negative number of a signal; empty if unknown."""
    if status is None:
        return ""
    if status >= 0:
        return f"it exited with status {status}"
    try:
        return f"it was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was killed by signal {-status}"


def shown(text: str) -> str:
    """Return a text of a user's without characters that control a terminal."""
    return "".join(letter if letter in "\n\t" or letter.isprintable() else "\ufffd" for letter in text)
