"""All exceptions of this package, in one hierarchy.

::

    parsl.errors.ParslError
    └── TaskVineExecutorError
        ├── TaskLost                     the task ended without a result or an exception of its app
        │   ├── SlotDied                 the process that ran the task died
        │   ├── MemoryExceeded           the task used too much memory
        │   ├── NodeLost                 the node died or was cut off
        │   ├── ManagerLost              the manager process died
        │   ├── LibraryFailed            the library could not start
        │   ├── ContextFailed            the library's setup function raised an exception
        │   ├── EnvironmentFailed        init_command or env_pack failed
        │   ├── FileMissing              an input file does not exist
        │   ├── FileLost                 every replica of a temp file or result is gone
        │   ├── FileUnreadable           a file exists, but cannot be read or copied now
        │   ├── OutputMissing            the task did not write a declared output
        │   ├── WorkingDirectoryMissing  the node does not see the directory that apps run in
        │   ├── DiskFull                 no space is left
        │   └── ResourcesUnsatisfiable   no node is large enough for the task
        ├── TaskCancelled                the task was cancelled, or the executor shut down
        ├── TaskExited                   the app called sys.exit or raised another BaseException
        ├── SerializationFailed          an object could not be pickled or unpickled
        │   ├── FunctionNotSerializable
        │   ├── FunctionNotLoadable
        │   ├── ArgumentNotSerializable
        │   ├── ArgumentNotLoadable
        │   ├── ResultNotSerializable
        │   └── ExceptionNotSerializable
        ├── ExecutorNotStarted
        ├── ExecutorShutDown
        ├── RunDirNotWritable
        └── WorkerLaunchFailed

Exceptions that the app itself raises reach the caller unchanged.

Nodes and the manager report a failure as a record: a short tag and a few fields. Only :func:`from_record` turns records
into exceptions.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

from parsl.errors import ParslError

__all__ = [
    "LOST_KINDS",
    "RECORD_KINDS",
    "ArgumentNotLoadable",
    "ArgumentNotSerializable",
    "ContextFailed",
    "DiskFull",
    "EnvironmentFailed",
    "ExceptionNotSerializable",
    "ExecutorNotStarted",
    "ExecutorShutDown",
    "FileLost",
    "FileMissing",
    "FileUnreadable",
    "FunctionNotLoadable",
    "FunctionNotSerializable",
    "LibraryFailed",
    "ManagerLost",
    "MemoryExceeded",
    "NodeLost",
    "OutputMissing",
    "ResourcesUnsatisfiable",
    "ResultNotSerializable",
    "RunDirNotWritable",
    "SerializationFailed",
    "SlotDied",
    "TaskCancelled",
    "TaskExited",
    "TaskLost",
    "TaskVineExecutorError",
    "WorkerLaunchFailed",
    "WorkingDirectoryMissing",
    "from_record",
    "is_interruption",
]


class TaskVineExecutorError(ParslError):
    """Base class of all exceptions of this package."""

    def __post_init__(self) -> None:
        # Dataclass constructors bypass BaseException.__init__; without this, repr() and loggers would show no message.
        self.args = (str(self),)

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with `args`, which hold the message instead of the fields.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[TaskVineExecutorError], args: tuple[Any, ...]) -> TaskVineExecutorError:
    """Create an instance without its constructor; pickle then restores the fields."""
    return cls.__new__(cls, *args)


def _sentence(*parts: str) -> str:
    """Join the parts that are not empty."""
    return ": ".join(part for part in parts if part)


def _section(title: str, text: str) -> str:
    """Format remote output for display below a message; an empty text gives an empty section."""
    text = text.strip("\n")
    return f"\n--- {title} ---\n{text}" if text else ""


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:  # real-time signals between SIGRTMIN and SIGRTMAX have no name
        return f"signal {number}"


@dataclass(eq=False, repr=False)
class TaskLost(TaskVineExecutorError):
    """The task ended without a result or an exception of its app.

    Parameters
    ----------
    task_id : int or None
        The executor's number of the task. None: the error concerns no single task.
    reason : str
        Further details.
    node : str or None
        The node on which the task was lost, if any.
    stderr : str
        The last lines of standard error. May be empty.
    """

    task_id: int | None
    reason: str = ""
    node: str | None = None
    stderr: str = ""

    def __str__(self) -> str:
        where = f" on node {self.node}" if self.node else ""
        return _sentence(f"{_task(self.task_id)} lost{where}", self._what(), self.reason) + self._details()

    def _what(self) -> str:
        """Return what happened, as the message of this class says it."""
        return ""

    def _details(self) -> str:
        return _section("stderr", self.stderr)


@dataclass(eq=False, repr=False)
class SlotDied(TaskLost):
    """The process that ran the task died.

    Parameters
    ----------
    exit_code : int or None
        Its exit code, if it exited.
    signal : int or None
        The signal that killed it, if any.
    """

    exit_code: int | None = None
    signal: int | None = None

    def _what(self) -> str:
        if self.signal is not None:
            return f"its process was killed by {_signal_name(self.signal)}"
        if self.exit_code is not None:
            return f"its process exited with code {self.exit_code}"
        return "its process died"


@dataclass(eq=False, repr=False)
class MemoryExceeded(TaskLost):
    """The task used too much memory.

    Parameters
    ----------
    limit_mb : float
        The task's limit in MB. 0: unknown.
    used_mb : float
        Memory in MB that the task used when it was killed. 0: unknown.
    slot_mb : float
        Memory in MB that the slot held before the task, if that was above the limit and the task was not started.
        Otherwise 0.
    group : str
        The control group that was out of memory, if the system killed the task's process. ``limit_mb`` and ``used_mb``
        are then those of all processes in the group. "the machine" if no group has a limit.
    """

    limit_mb: float = 0.0
    used_mb: float = 0.0
    slot_mb: float = 0.0
    group: str = ""

    def _what(self) -> str:
        if self.slot_mb:
            return (
                f"its memory limit of {self.limit_mb:.10g} MB is below the {self.slot_mb:.1f} MB that its slot holds "
                "before it begins (interpreter, context and modules)"
            )
        if self.group:
            used = f", of which {self.used_mb:.0f} MB were in use" if self.used_mb else ""
            return (
                "the system killed its process for lack of memory: all processes of its node together may use "
                f"{self.limit_mb:.0f} MB{used} (limit of {self.group})"
            )
        amounts = [f"{self.used_mb:.10g} MB used"] if self.used_mb else []
        amounts += [f"{self.limit_mb:.10g} MB allowed"] if self.limit_mb else []
        return "it used too much memory" + (f" ({', '.join(amounts)})" if amounts else "")

    def _details(self) -> str:
        advice = (
            ". Request more memory per node from the batch system, or declare the memory of each task in its resource "
            "specification, so that fewer tasks run at a time"
        )
        return (advice if self.group and not self.slot_mb else "") + super()._details()


class NodeLost(TaskLost):
    """The node that ran the task died or was cut off."""

    def _what(self) -> str:
        return "the node was lost"


class ManagerLost(TaskLost):
    """The manager process died, and all its tasks were lost."""

    def _what(self) -> str:
        return "the manager process was lost"


class LibraryFailed(TaskLost):
    """The library for the task could not start."""

    def _what(self) -> str:
        return "its library could not start"


@dataclass(eq=False, repr=False)
class ContextFailed(TaskLost):
    """The library's setup function raised an exception.

    Parameters
    ----------
    remote_traceback : str
        The traceback from the node.
    """

    remote_traceback: str = ""

    def _what(self) -> str:
        return "the context of its library could not be set up"

    def _details(self) -> str:
        return _section("remote traceback", self.remote_traceback) + super()._details()


class EnvironmentFailed(TaskLost):
    """The environment of ``init_command`` or ``env_pack`` could not be prepared."""

    def _what(self) -> str:
        return "its environment (init_command or env_pack) could not be prepared"


@dataclass(eq=False, repr=False)
class FileMissing(TaskLost):
    """An input file of the task does not exist.

    Parameters
    ----------
    path : str
        The expected path.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its input file {self.path!r} is missing" if self.path else "an input file is missing"


