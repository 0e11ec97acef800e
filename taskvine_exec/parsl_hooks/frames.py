"""Information that Parsl does not pass to its plugins, read from stack frames and the name of a thread.

The DFK does not tell its resolver hooks which task consumes an argument or where that task will run. It does not tell
an executor's ``submit`` which task it submits. Both are in local variables of the DFK's methods. If nothing is found,
callers behave like any other executor.
"""

from __future__ import annotations

import inspect
import sys
import threading
from types import CodeType, FrameType
from typing import Any

from parsl.dataflow.dflow import DataFlowKernel
from parsl.jobs.job_status_poller import JobStatusPoller
from parsl.jobs.strategy import Strategy

from taskvine_exec.parsl_hooks.switches import FRAMES

_DEPTH = 16
"""Most frames to search. There may be frames of typeguard and logging wrappers in between."""


def _codes(*names: str) -> tuple[CodeType, ...]:
    functions = [inspect.unwrap(getattr(DataFlowKernel, name)) for name in names if hasattr(DataFlowKernel, name)]
    return tuple(function.__code__ for function in functions)


_SUBMIT = _codes("submit", "_launch_if_ready_async")
_LAUNCH = _codes("launch_task")
_START = _codes("add_executors")
_UNWRAP = _codes("_unwrap_futures")
_CLOSE = (JobStatusPoller.close.__code__,)
_AT_START = (Strategy._strategy_init_only.__code__,)


def _find(codes: tuple[CodeType, ...]) -> FrameType | None:
    frame: FrameType | None = sys._getframe(2) if FRAMES.on else None
    for _ in range(_DEPTH):
        if frame is None or frame.f_code in codes:
            return frame
        frame = frame.f_back
    return None


def _record(frame: FrameType | None) -> dict[str, Any] | None:
    record = frame.f_locals.get("task_record") if frame is not None else None
    return record if isinstance(record, dict) and "dfk" in record else None


def consumer() -> dict[str, Any] | None:
    """Return the record of the task whose arguments the DFK is searching. To be called in a resolver hook."""
    return _record(_find(_SUBMIT))


def launched() -> dict[str, Any] | None:
    """Return the record of the task that the DFK is submitting. To be called in an executor's ``submit``."""
    return _record(_find(_LAUNCH))


def starting() -> Any:
    """Return the DataFlowKernel that is starting an executor. To be called in an executor's ``start``."""
    frame = _find(_START)
    return frame.f_locals.get("self") if frame is not None else None


def run_ends() -> bool:
    """Whether the DFK is ending the run, which it begins by scaling in all blocks. To be called in ``scale_in``."""
    return _find(_CLOSE) is not None


def strategy_calls() -> bool:
    """Whether Parsl's strategy makes the present call. True if that is not known."""
    return not FRAMES.on or threading.current_thread().name.startswith("JobStatusPoller")


def scales_only_at_start() -> bool:
    """Whether Parsl's strategy, which makes the present call, is "none". True if that is not known."""
    return not FRAMES.on or _find(_AT_START) is not None


def unwraps_inputs() -> bool:
    """Whether the DFK is unwrapping the list ``inputs`` as one argument. It unwraps each item after that."""
    frame = _find(_UNWRAP)
    if frame is None:
        return False
    names = frame.f_locals
    # The first pass over positional arguments has no "key" yet; the last, over the items, has "new_inputs".
    return names.get("key") == "inputs" and "new_inputs" not in names
