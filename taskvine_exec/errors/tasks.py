"""Tasks that ended without a result: lost, cancelled, or exited."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from signal import Signals
from typing import Any, ClassVar

from taskvine_exec.errors.base import TaskVineExecutorError, section, sentence, task_name


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

    _happened: ClassVar[str] = ""

    task_id: int | None
    reason: str = ""
    node: str | None = None
    stderr: str = ""

    def __str__(self) -> str:
        where = f" on node {self.node}" if self.node else ""
        return sentence(f"{task_name(self.task_id)} lost{where}", self._what(), self.reason) + self._details()

    def _what(self) -> str:
        """Return what happened, as the message of this class says it."""
        return self._happened

    def _details(self) -> str:
        return section("stderr", self.stderr)


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


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):  # real-time signals between SIGRTMIN and SIGRTMAX have no name
        return Signals(number).name
    return f"signal {number}"


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

    _happened = "the node was lost"


class ManagerLost(TaskLost):
    """The manager process died, and all its tasks were lost."""

    _happened = "the manager process was lost"


class LibraryFailed(TaskLost):
    """The library for the task could not start."""

    _happened = "its library could not start"


@dataclass(eq=False, repr=False)
class ContextFailed(TaskLost):
    """The library's setup function raised an exception.

    Parameters
    ----------
    remote_traceback : str
        The traceback from the node.
    """

    remote_traceback: str = ""

    _happened = "the context of its library could not be set up"

    def _details(self) -> str:
        return section("remote traceback", self.remote_traceback) + super()._details()


class EnvironmentFailed(TaskLost):
    """The environment of ``init_command`` or ``env_pack`` could not be prepared."""

    _happened = "its environment (init_command or env_pack) could not be prepared"


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
    units = {"memory": " MB of memory", "disk": " MB of disk", "gpu_memory": " MB of gpu memory"}
    return ", ".join(f"{amount:g}{units.get(name, ' ' + name)}" for name, amount in resources.items())


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
        return sentence(f"{task_name(self.task_id)} was cancelled", self.reason)


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
        what = f"{task_name(self.task_id)} did not return but raised {self.exc_type}{code}"
        return sentence(what, self.reason) + section("remote traceback", self.remote_traceback)
