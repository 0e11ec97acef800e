"""The base class of all exceptions, and the phrases of their messages."""

from __future__ import annotations

import threading
from typing import Any

from parsl.errors import ParslError


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


def sentence(*parts: str) -> str:
    """Join the parts that are not empty."""
    return ": ".join(part for part in parts if part)


def section(title: str, text: str) -> str:
    """Format remote output for display below a message; an empty text gives an empty section."""
    text = text.strip("\n")
    return f"\n--- {title} ---\n{text}" if text else ""


def task_name(task_id: int | None) -> str:
    return "task" if task_id is None else f"task {task_id}"


def is_interruption(error: BaseException) -> bool:
    """Tell whether an exception may come from a signal handler (such as Ctrl-C) and not from the called code.

    Python runs signal handlers in the main thread only. In any other thread, SystemExit or KeyboardInterrupt come from
    the user's own methods. Raised further, they would end the thread and leave its futures unresolved.
    """
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()
