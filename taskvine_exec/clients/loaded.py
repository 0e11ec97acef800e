"""The executor that an adapter uses if it was given none."""

from __future__ import annotations

import parsl
from parsl.errors import ConfigurationError, NoDataFlowKernelError

from taskvine_exec.executor import TaskVineExecutor

__all__ = ["loaded"]


def loaded(work: str, how: str) -> TaskVineExecutor:
    """Return the TaskVineExecutor of the Config that ``parsl.load`` has loaded.

    Parameters
    ----------
    work : str
        The work that the executor shall run, for messages.
    how : str
        How to name an executor, for messages.

    Returns
    -------
    TaskVineExecutor
        The executor.

    Raises
    ------
    parsl.errors.ConfigurationError
        If none is loaded, or several are.
    """
    try:
        executors = parsl.dfk().executors
    except NoDataFlowKernelError:
        executors = {}
    ours = {label: each for label, each in executors.items() if isinstance(each, TaskVineExecutor)}
    if len(ours) == 1:
        return next(iter(ours.values()))
    if ours:
        raise ConfigurationError(f"which TaskVineExecutor shall run {work}: {', '.join(ours)}? {how}")
    raise ConfigurationError(
        f"no TaskVineExecutor is loaded that could run {work}: call parsl.load(local_config()) first, or {how}"
    )
