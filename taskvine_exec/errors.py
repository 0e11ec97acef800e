"""Every exception this package raises, in one hierarchy.

::

    parsl.errors.ParslError
    └── TaskVineExecutorError
        ├── TaskLost                     infrastructure lost the task; the app is not to blame
        │   ├── SlotDied                 the process that ran the task died
        │   ├── MemoryExceeded           the task used more memory than it may
        │   ├── NodeLost                 the node went away
        │   ├── ManagerLost              the manager process went away
        │   ├── LibraryFailed            the library could not start
        │   ├── ContextFailed            the setup function of the library raised
        │   ├── EnvironmentFailed        init_command or env_pack could not be applied
        │   ├── FileMissing              an input file is not there
        │   ├── FileLost                 every replica of a temp file is gone
        │   ├── FileUnreadable           a file is there, and cannot be read or copied just now
        │   ├── OutputMissing            a declared output was never written
        │   ├── WorkingDirectoryMissing  the node does not see the directory that apps run in
        │   ├── DiskFull                 no storage was left on the node
        │   └── ResourcesUnsatisfiable   no node can ever hold the request
        ├── TaskCancelled                cancelled, or overtaken by shutdown
        ├── TaskExited                   the app left by sys.exit or another BaseException
        ├── SerializationFailed          something could not cross between processes
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

An exception that the app itself raised is none of these: it reaches the caller as it is.

What a node or the manager reports arrives as a short tag and a few fields; :func:`from_record` is the one place
that turns such a record into an exception.
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
    """Base of every exception of this package."""

    def __post_init__(self) -> None:
        # Dataclass constructors bypass BaseException.__init__; without this, repr() and loggers would show no message.
        self.args = (str(self),)

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with `args`, which hold the message and not the fields.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[TaskVineExecutorError], args: tuple[Any, ...]) -> TaskVineExecutorError:
    """Make an instance without its constructor; pickle then restores the fields."""
    return cls.__new__(cls, *args)


def _sentence(*parts: str) -> str:
    """Join the parts that say something."""
    return ": ".join(part for part in parts if part)


def _section(title: str, text: str) -> str:
    """Show remote output below a message, if there is any."""
    text = text.strip("\n")
    return f"\n--- {title} ---\n{text}" if text else ""


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:  # real-time signals between SIGRTMIN and SIGRTMAX have no name of their own
        return f"signal {number}"


@dataclass(eq=False, repr=False)
class TaskLost(TaskVineExecutorError):
    """Infrastructure lost the task.

    Parameters
    ----------
    task_id
        The executor's number of the task; None where no single one is meant.
    reason
        What is known beyond the class of the error.
    node
        The node it happened on, where there was one.
    stderr
        The tail of what was written to standard error there, maybe empty.
    """

    task_id: int | None
    reason: str = ""
    node: str | None = None
    stderr: str = ""

    def __str__(self) -> str:
        where = f" on node {self.node}" if self.node else ""
        return _sentence(f"{_task(self.task_id)} lost{where}", self._what(), self.reason) + self._details()

    def _what(self) -> str:
        """Say what happened, in words that fit this class."""
        return ""

    def _details(self) -> str:
        return _section("stderr", self.stderr)


@dataclass(eq=False, repr=False)
class SlotDied(TaskLost):
    """The process that ran the task died.

    Parameters
    ----------
    exit_code
        Its exit code, where it exited.
    signal
        The signal that killed it, where one did.
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
    """The task used more memory than it may.

    Parameters
    ----------
    limit_mb
        What it was allowed, in MB; 0 where that is not known.
    used_mb
        What it used when it was stopped, in MB; 0 where that is not known.
    slot_mb
        What its slot holds before the task begins, in MB, if the task was not started because that is above the limit.
    group
        The control group that reached its limit, where the system killed the task's process for that; limit and use
        are those of all processes in the group then. "the machine" if no group has a limit.
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
        return "it used more memory than it may" + (f" ({', '.join(amounts)})" if amounts else "")

    def _details(self) -> str:
        advice = (
            ". Ask the batch system for more memory for each node, or say in the tasks' resource specification how "
            "much memory each needs, so that fewer run at a time"
        )
        return (advice if self.group and not self.slot_mb else "") + super()._details()


class NodeLost(TaskLost):
    """The node that held the task went away."""

    def _what(self) -> str:
        return "the node was lost"


class ManagerLost(TaskLost):
    """The manager process went away, and with it every task it knew."""

    def _what(self) -> str:
        return "the manager process was lost"


class LibraryFailed(TaskLost):
    """The library that was to run the task could not start."""

    def _what(self) -> str:
        return "its library could not start"


@dataclass(eq=False, repr=False)
class ContextFailed(TaskLost):
    """The setup function of the library raised an exception.

    Parameters
    ----------
    remote_traceback
        The traceback as it was printed on the node.
    """

    remote_traceback: str = ""

    def _what(self) -> str:
        return "the context of its library could not be set up"

    def _details(self) -> str:
        return _section("remote traceback", self.remote_traceback) + super()._details()


class EnvironmentFailed(TaskLost):
    """The environment asked for by ``init_command`` or ``env_pack`` could not be made."""

    def _what(self) -> str:
        return "its environment (init_command or env_pack) could not be prepared"


@dataclass(eq=False, repr=False)
class FileMissing(TaskLost):
    """An input file of the task is not there.

    Parameters
    ----------
    path
        Where it was expected.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its input file {self.path!r} is missing" if self.path else "an input file is missing"


