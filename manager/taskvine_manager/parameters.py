"""Every tuning parameter, declared once.

The names, defaults and bounds are those of ``vine_tune`` in cctools 8.0.0 (commit f4e3b63), which has 48 names for 45
parameters. TaskVine itself takes a double for each, ignores unknown names, and silently moves values into the bounds.
The executor's own parameters have names that begin with ``executor.``, and are declared in the same way.

Validation, the command line and the tables of the documentation derive from :data:`PARAMETERS`.
"""

from __future__ import annotations

import difflib
import enum
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from taskvine_manager.parameter_errors import OutOfRange, UnknownParameter, WrongType

__all__ = [
    "ENGINES",
    "NAMESPACE",
    "PARAMETERS",
    "TASKVINE_VERSION",
    "Engine",
    "Kind",
    "Parameter",
    "Standing",
    "Support",
    "Value",
    "canonical",
    "find",
    "honoured",
    "nearest",
]

#: The type of a parameter's value.
Value = bool | int | float

Engine = Literal["taskvine", "embedded"]
ENGINES: tuple[Engine, ...] = ("taskvine", "embedded")

#: The version of TaskVine with which the statements about it were checked.
TASKVINE_VERSION = "8.0.0"

#: The prefix of the executor's own parameters.
NAMESPACE = "executor."


class Kind(enum.Enum):
    """The type of a parameter."""

    FLAG = "flag"
    WHOLE = "whole number"
    REAL = "number"


class Support(enum.Enum):
    """What an engine does with a parameter."""

    NATIVE = "native"
    """TaskVine acts on it as declared."""
    CLAMPED = "clamped"
    """TaskVine acts on it, but changes some of the values that are declared valid."""
    NO_EFFECT = "no effect"
    """TaskVine accepts it without any effect."""
    EMULATED = "emulated"
    """The embedded engine does what TaskVine does."""
    OURS = "ours"
    """The executor's own parameter, and it has an effect."""
    IGNORED = "ignored"
    """It has no effect, and setting it logs a warning."""

    @property
    def acts(self) -> bool:
        """Whether setting the parameter changes anything."""
        return self not in (Support.NO_EFFECT, Support.IGNORED)


@dataclass(frozen=True)
class Standing:
    """What one engine does with a parameter.

    Parameters
    ----------
    support
        The kind of support.
    note
        Further information, as a sentence without its full stop.
    """

    support: Support
    note: str = ""

    def __str__(self) -> str:
        return f"{self.support.value}: {self.note}" if self.note else self.support.value


_NATIVE = Standing(Support.NATIVE)
_EMULATED = Standing(Support.EMULATED)
_IGNORED = Standing(Support.IGNORED)
_OURS = Standing(Support.OURS)

#: The largest C int, the type in which TaskVine keeps most whole numbers.
_INT = 2**31 - 1

