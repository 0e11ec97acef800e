"""What Parsl's DataFlowKernel does not tell its plugins, read from its frames.

The DFK's resolver hooks are told neither which task consumes an argument nor where it will run, and ``submit`` of an
executor is not told the task it is for. Both stand in the local variables of the DFK's methods. This is the one place
that looks; where nothing is found, callers do what any executor does.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from parsl.dataflow.dflow import DataFlowKernel
from parsl.jobs.job_status_poller import JobStatusPoller
from parsl.jobs.strategy import Strategy

_DEPTH = 16
"""Frames looked at: typeguard and logging wrappers stand between."""


def _codes(*names: str) -> frozenset[CodeType]:
    found = []
    for name in names:
        function: Any = getattr(DataFlowKernel, name, None)
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        if function is not None:
            found.append(function.__code__)
    return frozenset(found)


_SUBMIT = _codes("submit", "_launch_if_ready_async")
_LAUNCH = _codes("launch_task")
_UNWRAP = _codes("_unwrap_futures")
_CLOSE = frozenset({JobStatusPoller.close.__code__})
_AT_START = frozenset({Strategy._strategy_init_only.__code__})


def _find(codes: frozenset[CodeType]) -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame is None:
            return None
        if frame.f_code in codes:
            return frame
        frame = frame.f_back
    return None


def _record(frame: FrameType | None) -> dict[str, Any] | None:
    record = frame.f_locals.get("task_record") if frame is not None else None
    return record if isinstance(record, dict) and "dfk" in record else None


def consumer() -> dict[str, Any] | None:
    """Task record of the task whose arguments the DFK is looking through, from within a resolver hook."""
    return _record(_find(_SUBMIT))


def launched() -> dict[str, Any] | None:
    """Task record of the task that the DFK is giving to an executor, from within its ``submit``."""
    return _record(_find(_LAUNCH))


def run_ends() -> bool:
    """Whether the DFK ends the run, from within ``scale_in``: it scales all blocks in, then shuts executors down."""
    return _find(_CLOSE) is not None


def scales_only_at_start() -> bool:
    """Whether Parsl's strategy is "none", from within a call that it makes."""
    return _find(_AT_START) is not None


def unwraps_inputs() -> bool:
    """Whether the DFK is unwrapping the list ``inputs`` as one argument: it unwraps each of its items after that."""
    frame = _find(_UNWRAP)
    if frame is None:
        return False
    names = frame.f_locals
    # The first pass over positional arguments has no "key" yet; the last, over the items, has "new_inputs".
    return names.get("key") == "inputs" and "new_inputs" not in names
