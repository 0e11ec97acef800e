"""A backend for joblib, and so for scikit-learn: calls of ``joblib.Parallel`` run on a TaskVineExecutor.

    parsl.load(local_config())
    with joblib.parallel_config(backend="taskvine"):
        ...

The import of this module registers the backend under that name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, register_parallel_backend

from taskvine_exec.clients.loaded import loaded
from taskvine_exec.executor import TaskVineExecutor

__all__ = ["TaskVineBackend"]


class TaskVineBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs batches of joblib's calls as tasks.

    Keywords of ``joblib.parallel_config`` come here.

    Parameters
    ----------
    executor : TaskVineExecutor, optional
        Where tasks run. Default: the TaskVineExecutor of the Config that ``parsl.load`` has loaded.
    resources : dict, optional
        Resource specification of each task.
    nesting_level : int, optional
        How many calls of ``joblib.Parallel`` enclose this one; joblib sets it.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        executor: TaskVineExecutor | None = None,
        resources: Mapping[str, Any] | None = None,
        nesting_level: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, **options)
        self._executor = executor
        self._resources = dict(resources or {})
        self._futures: set[Future[Any]] = set()
        self._call = _call()

    @property
    def executor(self) -> TaskVineExecutor:
        """The executor that runs tasks now.

        Raises
        ------
        parsl.errors.ConfigurationError
            If none was given and none is loaded, or several are.
        """
        if self._executor is not None:
            return self._executor
        return loaded("calls of joblib", 'give one: joblib.parallel_config(backend="taskvine", executor=...)')

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls may run at a time.

        It is at least 2 if the user has named no number, because joblib would run a single one in this process.

        Raises
        ------
        ValueError
            If it is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        executor = self.executor
        slots = int(executor.workers_per_node) * max(1, len(executor.nodes))
        return max(2, slots + 1 + (-1 if n_jobs is None else n_jobs))

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Take note of the call of ``Parallel`` that begins, and return how many calls may run at a time."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Submit a batch of calls."""
        future = self.executor.submit(self._call, dict(self._resources), func)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """Return the results of a batch, or raise the exception of its call."""
        return future.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the batches that have not ended."""
        for future in list(self._futures):
            future.cancel()


def _call() -> Callable[[Callable[[], Any]], Any]:
    """Return the function of all tasks, which is pickled by value: nodes need not import this module."""

    def joblib_calls(batch: Callable[[], Any]) -> Any:
        return batch()

    return joblib_calls


register_parallel_backend("taskvine", TaskVineBackend)
