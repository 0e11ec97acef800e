"""Objects that could not be pickled or unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from taskvine_exec.errors.base import TaskVineExecutorError, section, sentence, task_name


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

    _happened: ClassVar[str] = "serialization failed"

    task_id: int | None = None
    reason: str = ""
    subject: str = ""
    remote_traceback: str = ""

    def __str__(self) -> str:
        subject = f" ({self.subject})" if self.subject else ""
        what = sentence(task_name(self.task_id), self._happened + subject, self.reason)
        return what + section("remote traceback", self.remote_traceback)


class FunctionNotSerializable(SerializationFailed):
    """The function cannot be pickled."""

    _happened = "the function cannot be serialized"


class FunctionNotLoadable(SerializationFailed):
    """The function cannot be loaded on the node, for example because its module is absent there."""

    _happened = "the function cannot be loaded on the node"


class ArgumentNotSerializable(SerializationFailed):
    """An argument cannot be pickled."""

    _happened = "an argument cannot be serialized"


class ArgumentNotLoadable(SerializationFailed):
    """An argument cannot be loaded on the node."""

    _happened = "an argument cannot be loaded on the node"


class ResultNotSerializable(SerializationFailed):
    """The function returned, but its result cannot be pickled, or not unpickled in your process."""

    _happened = "the result cannot be serialized"


class ExceptionNotSerializable(SerializationFailed):
    """The function raised an exception that cannot be sent back. The remote traceback shows it."""

    _happened = "the exception that the function raised cannot be sent back"