#: A double holds every whole number up to this one exactly.
_EXACT = 2**53


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """The declaration of one tuning parameter.

    Parameters
    ----------
    name
        Its name, with dashes.
    kind
        Its type.
    default
        Its value when it is not set. For TaskVine's own parameters, TaskVine's default.
    effect
        What it does, in a sentence or two.
    minimum, maximum
        The bounds, in the parameter's unit; None for no bound.
    open_bounds
        Whether the bounds themselves are out of range.
    also
        Valid values out of the bounds, which have a special meaning.
    unit
        Unit of the value; empty for a plain count, factor or flag.
    meanings
        The meanings of special values, as pairs of value and meaning.
    aliases
        TaskVine's other names for the same parameter.
    since
        The first release of cctools whose ``vine_tune`` has it; empty for the executor's own.
    live
        Whether it can be changed while the executor runs.
    taskvine, embedded
        What each engine does with it.
    """

    name: str
    kind: Kind
    default: Value
    effect: str
    minimum: float | None = None
    maximum: float | None = None
    open_bounds: bool = False
    also: tuple[float, ...] = ()
    unit: str = ""
    meanings: tuple[tuple[float, str], ...] = ()
    aliases: tuple[str, ...] = ()
    since: str = ""
    live: bool = True
    taskvine: Standing = _NATIVE
    embedded: Standing = _IGNORED

    def on(self, engine: Engine) -> Standing:
        """Return what an engine does with the parameter."""
        return self.taskvine if engine == "taskvine" else self.embedded

    @property
    def ours(self) -> bool:
        """Whether it is the executor's own parameter, and not TaskVine's."""
        return self.name.startswith(NAMESPACE)

    @property
    def bounds(self) -> str:
        """The valid values in words, such as ``'1 to 10'``."""
        if self.kind is Kind.FLAG:
            return "true or false"
        low, high = self.minimum, None if self.maximum in (_INT, _EXACT) else self.maximum
        if self.open_bounds:
            words = [f"above {_shown(low)}"] if low is not None else []
            words += [f"below {_shown(high)}"] if high is not None else []
            text = " and ".join(words)
        elif low is not None and high is not None:
            text = f"{_shown(low)} to {_shown(high)}"
        elif low is not None:
            text = f"at least {_shown(low)}"
        else:
            text = f"at most {_shown(high)}" if high is not None else "any"
        return " or ".join([*map(_shown, self.also), text])

    def read(self, value: object) -> Value:
        """Check a value, and return it in the parameter's type.

        Parameters
        ----------
        value
            True, False, 1 or 0 for a flag, otherwise a number. A float without a fraction counts as a whole number,
            because TaskVine takes doubles. Numbers of numpy are accepted, strings are not.

        Returns
        -------
        bool, int or float
            The same value in the type that :attr:`kind` names.

        Raises
        ------
        WrongType
            If it is not of that type, not a number, or not finite.
        OutOfRange
            If it is out of the bounds; it is never moved into them.
        """
        if self.kind is Kind.FLAG:
            return self._flag(value)
        number = self._number(value)
        if not self._within(number):
            raise OutOfRange(self.name, number, self._all_bounds(), self.unit)
        return number

    def _flag(self, value: object) -> bool:
        # numpy's booleans are not bools, but compare equal to them.
        if isinstance(value, numbers.Real) or type(value).__name__ in ("bool", "bool_"):
            if value == 0:
                return False
            if value == 1:
                return True
        raise WrongType(self.name, value, "true or false (1 or 0)")

    def _number(self, value: object) -> int | float:
        # In Python a bool is an int, but True as a number of replicas is a mistake.
        expected = "a whole number" if self.kind is Kind.WHOLE else "a finite number"
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise WrongType(self.name, value, expected)
        if self.kind is Kind.WHOLE and isinstance(value, numbers.Integral):
            return int(value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or (self.kind is Kind.WHOLE and not number.is_integer()):
            raise WrongType(self.name, value, expected)
        return int(number) if self.kind is Kind.WHOLE else number

    def _within(self, number: float) -> bool:
        if number in self.also:
            return True
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low < number < high if self.open_bounds else low <= number <= high

    def _all_bounds(self) -> str:
        limit = f", and at most {self.maximum:.0f}" if self.maximum in (_INT, _EXACT) else ""
        return self.bounds + limit

    def meaning(self, value: Value) -> str:
        """Return the meaning of a special value; empty for other values."""
        return dict(self.meanings).get(value, "")


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:.10g}"


def _flag(name: str, default: bool, effect: str, since: str, **rest: Any) -> Parameter:
    return Parameter(name=name, kind=Kind.FLAG, default=default, effect=effect, since=since, **rest)


def _whole(name: str, default: int, minimum: int, effect: str, since: str, **rest: Any) -> Parameter:
    own: dict[str, Any] = {"minimum": minimum, "maximum": _INT, **rest}
    return Parameter(name=name, kind=Kind.WHOLE, default=default, effect=effect, since=since, **own)


