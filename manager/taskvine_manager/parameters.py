"""Every tuning parameter, declared once.

The names, defaults and bounds are those of ``vine_tune`` in cctools 8.0.0 (commit f4e3b63), which knows 48 names for 45
parameters; TaskVine itself takes a double for each, ignores names it does not know, and moves values into the bounds
in silence. What the executor adds is declared in the same way, under names that begin with ``executor.``.

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

#: What a parameter's value is.
Value = bool | int | float

Engine = Literal["taskvine", "embedded"]
ENGINES: tuple[Engine, ...] = ("taskvine", "embedded")

#: The version that the statements about TaskVine were checked with.
TASKVINE_VERSION = "8.0.0"

#: What the names of the executor's own parameters begin with.
NAMESPACE = "executor."


class Kind(enum.Enum):
    """The types that a parameter can have."""

    FLAG = "flag"
    WHOLE = "whole number"
    REAL = "number"


class Support(enum.Enum):
    """What becomes of a parameter on an engine."""

    NATIVE = "native"
    """TaskVine acts on it as declared."""
    CLAMPED = "clamped"
    """TaskVine acts on it, but moves some of the values that are declared as valid."""
    NO_EFFECT = "no effect"
    """TaskVine takes it, and nothing changes."""
    EMULATED = "emulated"
    """Code of ours does what TaskVine does."""
    OURS = "ours"
    """The executor's own parameter, acted on."""
    IGNORED = "ignored"
    """Nothing acts on it; setting it logs a warning."""

    @property
    def acts(self) -> bool:
        """Whether setting the parameter changes anything."""
        return self not in (Support.NO_EFFECT, Support.IGNORED)


@dataclass(frozen=True)
class Standing:
    """What becomes of a parameter on one engine.

    Parameters
    ----------
    support
        In one word.
    note
        What else there is to know, as a sentence without its full stop.
    """

    support: Support
    note: str = ""

    def __str__(self) -> str:
        return f"{self.support.value}: {self.note}" if self.note else self.support.value


_NATIVE = Standing(Support.NATIVE)
_EMULATED = Standing(Support.EMULATED)
_IGNORED = Standing(Support.IGNORED)
_OURS = Standing(Support.OURS)

#: The largest C int, which is what TaskVine keeps most whole numbers in.
_INT = 2**31 - 1

#: The largest whole number up to which a double holds each.
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
        What it is when it is not set. For TaskVine's own parameters, TaskVine's default.
    effect
        What it does, in one sentence.
    minimum, maximum
        The bounds, in the parameter's unit; None for none.
    open_bounds
        Whether the bounds themselves are out of range.
    also
        Values outside of the bounds that are valid all the same, because they mean something else.
    unit
        Unit of the value; empty for a plain count, factor or flag.
    meanings
        What certain values mean, as pairs of value and meaning.
    aliases
        Other names of TaskVine's for the same parameter.
    since
        The first release of cctools whose ``vine_tune`` knows it; empty for the executor's own.
    live
        Whether a running executor can be tuned with it.
    taskvine, embedded
        What becomes of it on each engine.
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
        """What becomes of the parameter on an engine."""
        return self.taskvine if engine == "taskvine" else self.embedded

    @property
    def ours(self) -> bool:
        """Whether it is the executor's own and not TaskVine's."""
        return self.name.startswith(NAMESPACE)

    @property
    def bounds(self) -> str:
        """What is allowed, in words, such as ``'1 to 10'``."""
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
        """Check a value, and give it the parameter's type.

        Parameters
        ----------
        value
            The value: True, False, 1 or 0 for a flag, else a number. A float that is whole counts as a whole number,
            as TaskVine takes doubles. Numbers of numpy are numbers; strings never are.

        Returns
        -------
        bool, int or float
            The same value in the type that :attr:`kind` stands for.

        Raises
        ------
        WrongType
            If it is not of that type, not a number, or not finite.
        OutOfRange
            If it is outside of the bounds. It is never moved inside them.
        """
        if self.kind is Kind.FLAG:
            return self._flag(value)
        number = self._number(value)
        if not self._within(number):
            raise OutOfRange(self.name, number, self._all_bounds(), self.unit)
        return number

    def _flag(self, value: object) -> bool:
        # numpy's booleans are no bool, but compare equal to one.
        if isinstance(value, numbers.Real) or type(value).__name__ in ("bool", "bool_"):
            if value == 0:
                return False
            if value == 1:
                return True
        raise WrongType(self.name, value, "true or false (1 or 0)")

    def _number(self, value: object) -> int | float:
        # bool is an int to Python, but True replicas is a mistake, not one replica.
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
        """What a value means beyond itself; empty for most."""
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


