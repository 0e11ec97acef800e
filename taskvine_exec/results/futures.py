"""From completions to futures: a task returned, raised an exception, or was lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from functools import partial
from typing import Any, NamedTuple

from taskvine_exec.errors import ExceptionNotSerializable, ResultNotSerializable, from_record
from taskvine_exec.parsl_hooks.conditions import LightFuture
from taskvine_exec.parsl_hooks.futures import as_result
from taskvine_exec.results.advice import WorkingDirectories
from taskvine_exec.values import Loader, Value, Where
from taskvine_manager.runtime import failure, payload
from taskvine_manager.wire.messages import Completion


class TaskTimes(NamedTuple):
    """The times of a task, in seconds since the epoch, and the node where it ran.

    ``started - dispatched`` is the overhead of starting the task: from the start of the launch on its node to the entry
    of its function. For a lost task, a time is zero if that step never happened.
    """

    submitted: float
    dispatched: float
    started: float
    finished: float
    node: str


class TaskFuture(LightFuture):
    """The future that ``submit`` returns.

    Attributes
    ----------
    parsl_executor_task_id : int
        The executor's number of the task.
    taskvine_times : TaskTimes or None
        Set before the future is done, if the task was started on a node.
    """

    argument_bytes = 0
    """Bytes that were stored for its arguments, if the task is a chunk."""

    def __init__(self, number: int, submitted: float) -> None:
        super().__init__()
        self.parsl_executor_task_id = number
        self.submitted = submitted
        self.taskvine_times: TaskTimes | None = None
        self.value: Value | None = None
        self.needs: Sequence[Value] = ()  # results that it reads, kept until it is over


def settle(
    future: TaskFuture,
    completion: Completion,
    load: Loader,
    proxy: Callable[[Value], Any] | None = None,
    directories: WorkingDirectories | None = None,
) -> None:
    """Complete a future. A future that is already done, for example cancelled, does not change.

    A large result may stay on its node. The future then holds its :class:`~taskvine_exec.values.Value`, which
    ``load(value, timeout)`` loads when it is read, or the proxy that ``proxy`` makes of the value.

    If a task did not find a file that is in the program's directory, ``directories`` adds a note to its exception.
    """
    number, outcome, body, node, dispatched, started, seconds, made, _ = completion
    if started:
        future.taskvine_times = TaskTimes(future.submitted, dispatched, started, started + seconds, node)
    try:
        if outcome == failure.RETURNED and future.value is not None and isinstance(body, str):
            size, stamp = next(((size, stamp) for file, size, stamp in made if file == future.value.number), (0, 0))
            future.value.stays(load, Where(node, body, size, stamp))
            try:
                result = as_result(future.value) if proxy is None else proxy(future.value)
            except Exception as error:
                future.set_exception(error)
                return
            future.set_result(result)
        elif outcome == failure.RETURNED:
            try:
                value = payload.decode(body)
            except BaseException as error:  # unpickling runs the result's own methods, which may raise anything
                future.set_exception(unreadable(number, error))
                return
            finally:
                payload.discard(body)
            if future.value is not None:
                future.value.comes_home(value, body if isinstance(body, bytes) else None)
            future.set_result(value)
        else:
            future.set_exception(failure_of(number, body, node, directories))
    except InvalidStateError:
        pass


def unreadable(number: int, error: BaseException) -> ResultNotSerializable:
    """Make the error of a result that cannot be loaded in this process."""
    reason = f"it cannot be loaded here: {failure.describe(error)}"
    what = ResultNotSerializable(task_id=number, reason=reason, subject="the result")
    what.__cause__ = error
    return what


def failure_of(number: int, body: payload.Payload, node: str, directories: WorkingDirectories | None) -> BaseException:
    """Make the exception that a failure record of a task describes, and remove the record's file."""
    try:
        record: dict[str, Any] = payload.decode(body)
        if "exceptions" in record:
            return _raised(number, record, node, directories or WorkingDirectories(None, in_place=False))
        fields = {"node": node or None, **{key: value for key, value in record.items() if value is not None}}
        return from_record(fields.pop("kind"), number, fields)
    except Exception as error:
        return unreadable(number, error)
    finally:
        payload.discard(body)


def _raised(number: int, record: dict[str, Any], node: str, directories: WorkingDirectories) -> BaseException:
    try:
        raised = failure.rebuild(record, partial(directories.about_missing, node=node))
    except BaseException as error:
        return _replaced(number, record, f"it cannot be loaded here: {failure.describe(error)}", error)
    if not isinstance(raised, Exception):
        return _replaced(number, record, f"here it is a {type(raised).__name__}, which would end the thread", raised)
    # The DataFlowKernel calls repr() in a callback of the future. If it raised there, the app's future would never be
    # done.
    try:
        repr(raised)
    except BaseException as error:
        return _replaced(number, record, f"its __repr__ raises {type(error).__name__}", raised)
    return raised


def _replaced(number: int, record: dict[str, Any], reason: str, cause: BaseException) -> ExceptionNotSerializable:
    what = ExceptionNotSerializable(
        task_id=number, reason=reason, subject=record["type"], remote_traceback=record["text"]
    )
    what.__cause__ = cause
    return what
