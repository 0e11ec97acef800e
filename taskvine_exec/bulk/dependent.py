"""Calls that read results of other calls, without a DataFlowKernel.

The thread that submits makes a :class:`~taskvine_exec.values.Value` for each call. The link's thread settles the values
of calls that end, and submits failed calls again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Protocol

from parsl.dataflow.errors import PropagatedException

from taskvine_exec.errors import TaskCancelled, is_interruption
from taskvine_exec.results.futures import TaskFuture
from taskvine_exec.results.pending import set_exception
from taskvine_exec.submitter import Prepared, Submitter
from taskvine_exec.values import Value


class _FailAll(Protocol):
    def __call__(self, error: Callable[[int], Exception], among: list[int], /) -> None: ...


class _Call(NamedTuple):
    """A call that can be submitted again."""

    prepared: Prepared
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    retries: int


class DependentCalls:
    """Submits calls whose arguments may hold results of earlier calls.

    The result of a call is kept as long as something refers to its value: the caller, or a call that reads it and has
    not ended. The value's ``argument()`` stands for the result in the arguments of another call, at any depth. If a
    call fails, the calls that read its result fail with ``DependencyError``.

    Parameters
    ----------
    submitter : Submitter
        Prepares and submits the calls.
    check : callable
        Raises an exception if the executor takes no tasks.
    watched : callable
        Called with the future of each task that was submitted.
    fail_all : callable
        Fails the tasks with the given numbers, as far as they have not ended.
    """

    def __init__(
        self,
        submitter: Submitter,
        check: Callable[[], object],
        watched: Callable[[TaskFuture], TaskFuture],
        fail_all: _FailAll,
    ) -> None:
        self._submitter = submitter
        self._check = check
        self._watched = watched
        self._fail_all = fail_all
        self._numbers: list[int] = []
        self._cancelled: str | None = None

    def prepare(
        self, function: Callable[..., Any], specification: Mapping[str, Any] | None = None, name: str | None = None
    ) -> Prepared:
        """Prepare calls of a function, with the same resources.

        Parameters
        ----------
        function : callable
            The function, as it is now.
        specification : dict, optional
            The resource specification of each call.
        name : str, optional
            Name that is shown for the calls. Default: the function's name.

        Raises
        ------
        InvalidResourceSpecification, FunctionNotSerializable
            As ``TaskVineExecutor.submit`` does.
        """
        return self._submitter.prepare(function, specification, name=name)

    def submit(self, prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any], retries: int = 0) -> Value:
        """Submit one call.

        Parameters
        ----------
        prepared : Prepared
            The function, from :meth:`prepare`.
        args, kwargs
            The call's arguments.
        retries : int
            How often the call is submitted again if it fails. A lost node does not count.

        Returns
        -------
        Value
            The value of the call, which is settled when the call has ended for good.

        Raises
        ------
        ArgumentNotSerializable, DiskFull, ExecutorNotStarted, ExecutorShutDown, BadStateException
            As ``TaskVineExecutor.submit`` does.
        """
        value = self._submitter.new_value()
        self._attempt(value, _Call(prepared, args, kwargs, retries))
        return value

    def cancel(self, reason: str) -> None:
        """Cancel all calls that have not ended."""
        self._cancelled = reason
        self._fail_all(self._error, list(self._numbers))

    def _error(self, number: int) -> Exception:
        return TaskCancelled(task_id=number, reason=self._cancelled or "")

    def _attempt(self, value: Value, call: _Call) -> None:
        self._check()
        future = self._submitter.call(call.prepared, call.args, call.kwargs, value)
        number = future.parsl_executor_task_id
        self._numbers.append(number)
        # The arguments are kept only if they may be needed again.
        future.add_done_callback(partial(self._ended, value, call if call.retries else None))
        self._watched(future)
        if self._cancelled is not None:  # by another thread meanwhile
            self._fail_all(self._error, [number])

    def _ended(self, value: Value, call: _Call | None, future: Future[Any]) -> None:
        error = future.exception()
        if error is None or call is None or isinstance(error, (PropagatedException, TaskCancelled)):
            value.settle(future)
            return
        try:
            self._attempt(value, call._replace(retries=call.retries - 1))
        except BaseException as refusal:
            failed = TaskFuture(-1, 0.0)
            set_exception(failed, refusal)
            value.settle(failed)
            if is_interruption(refusal):
                raise