def _real(name: str, default: float, effect: str, since: str, **rest: Any) -> Parameter:
    return Parameter(name=name, kind=Kind.REAL, default=default, effect=effect, since=since, **rest)


def _instead(what: str) -> Standing:
    return Standing(Support.IGNORED, what)


_KEPT = Standing(Support.NO_EFFECT, "the executor sets it itself, because its loop depends on the value")
_UNLIMITED = ((-1, "no limit"),)
_OFF = ((0, "off"),)
_NO_NETWORK = _instead("nodes and manager share a machine, so a closed connection is noticed at once")
_UNTIMED = _instead("transfers within one machine have no time limit")
_NO_MONITOR = _instead("the node itself watches memory")
_NO_STORAGE = _instead("the cache may fill the node's disk; its files are evicted when outputs need the space")
_NO_LOG = _instead("there is no such log")
_ONE_HOST = _instead("all nodes run on one host, so none is slower than the others")
_SHARES = Standing(Support.EMULATED, "for cores, memory and disk, only in the scheduler's count; off unless it is set")

_DATA = (
    _whole(
        "temp-replica-count",
        1,
        1,
        "Number of workers that hold each temp file. More replicas cost storage and transfers, and save recomputation "
        "when a worker is lost.",
        "7.8.0",
        embedded=_EMULATED,
        meanings=((1, "no replication"),),
    ),
    _flag(
        "transfer-temps-recovery",
        False,
        "When a worker is lost, copy its temp files from the remaining replicas until they reach their replica count.",
        "7.11.0",
        taskvine=Standing(Support.NO_EFFECT, "files are queued before the lost replicas are subtracted"),
        embedded=_EMULATED,
    ),
    _whole(
        "transfer-replica-per-cycle",
        10,
        1,
        "Maximum number of replicas requested in one scheduling cycle.",
        "7.11.0",
        taskvine=Standing(Support.NO_EFFECT, "the value is stored and never read"),
        embedded=_EMULATED,
    ),
    _flag(
        "clean-redundant-replicas",
        False,
        "Remove replicas beyond the replica count from workers on which no task reads them.",
        "7.17.0",
        embedded=_EMULATED,
    ),
    _flag(
        "shift-disk-load",
        False,
        "Move new temp files from the workers that hold the most data to workers with more free space.",
        "7.17.0",
        embedded=_EMULATED,
    ),
    _flag(
        "immediate-recovery",
        False,
        "Recreate a temp file as soon as its last replica is lost, instead of when a task needs it.",
        "7.7.0",
        embedded=_EMULATED,
    ),
    _whole(
        "worker-source-max-transfers",
        10,
        1,
        "Maximum number of simultaneous transfers from one worker to others.",
        "7.5.0",
        embedded=_EMULATED,
    ),
    _whole(
        "file-source-max-transfers",
        1,
        1,
        "Maximum number of simultaneous transfers from one source that is not a worker, such as a URL.",
        "7.5.0",
        embedded=_EMULATED,
    ),
    _flag(
        "load-from-shared-filesystem",
        False,
        "Let workers read declared files from a file system that they share with the manager, instead of receiving "
        "them from the manager.",
        "7.11.0",
        embedded=_instead("nodes share a file system anyway; with shared_fs=True tasks read files in place"),
    ),
    _real(
        "default-transfer-rate",
        1024.0 * 1024.0,
        "Transfer rate assumed for time limits until one has been measured.",
        "7.5.0",
        minimum=1,
        maximum=_INT,
        unit="bytes/s",
        embedded=Standing(Support.EMULATED, "to choose a node, not for time limits; 1e9 unless it is set"),
    ),
    _whole(
        "transfer-outlier-factor",
        10,
        1,
        "Factor by which a transfer may be slower than the average before it is given up.",
        "7.5.0",
        embedded=_UNTIMED,
    ),
    _whole(
        "min-transfer-timeout",
        60,
        0,
        "Minimum time limit of a transfer between manager and worker, even of a small file.",
        "7.5.0",
        unit="s",
        embedded=_UNTIMED,
    ),
    _real(
        "transient-error-interval",
        15.0,
        "Time before a worker, a library, a task or a replica is tried again after a failure.",
        "7.9.0",
        minimum=1,
        maximum=_INT,
        unit="s",
        embedded=_instead("the engine tries again when something has changed"),
    ),
)

