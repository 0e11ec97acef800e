"""What each engine does with a tuning parameter."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

__all__ = ["EMULATED", "ENGINES", "NATIVE", "OURS", "Engine", "Standing", "Support", "ignored"]

Engine = Literal["taskvine", "embedded"]
ENGINES: tuple[Engine, ...] = ("taskvine", "embedded")


class Support(enum.Enum):
    """What an engine does with a parameter."""

    NATIVE = "native"
    """TaskVine acts on it as declared."""
    CLAMPED = "clamped"
    """TaskVine acts on it, but changes some of the values that are declared valid."""
    NO_EFFECT = "no effect"
    """TaskVine accepts it without any effect."""
    EMULATED = "emulated"
    """The embedded engine does what TaskVine does."""
    OURS = "ours"
    """The executor's own parameter, and it has an effect."""
    IGNORED = "ignored"
    """It has no effect, and setting it logs a warning."""

    @property
    def acts(self) -> bool:
        """Whether setting the parameter changes anything."""
        return self not in (Support.NO_EFFECT, Support.IGNORED)


@dataclass(frozen=True)
class Standing:
    """What one engine does with a parameter.

    Parameters
    ----------
    support
        The kind of support.
    note
        Further information, as a sentence without its full stop.
    """

    support: Support
    note: str = ""

    def __str__(self) -> str:
        return f"{self.support.value}: {self.note}" if self.note else self.support.value


NATIVE = Standing(Support.NATIVE)
EMULATED = Standing(Support.EMULATED)
OURS = Standing(Support.OURS)


def ignored(why: str) -> Standing:
    """Return the standing of a parameter without effect, for this reason."""
    return Standing(Support.IGNORED, why)
