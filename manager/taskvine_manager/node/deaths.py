"""Why a process died: its exit code, the system's lack of memory, the end of its log."""

from __future__ import annotations

import os
import signal
import time

from taskvine_manager.node.calls import Call
from taskvine_manager.node.limits import Kills
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import is_full


def died(call: Call, exit_code: int, log: str, kills: Kills) -> bytes:
    """Return the failure record of a task whose process died."""
    return killed(f"while it ran {call.profile.name}", exit_code, kills) or failure.lost(
        "slot-died",
        f"while it ran {call.profile.name}",
        exit_code=exit_code if exit_code >= 0 else None,
        signal=-exit_code if exit_code < 0 else None,
        stderr=tail(log),
    )


def not_started(call: Call, error: OSError, path: str) -> bytes:
    """Return the failure record of a task for which something cannot be written or started; ``path`` is where."""
    kind = "disk-full" if is_full(error) else "slot-died"
    return failure.lost(kind, f"{call.profile.name} cannot be started: {error}", path=path)


def killed(reason: str, exit_code: int, kills: Kills) -> bytes | None:
    """Return the failure record of a process that was killed for lack of memory; None if it ended in another way."""
    kill = kills.explain(time.monotonic()) if exit_code == -signal.SIGKILL else None
    if kill is None:
        return None
    return failure.lost("memory", reason, limit_mb=kill.limit_mb, used_mb=kill.used_mb, group=kill.group)


def describe(exit_code: int) -> str:
    """Say in words how a process ended."""
    if exit_code < 0:
        try:
            return f"was killed by {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"was killed by signal {-exit_code}"
    return f"exited with status {exit_code}"


def tail(path: str, size: int = 2000) -> str:
    """Return the last ``size`` bytes of a text file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