_KEPT = Standing(Support.NO_EFFECT, "the executor sets it itself: its loop depends on it")
_UNLIMITED = ((-1, "no limit"),)
_OFF = ((0, "off"),)
_NO_NETWORK = _instead("nodes and manager share a machine, and the end of a connection is seen at once")
_UNTIMED = _instead("transfers within a machine are not timed")
_NO_MONITOR = _instead("memory is watched by the node itself")
_NO_STORAGE = _instead("the cache has what the node has, and gives way to what is made")
_NO_LOG = _instead("there is no such log")
_ONE_HOST = _instead("all nodes are on one host: none is slower than the others")
_SHARES = Standing(Support.EMULATED, "of cores, memory and disk, in what is counted; off unless it is set")

_DATA = (
    _whole(
        "temp-replica-count",
        1,
        1,
        "Number of workers that shall hold each temp file; more cost storage and transfers, and save recomputation "
        "when a worker is lost.",
        "7.8.0",
        embedded=_EMULATED,
        meanings=((1, "no replication"),),
    ),
    _flag(
        "transfer-temps-recovery",
        False,
        "When a worker is lost, bring the temp files that it held back to their replica count from what is left.",
        "7.11.0",
        taskvine=Standing(Support.NO_EFFECT, "files are queued before the lost replicas are taken off the count"),
        embedded=_EMULATED,
    ),
    _whole(
        "transfer-replica-per-cycle",
        10,
        1,
        "Number of replicas to request at most in one scheduling cycle.",
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
        "Move new temp files from the workers that hold most to workers with more room.",
        "7.17.0",
        embedded=_EMULATED,
    ),
    _flag(
        "immediate-recovery",
        False,
        "Make a temp file whose last replica was lost again at once, instead of when a task needs it.",
        "7.7.0",
        embedded=_EMULATED,
    ),
    _whole(
        "worker-source-max-transfers",
        10,
        1,
        "Number of transfers that one worker serves to others at a time.",
        "7.5.0",
        embedded=_EMULATED,
    ),
    _whole(
        "file-source-max-transfers",
        1,
        1,
        "Number of workers that fetch from one source outside of the workers, such as a URL, at a time.",
        "7.5.0",
        embedded=_EMULATED,
    ),
    _flag(
        "load-from-shared-filesystem",
        False,
        "Have workers read declared files from a file system that they share with the manager, instead of receiving "
        "them from it.",
        "7.11.0",
        embedded=_instead("nodes share a file system as it is; with shared_fs=True tasks read files where they are"),
    ),
    _real(
        "default-transfer-rate",
        1024.0 * 1024.0,
        "Rate of transfers that is assumed for time limits until one has been measured.",
        "7.5.0",
        minimum=1,
        maximum=_INT,
        unit="bytes/s",
        embedded=Standing(Support.EMULATED, "in the choice of a node, instead of time limits; 1e9 unless it is set"),
    ),
    _whole(
        "transfer-outlier-factor",
        10,
        1,
        "Number of times slower than the average that a transfer may be before it is given up.",
        "7.5.0",
        embedded=_UNTIMED,
    ),
    _whole(
        "min-transfer-timeout",
        60,
        0,
        "Time that every transfer between manager and worker is given, however small.",
        "7.5.0",
        unit="s",
        embedded=_UNTIMED,
    ),
    _real(
        "transient-error-interval",
        15.0,
        "Time for which a worker, a library, a task or a replica is not tried again after it has failed.",
        "7.9.0",
        minimum=1,
        maximum=_INT,
        unit="s",
        embedded=_instead("what failed is tried again when something has changed"),
    ),
)

