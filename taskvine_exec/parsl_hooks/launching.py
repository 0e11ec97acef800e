"""The DataFlowKernel's launching thread, without a pool.

The DFK launches tasks in a ``ThreadPoolExecutor`` of one thread. For each task, the pool makes a future that nobody
reads, and takes a semaphore and two locks. That takes a sixth of the time of an app. The threads also meet at the
semaphore, which can end in a lock convoy as described in :mod:`~taskvine_exec.parsl_hooks.lock`. One thread and a queue
do the same.

The DFK also gives a task to the pool whenever one of its dependencies is done. Each time the pool's thread counts all
dependencies, and usually finds that others are pending: a task that reads 16 results is looked at 17 times. Here a task
is queued only when all its dependencies are done.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from parsl.dataflow.states import States

from taskvine_exec.parsl_hooks.switches import LAUNCHING

logger = logging.getLogger(__name__)

_ATTRIBUTE = "_task_launch_pool"


def replace(kernel: Any) -> None:
    """Replace the pool of a DFK. To be called when it has begun to launch tasks: it makes the pool after executors."""
    pool = getattr(kernel, _ATTRIBUTE, None)
    if LAUNCHING.on and type(pool) is ThreadPoolExecutor and pool._max_workers == 1:
        launcher = Launcher(pool)
        setattr(kernel, _ATTRIBUTE, launcher)
        launcher.start()


class Launcher:
    """The methods of a ``ThreadPoolExecutor`` that the DFK calls.

    Parameters
    ----------
    before : ThreadPoolExecutor
        The pool to replace. Its remaining calls are made first.
    """

    def __init__(self, before: ThreadPoolExecutor) -> None:
        self._before = before
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._finished: dict[int, int] = {}
        """By a pending task's id: how many of its first dependencies are known to be done."""
        self._is_over = False
        # A daemon: a program that ends without cleaning up the DFK must not wait for this thread.
        self._thread = threading.Thread(target=self._run, name="Task-Launch", daemon=True)

    def start(self) -> None:
        """Start the thread after all calls that the pool has."""
        self._before.submit(self._thread.start)

    def submit(self, function: Callable[..., Any], /, *args: Any) -> None:
        """Call a function in the thread, after those submitted before.

        If its argument is the record of a task with pending dependencies, it is not called: the DFK submits the task
        again when each of them is done.

        Raises
        ------
        RuntimeError
            After the shutdown.
        """
        if self._is_over:
            raise RuntimeError("no tasks can be launched after shutdown")
        if not args or self._is_ready(args[0]):
            self._calls.put((function, args))

    def _is_ready(self, task: Any) -> bool:
        """Whether a task waits for its launch alone: its dependencies are done."""
        depends = task.get("depends") if isinstance(task, dict) else None
        if not depends:
            return True
        if task["status"] is not States.pending:
            return False  # it was launched when the last dependency was done
        finished = self._finished.get(task["id"], 0)
        while finished < len(depends):
            if not depends[finished].done():
                self._finished[task["id"]] = finished
                return False
            finished += 1
        self._finished.pop(task["id"], None)
        return True

    def shutdown(self, wait: bool = True) -> None:
        """End the thread after all submitted calls."""
        self._is_over = True
        self._calls.put(None)
        self._before.shutdown(wait)
        if wait:
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, args = call
            try:
                function(*args)
            except BaseException:
                logger.exception("a task could not be launched")
            del call, function, args  # nothing keeps the task until the next one comes