_SCHEDULING = (
    _whole(
        "attempt-schedule-depth",
        100,
        1,
        "Maximum number of waiting tasks examined for one that fits, before the manager handles results.",
        "7.6.0",
        taskvine=_KEPT,
        embedded=_instead("every kind of waiting task is examined"),
    ),
    _flag(
        "prefer-dispatch",
        False,
        "Send waiting tasks to workers before returning finished tasks.",
        "7.7.1",
        taskvine=_KEPT,
        embedded=_instead("sending tasks and returning them do not wait for each other"),
    ),
    _whole(
        "max-retrievals",
        1,
        -1,
        "Maximum number of finished tasks fetched in one cycle.",
        "7.5.1",
        meanings=_UNLIMITED,
        embedded=_instead("nodes send their results without being asked"),
    ),
    _flag(
        "worker-retrievals",
        True,
        "Fetch all finished tasks of a worker at once, instead of one.",
        "7.5.1",
        embedded=_instead("nodes send their results without being asked"),
    ),
    _flag(
        "task-groups",
        False,
        "Send tasks that are connected by temp files together to one worker.",
        "7.15.0",
        embedded=_instead("short calls are sent to the node that produces their inputs anyway"),
    ),
    _whole(
        "hungry-minimum",
        10,
        1,
        "Number of waiting tasks below which the manager asks for more.",
        "7.5.0",
        embedded=_instead("the manager already has the whole graph"),
    ),
    _whole(
        "hungry-minimum-factor",
        2,
        1,
        "Number of waiting tasks per worker, or multiple of the workers' resources, below which the manager asks for "
        "more.",
        "7.7.0",
        embedded=_instead("the manager already has the whole graph"),
    ),
    _real(
        "resource-submit-multiplier",
        1.0,
        "Factor by which the manager overcommits a worker's cores, memory and GPUs, so that tasks wait at the worker "
        "instead of at the manager.",
        "7.5.0",
        minimum=1,
        aliases=("asynchrony-multiplier",),
        embedded=_EMULATED,
    ),
    _flag(
        "proportional-resources",
        True,
        "Give a task that requests a share of one resource of a worker the same share of the others. Setting it also "
        "sets proportional-whole-tasks.",
        "7.5.0",
        aliases=("force-proportional-resources",),
        embedded=_SHARES,
    ),
    _flag(
        "proportional-whole-tasks",
        False,
        "Round the share of proportional-resources up, so that a whole number of such tasks fills the worker.",
        "7.5.0",
        aliases=("force-proportional-resources-whole-tasks",),
        embedded=_SHARES,
    ),
    _flag(
        "ramp-down-heuristic",
        False,
        "Give a task all free resources of its worker when there are more workers than waiting tasks. Only with the "
        "resource monitor as a watchdog.",
        "7.7.0",
        embedded=_NO_MONITOR,
    ),
    _real(
        "disk-proportion-available-to-task",
        0.75,
        "Share of a worker's storage that tasks get; the worker's cache can grow into the rest.",
        "7.14.5",
        minimum=0,
        maximum=1,
        open_bounds=True,
        embedded=_NO_STORAGE,
    ),
    _real(
        "sandbox-grow-factor",
        2.0,
        "Factor by which the storage of a category grows after one of its tasks ran out of storage.",
        "7.14.5",
        minimum=1.1,
        taskvine=Standing(Support.NATIVE, "the result is multiplied by the old size once more"),
        embedded=_NO_STORAGE,
    ),
    _whole(
        "large-task-check-interval",
        180_000_000,
        1,
        "Time between two checks for tasks that are larger than every worker.",
        "7.7.0",
        maximum=_EXACT,
        unit="µs",
        embedded=_instead("such tasks are refused when they arrive"),
    ),
    _whole(
        "max-library-retries",
        15,
        0,
        "Number of failures after which a library is not started again.",
        "7.14.5",
        taskvine=Standing(Support.CLAMPED, "every value above 1 becomes 1; only the default is larger"),
        embedded=Standing(Support.EMULATED, "counts libraries killed before they were ready; 3 unless it is set"),
    ),
    _flag(
        "watch-library-logfiles",
        False,
        "Copy the logs of libraries to the manager while they run.",
        "7.12.0",
        embedded=_instead("libraries write their logs to the run directory anyway"),
    ),
    _whole(
        "max-task-stdout-storage",
        1024**3,
        1,
        "Maximum size of a task's standard output; the rest is cut off.",
        "7.7.0",
        unit="bytes",
        embedded=Standing(Support.EMULATED, "for L1 tasks, in the logs of their node; no limit unless it is set"),
    ),
    _whole(
        "category-steady-n-tasks",
        25,
        1,
        "Number of finished tasks of a category after which its resources are predicted again. Applies to every "
        "manager of the process.",
        "7.5.0",
        embedded=_instead("tasks get the resources that they request; nothing is predicted"),
    ),
)