@dataclass(eq=False, repr=False)
class FileLost(TaskLost):
    """Every replica of a temp file or result is gone, and it cannot be recreated.

    Parameters
    ----------
    name : str
        The name of the file.
    """

    name: str = ""

    def _what(self) -> str:
        return f"every replica of temp file {self.name!r} is gone" if self.name else "a temp file is gone"


@dataclass(eq=False, repr=False)
class FileUnreadable(TaskLost):
    """A result or temp file exists, but cannot be read or copied.

    Causes are a lack of file descriptors, memory or storage, or a missing permission. The file is kept. Remove the
    cause and call ``future.result()`` again.

    Parameters
    ----------
    name : str
        The name of the file.
    """

    name: str = ""

    def _what(self) -> str:
        return f"{self.name!r} exists, but cannot be read" if self.name else "a file exists, but cannot be read"


@dataclass(eq=False, repr=False)
class OutputMissing(TaskLost):
    """The task ended without writing a declared output.

    Parameters
    ----------
    path : str
        The expected path.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its output file {self.path!r} was never written" if self.path else "an output file was never written"


@dataclass(eq=False, repr=False)
class WorkingDirectoryMissing(TaskLost):
    """The node does not see the directory in which apps run.

    Parameters
    ----------
    path : str
        The program's current directory when the executor was started.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its working directory {self.path!r} cannot be used on the node"

    def _details(self) -> str:
        advice = (
            ". Apps run in the directory from which your program started the executor: start it from a directory that "
            "all nodes see, or give the executor working_directory='sandbox'"
        )
        return advice + super()._details()


