"""Control groups that limit memory, for tests of what happens in them."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from taskvine_manager.node import limits


def make(megabytes: int) -> Path | None:
    """Make a control group with a limit on memory; None if this user may make none."""
    texts = (limits.read(f"/proc/self/{name}") or "" for name in ("cgroup", "mountinfo"))
    # The outermost first: in version 2, a group that contains groups may contain no processes.
    for path, version in reversed(limits.groups("memory", *texts)):
        group = Path(path, f"taskvine-{uuid.uuid4().hex[:8]}")
        limit = group / ("memory.max" if version == 2 else "memory.limit_in_bytes")
        try:
            group.mkdir()
            limit.write_text(str(megabytes * 2**20))
        except OSError:
            if group.is_dir():
                group.rmdir()
        else:
            return group
    return None


def kills(group: Path) -> int:
    """Return how many processes of a group were killed for lack of memory."""
    texts = (limits.read(str(group / name)) or "" for name in ("memory.events", "memory.oom_control"))
    found = (re.search(r"^oom_kill (\d+)", text, re.MULTILINE) for text in texts)
    return sum(int(each[1]) for each in found if each is not None)