@dataclass(eq=False, repr=False)
class FileLost(TaskLost):
    """Every replica of a temp file is gone, and it cannot be made again.

    Parameters
    ----------
    name
        The name of the file.
    """

    name: str = ""

    def _what(self) -> str:
        return f"every replica of temp file {self.name!r} is gone" if self.name else "a temp file is gone"


@dataclass(eq=False, repr=False)
class FileUnreadable(TaskLost):
    """A result or temp file is there, but cannot be read or copied: descriptors, memory, storage or a permission lack.

    The file is kept. ``future.result()`` can be called again when what lacked is there.

    Parameters
    ----------
    name
        The name of the file.
    """

    name: str = ""

    def _what(self) -> str:
        return f"{self.name!r} is there, but cannot be read" if self.name else "a file is there, but cannot be read"


@dataclass(eq=False, repr=False)
class OutputMissing(TaskLost):
    """The task ended, but a declared output was never written.

    Parameters
    ----------
    path
        Where the output was expected.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its output file {self.path!r} was never written" if self.path else "an output file was never written"


@dataclass(eq=False, repr=False)
class WorkingDirectoryMissing(TaskLost):
    """The node does not see the directory in which apps run.

    Parameters
    ----------
    path
        The directory: where the program was when the executor was started.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its working directory {self.path!r} cannot be used there"

    def _details(self) -> str:
        advice = (
            ". Apps run in the directory in which the program was when the executor was started: start it in one that "
            "all nodes see, or give the executor working_directory='sandbox'"
        )
        return advice + super()._details()


@dataclass(eq=False, repr=False)
class DiskFull(TaskLost):
    """No storage was left on the node.

    Parameters
    ----------
    path
        The file or directory that could not grow.
    """

    path: str = ""

    def _what(self) -> str:
        return f"no storage was left at {self.path!r}" if self.path else "no storage was left"


@dataclass(eq=False, repr=False)
class ResourcesUnsatisfiable(TaskLost):
    """The task asks for more than any node can ever offer.

    Parameters
    ----------
    requested
        What was asked for, by resource name.
    largest
        What the largest node has.
    """

    requested: dict[str, Any] = field(default_factory=dict)
    largest: dict[str, Any] = field(default_factory=dict)

    def _what(self) -> str:
        amounts = [f"it asks for {_listing(self.requested)}"] if self.requested else []
        amounts += [f"the largest node has {_listing(self.largest)}"] if self.largest else []
        return "no node can ever hold it" + (f" ({'; '.join(amounts)})" if amounts else "")


