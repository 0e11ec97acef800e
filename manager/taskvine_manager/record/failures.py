"""What the record keeps of failed tasks: the kind of the failure, and its text, bounded."""

from __future__ import annotations

from typing import Any

from taskvine_manager.record.events import TEXT, Failure
from taskvine_manager.runtime import failure, payload

MOST_TEXTS = 1000
"""Texts that are compared with later ones, so that a task that fails many times in the same way takes little space."""
LARGEST = 1 << 20
"""Largest failure record, in bytes, that is read from its file."""


class Failures:
    """Makes the events of tasks that raised or were lost."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], int] = {}

    def event(self, number: int, body: payload.Payload) -> Failure:
        """Return the event of a failed task; ``body`` is its failure record."""
        kind, text = _described(body)
        text = shortened(text)
        first = self._first.get((kind, text))
        if first is not None:
            return Failure(number, kind, "", first)
        if len(self._first) < MOST_TEXTS:
            self._first[kind, text] = number
        return Failure(number, kind, text)


def _described(body: payload.Payload) -> tuple[str, str]:
    try:
        if payload.size(body) > LARGEST:
            return "", f"its failure record has {payload.size(body)} bytes, and is not in this record"
        said: dict[str, Any] = payload.decode(body)
        if "exceptions" in said:
            return str(said["type"]), str(said["text"])
        text = str(said.get("reason", ""))
        return str(said["kind"]), "\n".join(filter(None, (text, str(said.get("stderr") or ""))))
    except Exception as error:  # the record may be damaged, or its file gone
        return "", f"its failure record cannot be read: {failure.describe(error)}"


def shortened(text: str) -> str:
    """Return the beginning and the end of a text that is too long."""
    if len(text) <= TEXT:
        return text
    half = TEXT // 2 - 4
    return f"{text[:half]}\n...\n{text[-half:]}"
