"""The engine of a Globus Compute endpoint that runs functions with this executor.

It needs the package ``globus-compute-endpoint``. An endpoint's configuration finds the engine after
``python -m taskvine_exec.clients.registration register``: see :mod:`~taskvine_exec.clients.registration`.
"""

from __future__ import annotations

import pkgutil
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from globus_compute_endpoint.engines.base import GCFuture
from globus_compute_endpoint.engines.globus_compute import GlobusComputeEngine
from parsl.errors import ConfigurationError

from taskvine_exec.clients.endpoint import EndpointExecutor

__all__ = ["TaskVineEngine"]

_TASK_MODULE = "globus_compute_endpoint.engines.helper"
"""The module of the function that runs each task."""
_MOST_CATEGORIES = 1000
"""Functions with a category of their own. All others share one, because the manager remembers each category."""


class TaskVineEngine(GlobusComputeEngine):  # type: ignore[misc]
    """Engine that runs an endpoint's functions with ``TaskVineExecutor``.

    Functions are calls in a warm library, which has imported the endpoint's packages once for all slots. Each of the
    first 1,000 function ids is a category, so that short functions are not scheduled like long ones.

    Parameters
    ----------
    library_config : dict, optional
        As of ``TaskVineExecutor``. The ``context`` may be an import path, such as ``"package.module:function"``.
    libraries : dict, optional
        As of ``TaskVineExecutor``. Each ``context`` may be an import path.
    **settings
        Arguments of GlobusComputeEngine (``max_retries_on_system_failure``, ``container_type``, ``working_dir`` ...),
        and of :class:`~taskvine_exec.clients.endpoint.EndpointExecutor`.
    """

    _ExecutorClass = EndpointExecutor

    def __init__(
        self,
        *args: Any,
        library_config: dict[str, Any] | None = None,
        libraries: dict[str, dict[str, Any]] | None = None,
        executor: EndpointExecutor | None = None,
        **settings: Any,
    ) -> None:
        if executor is None:
            settings["library_config"] = _warm(library_config or {})
            if libraries is not None:
                settings["libraries"] = {name: _warm(each) for name, each in libraries.items()}
        elif library_config is not None or libraries is not None:
            raise ConfigurationError("give library_config and libraries to the executor, not to the engine too")
        self._placed: dict[uuid.UUID, GCFuture] | None = None
        self._categories: set[str] = set()
        super().__init__(*args, executor=executor, **settings)

    def assert_ha_compliant(self) -> None:
        """Check that nothing is sent in the clear between machines.

        Raises
        ------
        ValueError
            If something may be.
        """
        super().assert_ha_compliant()
        settings = self.executor.settings
        if not settings.local and settings.enable_peer_transfers:
            raise ValueError(
                "High-Assurance TaskVineEngines on several machines must set `enable_peer_transfers: false`: "
                "transfers between workers are not encrypted"
            )

    def start(self, *args: Any, monitored: bool | None = None, **kwargs: Any) -> None:
        """Start the executor. If ``monitored``, each future gets the block and job that its task ran in."""
        if monitored:
            self._placed = {}
        super().start(*args, **kwargs)

    def submit(
        self,
        task_f: GCFuture,
        packed_task: bytes,
        resource_specification: Mapping[str, Any],
        result_serializers: list[str] | None = None,
    ) -> None:
        """Submit a task of the endpoint."""
        if self._placed is not None:
            self._placed[task_f.gc_task_id] = task_f
            task_f.add_done_callback(lambda done: self._placed.pop(done.gc_task_id, None))
        specification = dict(resource_specification or {})
        if task_f.function_id is not None:
            specification.setdefault("category", self._category(str(task_f.function_id)))
        super().submit(task_f, packed_task, specification, result_serializers)

    def _category(self, function: str) -> str | None:
        if len(self._categories) < _MOST_CATEGORIES:
            self._categories.add(function)
        return function if function in self._categories else None

    def _submit(
        self,
        resource_specification: dict[str, Any],
        func: Callable[..., Any],
        packed_task: bytes,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        future = super()._submit(resource_specification, func, packed_task, args, kwargs)
        if self._placed is not None and args:
            future.add_done_callback(partial(self._place, args[0]))
        return future

    def _place(self, task: uuid.UUID, done: Any) -> None:
        """Tell the endpoint where a task ran."""
        times = done.taskvine_times
        found = self._placed.get(task) if self._placed is not None else None
        if times is None or found is None:
            return
        block = next((node["block"] for node in self.executor.nodes if node["name"] == times.node), None)
        found.job_id = self.executor.blocks_to_job_id.get(block)
        found.block_id = block


def _warm(library: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the settings of a library. Its setup imports the endpoint's packages, and then calls the user's context."""
    own = dict(library)
    context = own.get("context")
    if isinstance(context, str):
        try:
            context = pkgutil.resolve_name(context)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"the context {context!r} cannot be imported: {error}") from error
    # Not import_modules: the endpoint's packages start a thread, which waits for the end of the process. Slots need no
    # such thread.
    arguments = (context, own.pop("context_args", ()), own.pop("context_kwargs", None) or {})
    return {**own, "context": _set_up, "context_args": (_TASK_MODULE, *arguments)}


def _set_up(module: str, context: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    import importlib

    importlib.import_module(module)
    return {} if context is None else context(*args, **kwargs)


_set_up.__module__ = "__main__"  # so that it is pickled by value, and nodes need no package of the executor
