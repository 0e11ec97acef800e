"""Measurements in separate processes, each in a new directory, and a description of the machine."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MARK = "TASKVINE_BENCHMARK"
"""Environment variable that every process of a measurement inherits; its value is the measurement's directory."""


class MeasurementFailed(Exception):
    """A measurement ended with an error, or took too long; the message says which."""


def measure(
    module: str, *arguments: object, directory: str | None = None, timeout: float | None = None, quiet: bool = False
) -> Any:
    """Run a module of this repository in a new Python process, and return its measurement.

    Parameters
    ----------
    module : str
        Name of the module, as for ``python -m``. The last line of its output is the measurement, as JSON.
    *arguments : object
        Its command line.
    directory : str, optional
        Working directory. Default: a new directory that is removed afterwards.
    timeout : float, optional
        Seconds after which the process is killed with all that it has started.
    quiet : bool
        Whether to show its standard error only if it fails.

    Returns
    -------
    object
        The measurement.

    Raises
    ------
    MeasurementFailed
        If the process fails.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
            return measure(module, *arguments, directory=own, timeout=timeout, quiet=quiet)
    environment = {
        **os.environ,
        MARK: directory,
        # Workers of all executors import functions by name; programs are found as in an activated environment.
        "PYTHONPATH": _joined([ROOT, f"{ROOT}/manager", f"{ROOT}/tune"], "PYTHONPATH"),
        "PATH": _joined([os.path.dirname(sys.executable)], "PATH"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            said, complaint = child.communicate(timeout=timeout)
        except BaseException as error:
            _kill(child, directory)
            if isinstance(error, subprocess.TimeoutExpired):
                raise MeasurementFailed(f"it did not end within {timeout:g} s") from None
            raise
    _kill(child, directory)  # processes left by an executor would disturb the next measurement
    if child.returncode:
        raise MeasurementFailed(
            f"it ended with status {child.returncode}: {(complaint or 'see above')[-3000:].strip()}"
        )
    return json.loads(said.splitlines()[-1])


def _joined(first: list[str], variable: str) -> str:
    return os.pathsep.join([*first, *filter(None, [os.environ.get(variable)])])


def _kill(child: subprocess.Popen[str], directory: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for process in marked(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def marked(directory: str) -> list[int]:
    """Return the ids of all processes of a measurement, even of those that have lost their parent."""
    wanted = f"{MARK}={directory}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.append(int(name))
    return found


def machine() -> dict[str, str]:
    """Describe the machine and the software."""
    import parsl

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        processor = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    return {
        "processor": processor,
        "processors": f"{os.cpu_count()} processors",
        "load": f"load {os.getloadavg()[0]:.1f} at the start",
        "python": f"Python {platform.python_version()}",
        "parsl": f"parsl {parsl.__version__}",
    }
