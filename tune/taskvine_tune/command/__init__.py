"""The command ``taskvine-tune``: shows parameters, checks files of them, and tries them out."""

from __future__ import annotations

from taskvine_tune.command.program import main
from taskvine_tune.command.terminal import FINE, INVALID

__all__ = ["FINE", "INVALID", "main"]
