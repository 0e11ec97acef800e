"""The command ``taskvine-exec``: what happens in a run, and why, from its record."""

from __future__ import annotations

from taskvine_exec.command.program import main

__all__ = ["main"]