_WORKERS = (
    _whole(
        "wait-for-workers",
        0,
        0,
        "Number of workers that must have joined before the first task is sent.",
        "7.5.0",
        embedded=_EMULATED,
    ),
    _whole(
        "max-workers",
        -1,
        -1,
        "Maximum number of workers; TaskVine turns further workers away.",
        "7.15.5",
        meanings=((-1, "no limit"), (0, "no limit")),
        embedded=Standing(Support.EMULATED, "a further node waits until another has left"),
    ),
    _whole(
        "max-new-workers",
        10,
        0,
        "Maximum number of workers admitted in one cycle, before the manager does other work.",
        "7.7.0",
        meanings=((0, "same as 1"),),
        embedded=_instead("admitting a node delays nothing"),
    ),
    _real(
        "disconnect-slow-worker-factor",
        0.0,
        "Multiple of the average time of a category beyond which a task's worker counts as slow. It is disconnected "
        "when this happens again.",
        "7.5.0",
        minimum=1,
        also=(0.0,),
        meanings=_OFF,
        embedded=_ONE_HOST,
    ),
    _real(
        "option-blocklist-slow-workers-timeout",
        900.0,
        "Time for which the host of a slow worker is not admitted again.",
        "7.7.0",
        minimum=0,
        maximum=_INT,
        unit="s",
        meanings=((0, "never admitted again"),),
        embedded=_ONE_HOST,
    ),
    _whole(
        "enforce-worker-eviction-interval",
        0,
        0,
        "Average time between two removals of a random worker, to test how a workflow survives losses.",
        "7.15.5",
        unit="s",
        meanings=_OFF,
        embedded=Standing(Support.EMULATED, "nodes are killed; executor.loss-interval also takes fractions of seconds"),
    ),
    _whole(
        "keepalive-interval",
        120,
        0,
        "Time without a message from a worker after which it is asked for an answer.",
        "7.5.0",
        unit="s",
        meanings=_OFF,
        taskvine=Standing(Support.NATIVE, "30 s unless it is set, to notice sooner when a host is cut off"),
        embedded=Standing(
            Support.EMULATED, "30 s unless it is set; nodes and the manager are asked while there are tasks"
        ),
    ),
    _whole(
        "keepalive-timeout",
        900,
        0,
        "Time without an answer after which a worker counts as lost.",
        "7.5.0",
        unit="s",
        taskvine=Standing(Support.NATIVE, "60 s unless it is set, to notice sooner when a host is cut off"),
        embedded=Standing(
            Support.EMULATED, "60 s unless it is set; also for slots, tasks and libraries stopped by SIGSTOP"
        ),
    ),
    _whole(
        "short-timeout",
        5,
        1,
        "Time limit for a short message.",
        "7.5.0",
        unit="s",
        embedded=_NO_NETWORK,
    ),
    _whole(
        "long-timeout",
        3600,
        1,
        "Time limit for a message that has begun to arrive.",
        "7.5.0",
        unit="s",
        embedded=_NO_NETWORK,
    ),
)

