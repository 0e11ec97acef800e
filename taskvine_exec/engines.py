"""Which engine runs an executor: what is asked for, or what is there."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Literal

from parsl.errors import ConfigurationError, OptionalModuleMissing

INSTALL = "conda install -c conda-forge ndcctools"
"""What users are told to do."""

Choice = Literal["auto", "embedded", "taskvine"]


def choose(asked: Choice, worker: str) -> tuple[Literal["embedded", "taskvine"], str]:
    """Decide on an engine.

    Parameters
    ----------
    asked : str
        What the user wants.
    worker : str
        The worker's program, a name or a path.

    Returns
    -------
    engine : str
        ``"embedded"`` or ``"taskvine"``.
    reason : str
        Why, for the log.

    Raises
    ------
    OptionalModuleMissing
        If TaskVine is asked for, and its module is not installed.
    ConfigurationError
        If TaskVine is asked for, and its worker is not on the path.
    """
    if asked == "embedded":
        return "embedded", "it is asked for"
    has_module, has_worker = module_is_there(), worker_is_there(worker)
    if asked == "taskvine":
        if not has_module:
            raise OptionalModuleMissing(["ndcctools"], f"engine='taskvine' needs TaskVine: {INSTALL}")
        if not has_worker:
            raise ConfigurationError(f"engine='taskvine' needs {worker}, which is not on PATH: {INSTALL}")
        return "taskvine", "it is asked for"
    if has_module and has_worker:
        return "taskvine", f"ndcctools and {worker} are there"
    return "embedded", f"{f'{worker} is not on PATH' if has_module else 'ndcctools is not installed'} ({INSTALL})"


def module_is_there() -> bool:
    """Whether TaskVine's module can be imported; it is not: that takes time, and the manager alone needs it."""
    try:
        return importlib.util.find_spec("ndcctools.taskvine") is not None
    except ModuleNotFoundError:
        return False


def worker_is_there(worker: str) -> bool:
    """Whether the worker's program is there."""
    return shutil.which(os.path.expanduser(worker)) is not None