@dataclass(eq=False, repr=False)
class DiskFull(TaskLost):
    """No space was left on the node, or on your machine for large arguments.

    Parameters
    ----------
    path : str
        The file or directory that could not grow.
    """

    path: str = ""

    def _what(self) -> str:
        return f"no space was left at {self.path!r}" if self.path else "no space was left"


@dataclass(eq=False, repr=False)
class ResourcesUnsatisfiable(TaskLost):
    """The task asks for more resources than any node can ever offer.

    Parameters
    ----------
    requested : dict
        The task's request, by resource name.
    largest : dict
        The resources of the largest node.
    """

    requested: dict[str, Any] = field(default_factory=dict)
    largest: dict[str, Any] = field(default_factory=dict)

    def _what(self) -> str:
        amounts = [f"it asks for {_listing(self.requested)}"] if self.requested else []
        amounts += [f"the largest node has {_listing(self.largest)}"] if self.largest else []
        return "no node is large enough for it" + (f" ({'; '.join(amounts)})" if amounts else "")


def _listing(resources: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={amount}" for name, amount in resources.items())


@dataclass(eq=False, repr=False)
class TaskCancelled(TaskVineExecutorError):
    """The task was cancelled, or had not ended when the executor shut down.

    Parameters
    ----------
    task_id : int or None
        The executor's number of the task, if it had one already.
    reason : str
        Why it was cancelled.
    """

    task_id: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        return _sentence(f"{_task(self.task_id)} was cancelled", self.reason)


@dataclass(eq=False, repr=False)
class TaskExited(TaskVineExecutorError):
    """The app called ``sys.exit`` or raised another exception that is not an ``Exception``.

    Parameters
    ----------
    task_id : int or None
        The executor's number of the task.
    reason : str
        Further details.
    exc_type : str
        The name of the exception's class, such as ``SystemExit``.
    code : str
        The exit code as text, because ``sys.exit`` accepts any object.
    remote_traceback : str
        The traceback from the node.
    """

    task_id: int | None = None
    reason: str = ""
    exc_type: str = "SystemExit"
    code: str = ""
    remote_traceback: str = ""

    def __str__(self) -> str:
        code = f" with code {self.code}" if self.code else ""
        what = f"{_task(self.task_id)} did not return but raised {self.exc_type}{code}"
        return _sentence(what, self.reason) + _section("remote traceback", self.remote_traceback)


@dataclass(eq=False, repr=False)
class SerializationFailed(TaskVineExecutorError):
    """An object could not be pickled or unpickled.

    Parameters
    ----------
    task_id : int or None
        The executor's number of the task, if it had one already.
    reason : str
        The serializer's message.
    subject : str
        The object: the function's name, or the argument's position or name.
    remote_traceback : str
        The traceback from the node, if it failed there.
    """

    task_id: int | None = None
    reason: str = ""
    subject: str = ""
    remote_traceback: str = ""

    def __str__(self) -> str:
        subject = f" ({self.subject})" if self.subject else ""
        what = _sentence(_task(self.task_id), self._what() + subject, self.reason)
        return what + _section("remote traceback", self.remote_traceback)

    def _what(self) -> str:
        return "serialization failed"


class FunctionNotSerializable(SerializationFailed):
    """The function cannot be pickled."""

    def _what(self) -> str:
        return "the function cannot be serialized"


class FunctionNotLoadable(SerializationFailed):
    """The function cannot be loaded on the node, for example because its module is absent there."""

    def _what(self) -> str:
        return "the function cannot be loaded on the node"


class ArgumentNotSerializable(SerializationFailed):
    """An argument cannot be pickled."""

    def _what(self) -> str:
        return "an argument cannot be serialized"


class ArgumentNotLoadable(SerializationFailed):
    """An argument cannot be loaded on the node."""

    def _what(self) -> str:
        return "an argument cannot be loaded on the node"


class ResultNotSerializable(SerializationFailed):
    """The function returned, but its result cannot be pickled, or not unpickled in your process."""

    def _what(self) -> str:
        return "the result cannot be serialized"


class ExceptionNotSerializable(SerializationFailed):
    """The function raised an exception that cannot be sent back. The remote traceback shows it."""

    def _what(self) -> str:
        return "the exception that the function raised cannot be sent back"


def _task(task_id: int | None) -> str:
    return "task" if task_id is None else f"task {task_id}"


@dataclass(eq=False, repr=False)
class ExecutorNotStarted(TaskVineExecutorError):
    """The executor was used before it was started.

    Parameters
    ----------
    label : str
        The label of the executor.
    """

    label: str

    def __str__(self) -> str:
        return f"executor {self.label!r} has not been started: give it to parsl.load, or call its start()"


@dataclass(eq=False, repr=False)
class ExecutorShutDown(TaskVineExecutorError):
    """The executor was used after it was shut down.

    Parameters
    ----------
    label : str
        The label of the executor.
    reason : str
        Why the executor counts as shut down, if ``shutdown`` was not called.
    """

    label: str
    reason: str = ""

    def __str__(self) -> str:
        return f"executor {self.label!r} has been shut down" + (f": {self.reason}" if self.reason else "")


@dataclass(eq=False, repr=False)
class RunDirNotWritable(TaskVineExecutorError):
    """The run directory cannot be written to.

    Parameters
    ----------
    path : str
        The directory.
    reason : str
        The operating system's message.
    """

    path: str
    reason: str = ""

    def __str__(self) -> str:
        return _sentence(f"run directory {self.path!r} cannot be written to", self.reason)


@dataclass(eq=False, repr=False)
class WorkerLaunchFailed(TaskVineExecutorError):
    """A worker could not be launched.

    Parameters
    ----------
    reason : str
        The cause.
    command : str
        The launch command, if one was run.
    exit_code : int or None
        The command's exit code, if it ended.
    stderr : str
        The last lines of its standard error.
    job : str
        The number of its job in the batch system, or of its process.
    output : str
        The file with its standard error.
    """

    reason: str
    command: str = ""
    exit_code: int | None = None
    stderr: str = ""
    job: str = ""
    output: str = ""

    def __str__(self) -> str:
        facts = [f"job {self.job}"] if self.job else []
        facts += [f"exit code {self.exit_code}"] if self.exit_code is not None else []
        facts += [f"output in {self.output}"] if self.output else []
        command = f" [command: {self.command}]" if self.command else ""
        what = _sentence("a worker could not be launched", self.reason)
        return what + (f" ({', '.join(facts)})" if facts else "") + command + _section("stderr", self.stderr)


def is_interruption(error: BaseException) -> bool:
    """Tell whether an exception may come from a signal handler (such as Ctrl-C) and not from the called code.

    Python runs signal handlers in the main thread only. In any other thread, SystemExit or KeyboardInterrupt come from
    the user's own methods. Raised further, they would end the thread and leave its futures unresolved.
    """
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


#: Tags of lost tasks in result records.
LOST_KINDS: Mapping[str, type[TaskLost]] = {
    "slot-died": SlotDied,
    "memory": MemoryExceeded,
    "node-lost": NodeLost,
    "manager-lost": ManagerLost,
    "library": LibraryFailed,
    "context": ContextFailed,
    "environment": EnvironmentFailed,
    "file-missing": FileMissing,
    "file-lost": FileLost,
    "file-unreadable": FileUnreadable,
    "output-missing": OutputMissing,
    "directory-missing": WorkingDirectoryMissing,
    "disk-full": DiskFull,
    "unsatisfiable": ResourcesUnsatisfiable,
}

_Recorded = type[TaskLost] | type[TaskCancelled] | type[TaskExited] | type[SerializationFailed]

#: All tags of failures in result records. A failure before the task is sent has no tag and is raised directly.
RECORD_KINDS: Mapping[str, _Recorded] = {
    **LOST_KINDS,
    "cancelled": TaskCancelled,
    "exit": TaskExited,
    "function-load": FunctionNotLoadable,
    "argument-load": ArgumentNotLoadable,
    "result-dump": ResultNotSerializable,
    "exception-dump": ExceptionNotSerializable,
}


def from_record(kind: str, task_id: int | None, fields: Mapping[str, object]) -> TaskVineExecutorError:
    """Build the exception that a result record reports.

    Parameters
    ----------
    kind
        One of the tags of :data:`RECORD_KINDS`.
    task_id
        The executor's number of the task.
    fields
        Values of the exception's fields, by name. Fields that are absent or None keep their defaults. Unknown fields
        are ignored, so that nothing hides the reported error.

    Returns
    -------
    TaskVineExecutorError
        The exception to complete the task's future with.

    Raises
    ------
    ValueError
        If the tag is unknown.
    """
    cls = RECORD_KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown kind of failure {kind!r}; known are {', '.join(sorted(RECORD_KINDS))}")
    names = {each.name for each in dataclasses.fields(cls)} - {"task_id"}
    known: dict[str, Any] = {name: fields[name] for name in names if fields.get(name) is not None}
    return cls(task_id=task_id, **known)
