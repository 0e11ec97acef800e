"""From completions to futures: an invocation returned, raised, or was lost."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from typing import Any, NamedTuple

from taskvine_exec.errors import ResultNotSerializable, from_record
from taskvine_manager.messages import Completion
from taskvine_manager.runtime import failure, payload


class TaskTimes(NamedTuple):
    """When things happened to a task, in seconds since the epoch, and where it ran.

    ``started - dispatched`` is the overhead of starting it: from when its node began to launch it until its function
    was entered. A task that was lost has zeros for what never happened.
    """

    submitted: float
    dispatched: float
    started: float
    finished: float
    node: str


class TaskFuture(Future[Any]):
    """What ``submit`` returns.

    Attributes
    ----------
    parsl_executor_task_id : int
        The executor's number of the task.
    taskvine_times : TaskTimes or None
        Set before the future is done, if the task came to a node.
    """

    def __init__(self, number: int, submitted: float) -> None:
        super().__init__()
        self.parsl_executor_task_id = number
        self.submitted = submitted
        self.arguments: payload.Payload = b""
        self.taskvine_times: TaskTimes | None = None


def settle(future: TaskFuture, completion: Completion) -> None:
    """Complete a future; one that is done already (cancelled, say) stays as it is."""
    number, outcome, body, node, dispatched, started, seconds, _ = completion
    if started:
        future.taskvine_times = TaskTimes(future.submitted, dispatched, started, started + seconds, node)
    try:
        if outcome == failure.RETURNED:
            try:
                value = payload.decode(body)
            except Exception as error:
                future.set_exception(_unreadable(number, error))
                return
            finally:
                payload.discard(body)
            future.set_result(value)
        else:
            future.set_exception(_failure(number, body, node))
    except InvalidStateError:
        pass


def _unreadable(number: int, error: Exception) -> BaseException:
    what = ResultNotSerializable(
        task_id=number, reason=f"it cannot be loaded here: {type(error).__name__}: {error}", subject="the result"
    )
    what.__cause__ = error
    return what


def _failure(number: int, body: payload.Payload, node: str) -> BaseException:
    try:
        record: dict[str, Any] = payload.decode(body)
        if "exception" in record:
            return failure.rebuild(record)
        fields = {"node": node or None, **{key: value for key, value in record.items() if value is not None}}
        return from_record(fields.pop("kind"), number, fields)
    except Exception as error:
        return _unreadable(number, error)
    finally:
        payload.discard(body)
