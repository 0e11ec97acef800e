"""The resources of a task: Parsl's ``parsl_resource_specification``, read and checked.

:func:`parse` raises an error for each unknown key and impossible value. No key is ignored.
"""

from __future__ import annotations

import difflib
import math
import numbers
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from parsl.executors.errors import InvalidResourceSpecification

Mode = Literal["L1", "L2"]
"""L1 is a task in a fresh Python process, L2 a function call in a warm library."""

_MODES: Mapping[str, Mode] = {"regular": "L1", "L1": "L1", "serverless": "L2", "L2": "L2"}

MODES_ALLOWED = "one of " + ", ".join(map(repr, _MODES))
"""The accepted execution modes, for messages."""

_FOREIGN_NAMES: Mapping[str, str] = {
    "cpu": "cores",
    "cpus": "cores",
    "ncpus": "cores",
    "num_cpus": "cores",
    "mem": "memory",
    "ram": "memory",
    "gpu": "gpus",
    "num_gpus": "gpus",
    "gpu_mem": "gpu_memory",
    "gpumem": "gpu_memory",
    "vram": "gpu_memory",
    "walltime": "running_time_min",
    "runtime": "running_time_min",
    "mode": "function_exec_mode",
}
"""Names from other executors and batch systems whose letters differ too much from ours for a guess."""

MOST_GPUS = 1_000_000
"""More than any node has. Much larger numbers do not fit into a message."""
LEAST_GPU = 0.01
"""The smallest part of a GPU."""
_MPI_NAMES = frozenset({"num_nodes", "num_ranks", "ranks_per_node", "launcher_options"})


class ResourceSpecification(NamedTuple):
    """The resources that one task asks for. None means not specified.

    Parameters
    ----------
    cores
        Number of cores; may be a fraction.
    memory
        Memory in MB.
    disk
        Storage in MB.
    gpus
        Number of GPUs, or a part of one.
    gpu_memory
        Memory of each GPU in MB. Without ``gpus``, the task shares one.
    priority
        Any finite number; tasks with larger numbers run first. Default: 0.
    category
        The category whose statistics the task shares.
    running_time_min
        Shortest time that the task will run, in seconds. TaskVine does not send it to a worker that ends sooner, if the
        worker's end is known (``vine_worker --wall-time``). The end of an embedded node is never known.
    mode
        Execution mode of the function. Default: the executor's.
    recoverable
        Whether the task may be run again after its end to recreate lost files or a lost large result. Otherwise, tasks
        that read them fail.
    library
        Name of the library that runs the call. Default: the executor's default library.
    """

    cores: float | None = None
    memory: float | None = None
    disk: float | None = None
    gpus: float | None = None
    priority: float = 0.0
    category: str | None = None
    running_time_min: float | None = None
    mode: Mode | None = None
    recoverable: bool = True
    library: str | None = None
    gpu_memory: float | None = None


UNSPECIFIED = ResourceSpecification()
"""The specification of tasks that ask for nothing, shared by all of them."""


def parse(spec: Mapping[str, Any] | None) -> ResourceSpecification:
    """Read a resource specification in the form that users write.

    Parameters
    ----------
    spec
        Keys are those of :class:`ResourceSpecification`, except that the mode is called ``function_exec_mode`` or
        ``exec_mode``. A value of None counts as not specified.

    Returns
    -------
    ResourceSpecification
        The resources asked for; :data:`UNSPECIFIED` itself if there are none.

    Raises
    ------
    InvalidResourceSpecification
        If a key is unknown, a value is impossible, or the two names of the mode disagree. The message lists all
        problems.
    """
    if not spec:  # the usual case, which must be fast
        return UNSPECIFIED
    if not isinstance(spec, Mapping):
        raise InvalidResourceSpecification(set(), f"It must be a dict, not {type(spec).__name__}.")
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for key, value in spec.items():
        if key not in READERS:
            problems[str(key)] = _unknown(key)
        elif value is not None:
            name, read = READERS[key]
            try:
                result = read(value)
            except ValueError as error:
                problems[key] = f"{key}={brief(value)}: must be {error}."
                continue
            if values.setdefault(name, result) != result:  # only the mode has two names
                problems[key] = "exec_mode and function_exec_mode disagree: they are two names of one thing."
    if values.get("mode") == "L1" and "library" in values:
        problems["library"] = "library needs the mode 'L2': an L1 task runs in its own process, not in a library."
    if problems:
        raise InvalidResourceSpecification(set(problems), " ".join(problems.values()))
    return ResourceSpecification(**values) if values else UNSPECIFIED


