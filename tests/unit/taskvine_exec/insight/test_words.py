"""How numbers and times are written."""

from __future__ import annotations

import pytest

from taskvine_exec.insight.words import ended, few, in_seconds, plural, shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1.0, "0 ms"),
        (0.0123, "12.3 ms"),
        (1.5, "1.5 s"),
        (59.96, "60 s"),
        (61.0, "1 min 1 s"),
        (7500.0, "2 h 5 min"),
        (200_000.0, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert in_seconds(seconds) == words


def test_counts_and_lists() -> None:
    assert (plural(1, "task"), plural(2000, "task")) == ("1 task", "2,000 tasks")
    assert few("abc") == "a, b, c"
    assert few("abcde") == "a, b, c and 2 more"


def test_ends_of_processes() -> None:
    assert ended(None) == ""
    assert ended(3) == "it exited with status 3"
    assert ended(-9) == "it was killed by SIGKILL"
    assert ended(-64 - 9) == "it was killed by signal 73"


def test_text_that_controls_a_terminal() -> None:
    assert shown("a\x1b[31m\tb\n\udc80") == "a\ufffd[31m\tb\n\ufffd"