_SCHEDULING = (
    _whole(
        "attempt-schedule-depth",
        100,
        1,
        "Number of waiting tasks that are looked at for one that fits, before results are attended to.",
        "7.6.0",
        taskvine=_KEPT,
        embedded=_instead("every kind of task that waits is looked at"),
    ),
    _flag(
        "prefer-dispatch",
        False,
        "Send out tasks that wait before handing back those that are done.",
        "7.7.1",
        taskvine=_KEPT,
        embedded=_instead("neither waits for the other"),
    ),
    _whole(
        "max-retrievals",
        1,
        -1,
        "Number of done tasks that are fetched in one cycle at most.",
        "7.5.1",
        meanings=_UNLIMITED,
        embedded=_instead("results are not fetched but sent"),
    ),
    _flag(
        "worker-retrievals",
        True,
        "Fetch all done tasks of a worker at once, instead of one.",
        "7.5.1",
        embedded=_instead("results are not fetched but sent"),
    ),
    _flag(
        "task-groups",
        False,
        "Send tasks that are linked by temp files to one worker together.",
        "7.15.0",
        embedded=_instead("short calls follow those that make their inputs without it"),
    ),
    _whole(
        "hungry-minimum",
        10,
        1,
        "Number of waiting tasks below which the manager asks for more.",
        "7.5.0",
        embedded=_instead("the whole graph is with the manager"),
    ),
    _whole(
        "hungry-minimum-factor",
        2,
        1,
        "Number of waiting tasks for each worker, or multiple of the workers' resources, below which the manager asks "
        "for more.",
        "7.7.0",
        embedded=_instead("the whole graph is with the manager"),
    ),
    _real(
        "resource-submit-multiplier",
        1.0,
        "Multiple of a worker's cores, memory and GPUs that is given out, so that tasks wait at the worker instead of "
        "at the manager.",
        "7.5.0",
        minimum=1,
        aliases=("asynchrony-multiplier",),
        embedded=_EMULATED,
    ),
    _flag(
        "proportional-resources",
        True,
        "Give a task that asks for a share of one resource of a worker the same share of the others; setting it sets "
        "proportional-whole-tasks too.",
        "7.5.0",
        aliases=("force-proportional-resources",),
        embedded=_SHARES,
    ),
    _flag(
        "proportional-whole-tasks",
        False,
        "Round that share up, so that a whole number of such tasks fills the worker.",
        "7.5.0",
        aliases=("force-proportional-resources-whole-tasks",),
        embedded=_SHARES,
    ),
    _flag(
        "ramp-down-heuristic",
        False,
        "Give a task all that is free on its worker when there are more workers than waiting tasks; only with the "
        "resource monitor as a watchdog.",
        "7.7.0",
        embedded=_NO_MONITOR,
    ),
    _real(
        "disk-proportion-available-to-task",
        0.75,
        "Share of a worker's storage that is given to tasks; the rest is left for its cache to grow.",
        "7.14.5",
        minimum=0,
        maximum=1,
        open_bounds=True,
        embedded=_NO_STORAGE,
    ),
    _real(
        "sandbox-grow-factor",
        2.0,
        "Factor by which the storage of a category grows after a task ran out of it.",
        "7.14.5",
        minimum=1.1,
        taskvine=Standing(Support.NATIVE, "the result is multiplied by the old size once more"),
        embedded=_NO_STORAGE,
    ),
    _whole(
        "large-task-check-interval",
        180_000_000,
        1,
        "Time between two looks for tasks that are larger than every worker.",
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
        taskvine=Standing(Support.CLAMPED, "every value above 1 becomes 1; only the default is more"),
        embedded=Standing(Support.EMULATED, "of libraries that were killed before they were up; 3 unless it is set"),
    ),
    _flag(
        "watch-library-logfiles",
        False,
        "Bring the logs of libraries home while they run.",
        "7.12.0",
        embedded=_instead("they are written to the run directory as it is"),
    ),
    _whole(
        "max-task-stdout-storage",
        1024**3,
        1,
        "Length to which the standard output of a task is cut.",
        "7.7.0",
        unit="bytes",
        embedded=Standing(Support.EMULATED, "of L1 tasks, in the logs of their node; without limit unless it is set"),
    ),
    _whole(
        "category-steady-n-tasks",
        25,
        1,
        "Number of done tasks of a category after which its resources are predicted anew; holds for every manager of "
        "the process.",
        "7.5.0",
        embedded=_instead("resources are what is asked for, and not predicted"),
    ),
)