def _listing(resources: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={amount}" for name, amount in resources.items())


@dataclass(eq=False, repr=False)
class TaskCancelled(TaskVineExecutorError):
    """The task was cancelled, or was pending or running at shutdown.

    Parameters
    ----------
    task_id
        The executor's number of the task, where it had one already.
    reason
        Who cancelled it and why.
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
    task_id
        The executor's number of the task.
    reason
        What is known beyond that.
    exc_type
        The name of the exception's class, such as ``SystemExit``.
    code
        The exit code, as text: any object may be given to ``sys.exit``.
    remote_traceback
        The traceback as it was printed on the node.
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
    """Something could not be turned into bytes, or back.

    Parameters
    ----------
    task_id
        The executor's number of the task, where it had one already.
    reason
        What the serializer said.
    subject
        What it was about: the function's name, the argument's position or name.
    remote_traceback
        The traceback as it was printed on the node, where it happened there.
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
    """The function cannot be sent."""

    def _what(self) -> str:
        return "the function cannot be serialized"


class FunctionNotLoadable(SerializationFailed):
    """The function cannot be loaded on the node, for example because its module is absent there."""

    def _what(self) -> str:
        return "the function cannot be loaded on the node"


class ArgumentNotSerializable(SerializationFailed):
    """An argument cannot be sent."""

    def _what(self) -> str:
        return "an argument cannot be serialized"


class ArgumentNotLoadable(SerializationFailed):
    """An argument cannot be loaded on the node."""

    def _what(self) -> str:
        return "an argument cannot be loaded on the node"


class ResultNotSerializable(SerializationFailed):
    """The function returned, but its result cannot be sent."""

    def _what(self) -> str:
        return "the result cannot be serialized"


class ExceptionNotSerializable(SerializationFailed):
    """The function raised, but its exception cannot be passed on; the remote traceback tells what it was."""

    def _what(self) -> str:
        return "the exception that the function raised cannot be passed on"


def _task(task_id: int | None) -> str:
    return "task" if task_id is None else f"task {task_id}"


@dataclass(eq=False, repr=False)
class ExecutorNotStarted(TaskVineExecutorError):
    """The executor was used before it was started.

    Parameters
    ----------
    label
        The label of the executor.
    """

    label: str

    def __str__(self) -> str:
        return f"executor {self.label!r} has not been started"


@dataclass(eq=False, repr=False)
class ExecutorShutDown(TaskVineExecutorError):
    """The executor was used after it was shut down.

    Parameters
    ----------
    label
        The label of the executor.
    reason
        Why it counts as shut down, if nobody has called ``shutdown``.
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
    path
        The directory.
    reason
        What the operating system said.
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
    reason
        What went wrong.
    command
        The command that was to launch it, if one was run.
    exit_code
        The exit code of that command, if it ended.
    stderr
        The tail of what it wrote to standard error.
    job
        The number of its job in the batch system, or of its process.
    output
        The file that its standard error went to.
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
    """Whether an exception may come from a signal handler (Ctrl-C, for one) and not from the code that was called.

    Python runs signal handlers in the main thread only. In any other thread, a SystemExit or KeyboardInterrupt was
    raised by the user's own methods; passed on there it would end the thread, and leave its futures unresolved.
    """
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


#: Short tags for what infrastructure does to a task, as they travel in result records.
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

#: Every tag a result record may carry. What fails before a task is sent has no tag: it is raised where it fails.
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
    """Build the exception that a result record stands for.

    Parameters
    ----------
    kind
        One of the tags of :data:`RECORD_KINDS`.
    task_id
        The executor's number of the task.
    fields
        What else is known, by field name. Fields that are absent or None keep their defaults. Fields that the
        exception does not have are passed over: nothing may hide the error that is being reported.

    Returns
    -------
    TaskVineExecutorError
        The exception to complete the task's future with.

    Raises
    ------
    ValueError
        If no such tag exists.
    """
    cls = RECORD_KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown kind of failure {kind!r}; known are {', '.join(sorted(RECORD_KINDS))}")
    names = {each.name for each in dataclasses.fields(cls)} - {"task_id"}
    known: dict[str, Any] = {name: fields[name] for name in names if fields.get(name) is not None}
    return cls(task_id=task_id, **known)
