"""Which engine runs an executor: what is asked for, or what is there."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from typing import Literal

from parsl.errors import ConfigurationError, OptionalModuleMissing

logger = logging.getLogger(__name__)

INSTALL = "conda install -c conda-forge ndcctools"
"""What users are told to do."""
IMPORT_SECONDS = 60.0
"""Time that TaskVine's module may take to be imported, from a slow file system too."""

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
        problem = import_problem()
        if problem is None:
            return "taskvine", f"ndcctools and {worker} are there"
        logger.warning("TaskVine is installed, but not used, because ndcctools cannot be imported: %s", problem)
        return "embedded", f"ndcctools cannot be imported: {problem}"
    return "embedded", f"{f'{worker} is not on PATH' if has_module else 'ndcctools is not installed'} ({INSTALL})"


def module_is_there() -> bool:
    """Whether TaskVine's module can be imported; it is not: that takes time, and the manager alone needs it."""
    try:
        return importlib.util.find_spec("ndcctools.taskvine") is not None
    except ModuleNotFoundError:
        return False


@functools.cache
def import_problem() -> str | None:
    """What is wrong with TaskVine's module, if it cannot be imported; a process of its own tries that, once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import ndcctools.taskvine"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=IMPORT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if tried.returncode == 0:
        return None
    lines = tried.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ends Python with status {tried.returncode}"


def worker_is_there(worker: str) -> bool:
    """Whether the worker's program is there."""
    return shutil.which(os.path.expanduser(worker)) is not None