_WORKERS = (
    _whole(
        "wait-for-workers",
        0,
        0,
        "Number of workers that must have come before the first task is sent.",
        "7.5.0",
        embedded=_EMULATED,
    ),
    _whole(
        "max-workers",
        -1,
        -1,
        "Number of workers above which one that comes is sent away.",
        "7.15.5",
        meanings=((-1, "no limit"), (0, "no limit")),
        embedded=Standing(Support.EMULATED, "one that comes beyond it waits until another has gone"),
    ),
    _whole(
        "max-new-workers",
        10,
        0,
        "Number of workers that are let in in one cycle, before other things are attended to.",
        "7.7.0",
        meanings=((0, "as 1"),),
        embedded=_instead("letting one in holds nothing up"),
    ),
    _real(
        "disconnect-slow-worker-factor",
        0.0,
        "Multiple of the average time of a category beyond which a task's worker counts as slow, and is sent away when "
        "it happens again.",
        "7.5.0",
        minimum=1,
        also=(0.0,),
        meanings=_OFF,
        embedded=_ONE_HOST,
    ),
    _real(
        "option-blocklist-slow-workers-timeout",
        900.0,
        "Time for which the host of a slow worker is not let in again.",
        "7.7.0",
        minimum=0,
        maximum=_INT,
        unit="s",
        meanings=((0, "for good"),),
        embedded=_ONE_HOST,
    ),
    _whole(
        "enforce-worker-eviction-interval",
        0,
        0,
        "Average time between two removals of a worker at random, to try out how a workflow bears losses.",
        "7.15.5",
        unit="s",
        meanings=_OFF,
        embedded=Standing(Support.EMULATED, "they are killed; executor.loss-interval takes fractions of seconds too"),
    ),
    _whole(
        "keepalive-interval",
        120,
        0,
        "Time without a word from a worker after which it is asked whether it lives.",
        "7.5.0",
        unit="s",
        meanings=_OFF,
        taskvine=Standing(
            Support.NATIVE, "30 s unless it is set: the executor looks sooner for hosts that are cut off"
        ),
        embedded=Standing(
            Support.EMULATED, "30 s unless it is set; nodes are asked while there are tasks, and so is the manager"
        ),
    ),
    _whole(
        "keepalive-timeout",
        900,
        0,
        "Time without an answer after which a worker counts as lost.",
        "7.5.0",
        unit="s",
        taskvine=Standing(
            Support.NATIVE, "60 s unless it is set: the executor looks sooner for hosts that are cut off"
        ),
        embedded=Standing(
            Support.EMULATED, "60 s unless it is set; also for slots, tasks and libraries that are stopped (SIGSTOP)"
        ),
    ),
    _whole(
        "short-timeout",
        5,
        1,
        "Time that a short message may take.",
        "7.5.0",
        unit="s",
        embedded=_NO_NETWORK,
    ),
    _whole(
        "long-timeout",
        3600,
        1,
        "Time that a message may take that has begun to arrive.",
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
        embedded=_instead("it reports to nobody"),
    ),
)

_BY_BYTES = _instead("it takes the node with most bytes of the inputs, then the one with most cores free")


def _own(name: str, kind: Kind, default: Value, effect: str, **rest: Any) -> Parameter:
    own: dict[str, Any] = {"taskvine": _OURS, "embedded": _OURS, **rest}
    return Parameter(name=NAMESPACE + name, kind=kind, default=default, effect=effect, **own)


