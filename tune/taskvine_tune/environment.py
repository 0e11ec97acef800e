"""Communication between a sweep and the program that it runs, through two environment variables.

``TASKVINE_TUNE``
    Tuning parameters as JSON, for the program: ``{"temp-replica-count": 2}``.
``TASKVINE_TUNE_REPORT``
    A file to which each executor of the program appends one line of JSON when it shuts down. Fields may be absent or
    null if they are not known, and others may be added::

        {"version": 1, "wall_seconds": 1.5, "bytes_moved": 4096, "storage_peak_bytes": 8192, "reexecutions": 0,
         "makespan_seconds": 1.2, "losses": 0}

    The fields are those of :class:`RunReport`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from taskvine_tune.errors import BadFile
from taskvine_tune.formats import parse
from taskvine_tune.tuning import TuneParameters

__all__ = [
    "PARAMETERS_VARIABLE",
    "QUANTITIES",
    "REPORT_VARIABLE",
    "Quantity",
    "RunReport",
    "parameters_from_environment",
    "read_reports",
]

PARAMETERS_VARIABLE = "TASKVINE_TUNE"
REPORT_VARIABLE = "TASKVINE_TUNE_REPORT"

Quantity = Literal["wall_seconds", "makespan_seconds", "bytes_moved", "storage_peak_bytes", "reexecutions", "losses"]

#: Values recorded for each run: the fields of :class:`RunReport`.
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

_VERSION = 1


def parameters_from_environment(environment: Mapping[str, str] | None = None) -> TuneParameters:
    """Return the tuning parameters that a sweep sets for the program.

    Parameters
    ----------
    environment
        Environment variables; None for those of this process.

    Returns
    -------
    TuneParameters
        The parameters in ``TASKVINE_TUNE``; none if it is not set or empty.

    Raises
    ------
    TuningError
        If they are not valid.
    """
    text = (os.environ if environment is None else environment).get(PARAMETERS_VARIABLE, "")
    return TuneParameters(parse(text, "json", PARAMETERS_VARIABLE)) if text.strip() else TuneParameters()


@dataclass(frozen=True)
class RunReport:
    """An executor's report of a run; unknown fields are None.

    Parameters
    ----------
    wall_seconds
        From the start to the shutdown of the executor.
    bytes_moved
        Bytes that nodes have sent to each other.
    storage_peak_bytes
        The most bytes that all nodes together held at a time.
    reexecutions
        Runs of tasks beyond the first of each.
    makespan_seconds
        From the first submission to the last end of a task.
    losses
        Nodes that were killed on purpose (the parameter ``executor.loss-interval``).
    """

    wall_seconds: float | None = None
    bytes_moved: float | None = None
    storage_peak_bytes: float | None = None
    reexecutions: float | None = None
    makespan_seconds: float | None = None
    losses: float | None = None

    def write(self, environment: Mapping[str, str] | None = None) -> bool:
        """Append the report to the file that ``TASKVINE_TUNE_REPORT`` names.

        Parameters
        ----------
        environment
            Environment variables; None for those of this process.

        Returns
        -------
        bool
            Whether the variable names a file.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        path = (os.environ if environment is None else environment).get(REPORT_VARIABLE)
        if not path:
            return False
        line = json.dumps({"version": _VERSION, **dataclasses.asdict(self)}) + "\n"
        # A single write in append mode: lines of several executors or processes do not mix.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "ab", buffering=0) as file:
            file.write(line.encode())
        return True


def read_reports(path: str) -> RunReport:
    """Return the combined reports of all executors of a run.

    Parameters
    ----------
    path
        The file. If it does not exist, no executor has reported anything.

    Returns
    -------
    RunReport
        The longest times, and the sums of the other values.

    Raises
    ------
    BadFile
        If a line of it is not a report.
    """
    try:
        with open(path, encoding="utf-8") as file:
            reports = [parse(line, "json", path) for line in file if line.strip()]
    except FileNotFoundError:
        return RunReport()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(path, str(error)) from None
    fields = {
        quantity: _together(max if quantity.endswith("_seconds") else sum, path, reports, quantity)
        for quantity in QUANTITIES
    }
    return RunReport(**fields)


def _together(how: Any, path: str, reports: Iterable[Mapping[str, Any]], field: str) -> float | None:
    values = [report[field] for report in reports if report.get(field) is not None]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise BadFile(path, f"{field} is {value!r}, not a number of at least 0")
    return how(values) if values else None