_MEASURING = (
    _whole(
        "monitor-interval",
        0,
        0,
        "Time between two measurements of a task by the resource monitor.",
        "7.5.1",
        unit="s",
        meanings=((0, "the monitor's own interval"),),
        embedded=_NO_MONITOR,
    ),
    _whole(
        "resource-management-interval",
        30,
        1,
        "Time between two measurements of the manager's own resources.",
        "7.7.0",
        unit="s",
        embedded=_NO_LOG,
    ),
    _whole(
        "perf-log-interval",
        5,
        1,
        "Time between two lines of the performance log.",
        "7.7.0",
        taskvine=_KEPT,
        unit="s",
        embedded=_NO_LOG,
    ),
    _whole(
        "update-interval",
        60,
        1,
        "Time between two reports to the catalog server, if the manager has a project name.",
        "7.7.0",
        unit="s",
        embedded=_instead("the manager reports to no catalog server"),
    ),
)

_BY_BYTES = _instead("TaskVine takes the worker with most bytes of the inputs, then the one with most free cores")


def _own(name: str, kind: Kind, default: Value, effect: str, **rest: Any) -> Parameter:
    own: dict[str, Any] = {"taskvine": _OURS, "embedded": _OURS, **rest}
    return Parameter(name=NAMESPACE + name, kind=kind, default=default, effect=effect, **own)


_EXECUTOR = (
    _own(
        "library-slots",
        Kind.WHOLE,
        0,
        "Number of function calls that the library of a node runs at a time. This is num_slots of library_config, "
        "under a name that a sweep can set.",
        minimum=0,
        maximum=_INT,
        meanings=((0, "one for each core"),),
        live=False,
    ),
    _own(
        "inline-limit",
        Kind.WHOLE,
        32 * 1024,
        "Size above which a value is a file on a node instead of part of a message. This is the executor's "
        "inline_limit, under a name that a sweep can set.",
        minimum=0,
        maximum=64 * 1024,
        unit="bytes",
        live=False,
    ),
    _own(
        "batch",
        Kind.WHOLE,
        0,
        "Maximum number of short calls sent together: to a slot, or with TaskVine in one of its tasks.",
        minimum=0,
        maximum=65536,
        meanings=((0, "64 on the embedded engine, 1024 with TaskVine"), (1, "no batching")),
    ),
    _own(
        "prefetch",
        Kind.REAL,
        0.020,
        "Amount of work that is sent to a node ahead of a free slot, for each slot. Calls that take longer are not "
        "sent ahead.",
        minimum=0,
        maximum=60,
        unit="s",
        meanings=_OFF,
        taskvine=_instead("a node gets two batches at a time; executor.batch sets their size"),
    ),
    _own(
        "awake",
        Kind.REAL,
        0.0005,
        "Time for which the manager polls for the next message before it sleeps, while there are at most four tasks. "
        "A sequence of short calls then takes three quarters of the time.",
        minimum=0,
        maximum=0.1,
        unit="s",
        meanings=((0, "the manager sleeps at once"),),
    ),
    _own(
        "weight-transfer",
        Kind.REAL,
        1.0,
        "Weight, in the choice of a node, of the expected time to copy a task's inputs there.",
        minimum=0,
        maximum=1000,
        meanings=((0, "ignores where the inputs are"),),
        taskvine=_BY_BYTES,
    ),
    _own(
        "weight-wait",
        Kind.REAL,
        1.0,
        "Weight, in the choice of a node, of the expected time until a busy node is free.",
        minimum=0,
        maximum=1000,
        meanings=((0, "ignores whether a node is busy"),),
        taskvine=_BY_BYTES,
    ),
    _own(
        "loss-interval",
        Kind.REAL,
        0.0,
        "Average time between two kills of a random node while there are tasks, to test how a workflow survives "
        "losses.",
        minimum=0.01,
        maximum=1e6,
        also=(0.0,),
        unit="s",
        meanings=_OFF,
        taskvine=Standing(
            Support.CLAMPED, "it becomes enforce-worker-eviction-interval, in whole seconds, which releases workers"
        ),
    ),
    _own(
        "loss-seed",
        Kind.WHOLE,
        0,
        "Random seed for the kills of executor.loss-interval: when they happen, and which node is killed.",
        minimum=0,
        maximum=_INT,
        taskvine=_instead("TaskVine draws its own random numbers"),
    ),
)