_EXECUTOR = (
    _own(
        "library-slots",
        Kind.WHOLE,
        0,
        "Number of function calls that the library of a node runs at a time; num_slots of library_config, under a name "
        "that a sweep can set.",
        minimum=0,
        maximum=_INT,
        meanings=((0, "one for each core"),),
        live=False,
    ),
    _own(
        "inline-limit",
        Kind.WHOLE,
        32 * 1024,
        "Size above which a value is a file on a node, instead of part of a message; the executor's inline_limit, "
        "under a name that a sweep can set.",
        minimum=0,
        maximum=64 * 1024,
        unit="bytes",
        live=False,
    ),
    _own(
        "batch",
        Kind.WHOLE,
        0,
        "Number of short calls that travel together at most: to a slot, or with TaskVine in one of its tasks.",
        minimum=0,
        maximum=65536,
        meanings=((0, "what suits the engine: 64 on the embedded one, 1024 with TaskVine"), (1, "no batching")),
    ),
    _own(
        "prefetch",
        Kind.REAL,
        0.020,
        "Work that a node is handed ahead of a free slot, for each slot; calls that take longer are not handed out "
        "ahead.",
        minimum=0,
        maximum=60,
        unit="s",
        meanings=_OFF,
        taskvine=_instead("a node is given two batches at a time; executor.batch says how large they are"),
    ),
    _own(
        "awake",
        Kind.REAL,
        0.0005,
        "Time for which the manager, after a message, looks for the next before it sleeps, while there are no more "
        "than four tasks: one small call after another takes three quarters of the time if it need not wake up.",
        minimum=0,
        maximum=0.1,
        unit="s",
        meanings=((0, "they sleep at once"),),
    ),
    _own(
        "weight-transfer",
        Kind.REAL,
        1.0,
        "Factor, in the choice of a node, on the time that it is expected to take to bring a task's inputs there.",
        minimum=0,
        maximum=1000,
        meanings=((0, "wherever the inputs are"),),
        taskvine=_BY_BYTES,
    ),
    _own(
        "weight-wait",
        Kind.REAL,
        1.0,
        "Factor, in the choice of a node, on the time that a busy one is expected to stay busy.",
        minimum=0,
        maximum=1000,
        meanings=((0, "whether it is busy or not"),),
        taskvine=_BY_BYTES,
    ),
    _own(
        "loss-interval",
        Kind.REAL,
        0.0,
        "Average time between two kills of a node, at random, while there is work: to try out how a workflow bears "
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
        "Seed of the times of these kills, and of which node is killed.",
        minimum=0,
        maximum=_INT,
        taskvine=_instead("TaskVine draws for itself"),
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

#: What parameters are called elsewhere, where the letters are too far apart to guess.
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
    """The spelling with dashes of a name with dashes, underscores, or both."""
    return name.replace("_", "-")


def find(name: object) -> Parameter:
    """Look a declaration up.

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
        If there is none. It names those that are nearest.
    """
    if isinstance(name, str) and (found := _BY_ANY_NAME.get(canonical(name))) is not None:
        return found
    raise UnknownParameter(name, nearest(name) if isinstance(name, str) else ())


def nearest(name: str) -> tuple[str, ...]:
    """The names of parameters that are most like a name, best first, at most three."""
    wanted = canonical(name.strip().lower())
    if wanted in _BY_ANY_NAME:
        return (wanted,)
    if wanted in _FOREIGN:
        return _FOREIGN[wanted]
    # The executor's own are found without their namespace too.
    spellings = {each: each for each in _BY_ANY_NAME}
    spellings |= {each.removeprefix(NAMESPACE): each for each in _BY_ANY_NAME if each.startswith(NAMESPACE)}
    close = difflib.get_close_matches(wanted, spellings, n=3, cutoff=0.6)
    return tuple(dict.fromkeys(spellings[each] for each in close))


def honoured(engine: Engine) -> frozenset[str]:
    """The names of the parameters that an engine acts on."""
    return frozenset(each.name for each in PARAMETERS.values() if each.on(engine).support.acts)
