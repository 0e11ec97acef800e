"""What slots have on disk: their private directories, their logs, and reports of contexts that failed."""

from __future__ import annotations

import os
import time
from typing import Any

from taskvine_manager.node.deaths import tail
from taskvine_manager.node.slot_process import SlotProcess
from taskvine_manager.node.temporary import Folders, remove_soon
from taskvine_manager.runtime import failure


class SlotDirectories:
    """Directories and files of a node's slots, by the slots' numbers.

    Parameters
    ----------
    config : dict
        As for :class:`~taskvine_manager.node.slots.Slots`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._folders = Folders(config["temporary"])

    def make(self, number: int) -> dict[str, str]:
        """Make a slot's temporary directory; return the environment variables that name it."""
        return self._folders.make(f"s{number}")

    def clear(self, number: int) -> None:
        """Remove the directories of a slot whose process has ended."""
        self._folders.remove(f"s{number}")
        remove_soon(os.path.join(self._config["scratch"], f"slot-{number}"))

    def log(self, number: int) -> str:
        """Return the path of a slot's log."""
        return os.path.join(self._config["log"], f"slot-{number}.log")

    def context_failure(self, slot: SlotProcess) -> bytes | None:
        """Return the failure record of a slot that could not build its context; None if that was not the reason."""
        marker = os.path.join(self._config["scratch"], f"context-failed-{slot.number}")
        try:
            with open(marker, "rb") as file:
                record = file.read()
            os.unlink(marker)
        except FileNotFoundError:
            by_slot = self._config["context"] is not None and self._config["context_scope"] == "slot"
            timeout: float = self._config["start_timeout"]
            if not by_slot or slot.has_spoken or time.monotonic() - slot.made < timeout:
                return None
            log, name = self.log(slot.number), self._config.get("name")
            settings = "library_config" if name is None else f"libraries[{name!r}]"
            reason = f"the context is not ready after {timeout:g} s (start_timeout of {settings})"
            return failure.lost("library", f"{reason}; see {log}", stderr=tail(log))
        return record
