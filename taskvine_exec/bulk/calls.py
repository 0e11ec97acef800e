"""The base class of the executor with the methods that make many calls at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from taskvine_exec.bulk.arguments import Arguments
from taskvine_exec.bulk.dependent import DependentCalls
from taskvine_exec.bulk.many import Many
from taskvine_exec.bulk.mapping import Mapping
from taskvine_exec.bulk.sender import Tasks
from taskvine_exec.bulk.sizes import Sizes


class BulkExecutor:
    """Base class of the executor with ``map``, ``submit_many`` and ``dependent_calls``."""

    def map(
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any],
        chunksize: int | None = None,
        timeout: float | None = None,
        resource_specification: dict[str, Any] | None = None,
    ) -> Iterator[Any]:
        """Call a function for each item of one or more iterables, as :meth:`concurrent.futures.Executor.map` does.

        Calls are sent in chunks, each as one task. The iterables are read only as far as chunks are sent, and few
        chunks are sent ahead of the results that were read. They may be infinite. No DataFlowKernel is needed.

        Parameters
        ----------
        function : callable
            The function. It may not be a Parsl app.
        *iterables : iterable
            One iterable for each parameter of the function. Their items may not be futures.
        chunksize : int, optional
            Most calls of a chunk. Default: chosen from measured run times, so that a chunk takes about 80 ms.
        timeout : float, optional
            Seconds from now until the last result that may be waited for.
        resource_specification : dict, optional
            Keys as for :meth:`submit`. They apply to each chunk.

        Returns
        -------
        iterator
            The results in order. The exception of a call is raised in place of its result, and ends the iterator.
            The end of the iterator, or its ``close()``, cancels the chunks that have not begun.

        Raises
        ------
        ValueError
            If ``chunksize`` is less than 1.
        TypeError
            If the function is a Parsl app, or an argument is not iterable.
        InvalidResourceSpecification, FunctionNotSerializable, ExecutorNotStarted, ExecutorShutDown, BadStateException
            As :meth:`submit` does.
        concurrent.futures.TimeoutError
            By the iterator, if a result does not come in time.
        """
        sizes = Sizes(chunksize)
        tasks = self._bulk_tasks(function, resource_specification, spread=False)
        return Mapping(tasks, Arguments(iterables), sizes, timeout).results()

    def submit_many(
        self,
        function: Callable[..., Any],
        arguments: Iterable[tuple[Any, ...]],
        resource_specification: dict[str, Any] | None = None,
    ) -> list[Future[Any]]:
        """Submit many calls of a function in chunks, each as one task.

        Parameters
        ----------
        function : callable
            The function. It may not be a Parsl app.
        arguments : iterable of tuple
            The positional arguments of each call, as for :func:`itertools.starmap`. They may not be futures.
        resource_specification : dict, optional
            Keys as for :meth:`submit`. They apply to each chunk.

        Returns
        -------
        list of concurrent.futures.Future
            A future for each call, in order. A call can be cancelled until its chunk is sent.

        Raises
        ------
        TypeError
            If the function is a Parsl app, or the arguments of a call are not a tuple.
        InvalidResourceSpecification, FunctionNotSerializable, ExecutorNotStarted, ExecutorShutDown, BadStateException
            As :meth:`submit` does.
        """
        tasks = self._bulk_tasks(function, resource_specification, spread=True)
        return Many(tasks, arguments, Sizes()).futures()

    @abstractmethod
    def dependent_calls(self) -> DependentCalls:
        """Return an object that submits calls which read results of each other, for programs that run graphs.

        It does what ``DAG_RESOLVER`` does for apps, without a DataFlowKernel: large results stay on nodes, and calls
        are sent before their inputs exist.

        Raises
        ------
        ExecutorNotStarted, ExecutorShutDown, BadStateException
            As :meth:`submit` does.
        """

    @abstractmethod
    def _bulk_tasks(self, function: Callable[..., Any], specification: dict[str, Any] | None, *, spread: bool) -> Tasks:
        """Prepare the tasks of a function's chunks; ``spread`` as for :class:`~taskvine_manager.runtime.bulk.Chunk`."""
