"""Choice of the engine: as requested, or TaskVine if it is installed."""

from __future__ import annotations

import contextlib
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
"""Command that installs TaskVine, for messages."""
IMPORT_SECONDS = 60.0
"""Time limit for importing TaskVine's module. File systems may be slow."""

Choice = Literal["auto", "embedded", "taskvine"]


def choose(asked: Choice, worker: str) -> tuple[Literal["embedded", "taskvine"], str]:
    """Choose an engine.

    Parameters
    ----------
    asked : str
        The executor's ``engine`` argument.
    worker : str
        The worker program, a name or a path.

    Returns
    -------
    engine : str
        ``"embedded"`` or ``"taskvine"``.
    reason : str
        The reason, for the log.

    Raises
    ------
    OptionalModuleMissing
        If TaskVine is requested, but its module is not installed.
    ConfigurationError
        If TaskVine is requested, but the worker program is not on PATH.
    """
    if asked == "embedded":
        return "embedded", "it was requested"
    has_module, has_worker = module_is_there(), worker_is_there(worker)
    if asked == "taskvine":
        if not has_module:
            raise OptionalModuleMissing(["ndcctools"], f"engine='taskvine' needs TaskVine: {INSTALL}")
        if not has_worker:
            raise ConfigurationError(f"engine='taskvine' needs {worker}, which is not on PATH: {INSTALL}")
        return "taskvine", "it was requested"
    if has_module and has_worker:
        problem = import_problem()
        if problem is None:
            return "taskvine", f"ndcctools and {worker} were found"
        logger.warning("TaskVine is installed, but not used, because ndcctools cannot be imported: %s", problem)
        return "embedded", f"ndcctools cannot be imported: {problem}"
    return "embedded", f"{f'{worker} is not on PATH' if has_module else 'ndcctools is not installed'} ({INSTALL})"


def module_is_there() -> bool:
    """Tell whether TaskVine's module is installed, without importing it: only the manager needs it, and it is slow."""
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.util.find_spec("ndcctools.taskvine") is not None
    return False


@functools.cache
def import_problem() -> str | None:
    """Import TaskVine's module in another process, once, and return the error; None if there is none."""
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
    return lines[-1] if lines else f"the import ended Python with status {tried.returncode}"


def worker_is_there(worker: str) -> bool:
    """Tell whether the worker program exists, on PATH or at the given path."""
    return shutil.which(os.path.expanduser(worker)) is not None