def normalise_mode(value: object) -> Mode:
    """Return the short name of an execution mode.

    Parameters
    ----------
    value
        'regular' or 'L1', 'serverless' or 'L2'.

    Returns
    -------
    Mode
        'L1' or 'L2'.

    Raises
    ------
    ValueError
        If the value is none of these.
    """
    if isinstance(value, str) and value in _MODES:
        return _MODES[value]
    raise ValueError(f"execution mode {brief(value)} is not {MODES_ALLOWED}")


def did_you_mean(name: str, valid: Iterable[str], foreign: Mapping[str, str] | None = None) -> str:
    """Suggest what a mistyped name may have meant.

    Parameters
    ----------
    name
        The given name.
    valid
        The names that exist.
    foreign
        Names from elsewhere, each with its name here.

    Returns
    -------
    str
        A question with the nearest names, or else a list of all names.
    """
    valid = sorted(valid)
    meant = (foreign or {}).get(name.lower())
    near = [meant] if meant else difflib.get_close_matches(name.lower(), valid, n=3)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"known are {', '.join(valid)}."


def brief(value: object) -> str:
    """Show a value in a message, shortened."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to print integers of more than a few thousand digits
        return f"<{type(value).__name__}>"


def _unknown(key: object) -> str:
    if key in _MPI_NAMES:
        return f"{key!r} is for MPI tasks, and TaskVineExecutor has no MPI: each task runs on one node."
    return f"Unknown key {key!r}: {did_you_mean(str(key), READERS, _FOREIGN_NAMES)}"


def _number(value: object) -> float:
    # bool is an int in Python, but cores=True is a mistake and does not mean one core.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


def _amount(value: object) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError("a number of at least 0")
    return number


GPUS_ALLOWED = f"a whole number from 0 to {MOST_GPUS:,}, or a part of one gpu, from {LEAST_GPU} to 1"
"""The accepted numbers of GPUs, for messages."""


def number_of_gpus(value: object) -> float:
    """Return a number of GPUs: an int, or a float if it is a part of one.

    Raises
    ------
    ValueError
        If it is neither. The message says what is allowed.
    """
    try:
        number = _amount(value)
    except ValueError:
        raise ValueError(GPUS_ALLOWED) from None
    if LEAST_GPU <= number < 1:
        return number
    if not number.is_integer() or number > MOST_GPUS:
        raise ValueError(GPUS_ALLOWED)
    return int(number)


def _megabytes(value: object) -> float:
    number = _amount(value)
    if 0 < number < 1:
        raise ValueError("0, or a number of at least 1")
    return number


def _name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("text that UTF-8 can encode, without lone surrogates") from None
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _mode(value: object) -> Mode:
    try:
        return normalise_mode(value)
    except ValueError:
        raise ValueError(MODES_ALLOWED) from None


READERS: Mapping[str, tuple[str, Callable[[Any], object]]] = {
    "cores": ("cores", _amount),
    "memory": ("memory", _amount),
    "disk": ("disk", _amount),
    "gpus": ("gpus", number_of_gpus),
    "gpu_memory": ("gpu_memory", _megabytes),
    "priority": ("priority", _number),
    "category": ("category", _name),
    "running_time_min": ("running_time_min", _amount),
    "function_exec_mode": ("mode", _mode),
    "exec_mode": ("mode", _mode),
    "recoverable": ("recoverable", _flag),
    "library": ("library", _name),
}