#: Every declaration by name: TaskVine's, in groups (data, scheduling, workers, measuring), then the executor's own.
#: This is also the order in which to set them: proportional-resources sets proportional-whole-tasks, so it comes first.
PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {each.name: each for each in (*_DATA, *_SCHEDULING, *_WORKERS, *_MEASURING, *_EXECUTOR)}
)

_BY_ANY_NAME: Mapping[str, Parameter] = MappingProxyType(
    dict(PARAMETERS) | {alias: each for each in PARAMETERS.values() for alias in each.aliases}
)

#: Parameters under names that users may try, where the spelling is too different for a guess.
_FOREIGN = {
    "wait-retrieve-many": ("max-retrievals", "worker-retrievals"),  # until 7.5.0
    "replicas": ("temp-replica-count",),
    "replication": ("temp-replica-count",),
    "batching": ("executor.batch",),
    "losses": ("executor.loss-interval",),
    "loss-rate": ("executor.loss-interval",),
    "num-slots": ("executor.library-slots",),
    "function-slots": ("executor.library-slots",),
}


def canonical(name: str) -> str:
    """Return a name with dashes instead of underscores."""
    return name.replace("_", "-")


def find(name: object) -> Parameter:
    """Return the declaration of a parameter.

    Parameters
    ----------
    name
        A parameter's name or one of its aliases, with dashes or underscores.

    Returns
    -------
    Parameter
        Its declaration.

    Raises
    ------
    UnknownParameter
        If there is none. The error names the most similar parameters.
    """
    if isinstance(name, str) and (found := _BY_ANY_NAME.get(canonical(name))) is not None:
        return found
    raise UnknownParameter(name, nearest(name) if isinstance(name, str) else ())


def nearest(name: str) -> tuple[str, ...]:
    """Return the names of parameters that are most similar to a name, best first, at most three."""
    wanted = canonical(name.strip().lower())
    if wanted in _BY_ANY_NAME:
        return (wanted,)
    if wanted in _FOREIGN:
        return _FOREIGN[wanted]
    # The executor's own parameters are also found without their prefix.
    spellings = {each: each for each in _BY_ANY_NAME}
    spellings |= {each.removeprefix(NAMESPACE): each for each in _BY_ANY_NAME if each.startswith(NAMESPACE)}
    close = difflib.get_close_matches(wanted, spellings, n=3, cutoff=0.6)
    return tuple(dict.fromkeys(spellings[each] for each in close))


def honoured(engine: Engine) -> frozenset[str]:
    """Return the names of the parameters that an engine acts on."""
    return frozenset(each.name for each in PARAMETERS.values() if each.on(engine).support.acts)
