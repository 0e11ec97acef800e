"""The executor of a Globus Compute endpoint: TaskVineExecutor with what the endpoint's engine asks of an executor.

It needs no package of Globus Compute, whose engine is :class:`taskvine_exec.clients.globus.TaskVineEngine`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import pkgutil
import platform
import threading
import time
from collections.abc import Mapping
from typing import Any

from parsl.errors import ConfigurationError
from parsl.version import VERSION as PARSL_VERSION

from taskvine_exec import engines
from taskvine_exec.clients import htex_names
from taskvine_exec.executor import TaskVineExecutor
from taskvine_exec.results.futures import TaskFuture
from taskvine_exec.submission import resources

NODE_COMMAND = "{node_command}"
"""What stands for the command of a node in ``launch_cmd``."""
_DEFAULT_TASK = "parsl.executors.execute_task.execute_task"


class EndpointExecutor(TaskVineExecutor):
    """TaskVineExecutor with the names and methods of HighThroughputExecutor that endpoints use.

    Parameters
    ----------
    label : str
        Name of the executor.
    encrypted : bool
        Whether traffic between the manager and other machines is encrypted: ``ssl=True`` on the TaskVine engine. The
        embedded engine has no such traffic.
    launch_cmd : str
        Shell command that starts a node. It must contain ``{node_command}``, which stands for the executor's own
        command.
    **settings
        Arguments of ``TaskVineExecutor``, or of HighThroughputExecutor: see
        :mod:`~taskvine_exec.clients.htex_names`. The default of ``max_retries`` is 0, because the endpoint retries.

    Raises
    ------
    parsl.errors.ConfigurationError
        If a value is not valid, or not supported.
    TypeError
        If a setting does not exist.
    """

    def __init__(
        self,
        label: str = "TaskVineExecutor",
        *,
        encrypted: bool = True,
        launch_cmd: str | None = None,
        **settings: Any,
    ) -> None:
        translation = htex_names.translate(settings)
        own = {"max_retries": 0, **translation.settings}
        if own.get("worker_launch_method", "provider") != "provider":
            raise ConfigurationError("an endpoint starts nodes in blocks: give a provider, no worker_launch_method")
        chosen, _ = engines.choose(own.get("engine", "auto"), own.get("worker_executable", "vine_worker"))
        if chosen == "taskvine":
            own.setdefault("ssl", encrypted)
        super().__init__(label, **own)
        self.max_workers_per_node = translation.max_workers_per_node or int(self.workers_per_node)
        self.cores_per_worker = translation.cores_per_worker
        self.mem_per_worker = translation.mem_per_worker
        self.prefetch_capacity = 0
        self.launch_cmd = launch_cmd or NODE_COMMAND
        self._task_counter = 0
        self._counting = threading.Lock()
        self._task_resources = translation.task
        self._idle_since: dict[str, float] = {}

    @property
    def encrypted(self) -> bool:
        """Whether no message between the manager and its nodes can be read on a network."""
        return self._engine == "embedded" or bool(self.ssl)

    # --- starting nodes ---

    @property
    def launch_cmd(self) -> str:
        """The shell command that starts a node, with ``{node_command}`` for the executor's own command.

        Unlike that of ``TaskVineExecutor``, it may be read and set before the start, to put nodes into containers.
        """
        return self._launch_cmd

    @launch_cmd.setter
    def launch_cmd(self, command: str) -> None:
        if NODE_COMMAND not in command:
            raise ConfigurationError(f"launch_cmd={command!r} starts no node: put {NODE_COMMAND} into it")
        self._launch_cmd = command

    def _get_launch_command(self, block_id: str) -> str:
        return self._launch_cmd.replace(NODE_COMMAND, super()._get_launch_command(block_id))

    @property
    def blocks(self) -> dict[str, str]:
        """The job of each block."""
        return dict(self.blocks_to_job_id)

    # --- tasks ---

    def validate_resource_spec(self, resource_specification: Mapping[str, Any]) -> None:
        """Check a resource specification.

        Raises
        ------
        InvalidResourceSpecification
            If a key is unknown or a value out of bounds.
        """
        resources.parse(resource_specification)

    def submit_payload(self, context: Mapping[str, Any], buffer: bytes) -> TaskFuture:
        """Submit a call that is serialized already.

        Parameters
        ----------
        context : mapping
            ``"task_executor"`` names the function that gets the buffer: ``"f"`` is its import path, ``"a"`` and ``"k"``
            are further arguments. Default: Parsl's own. ``"resource_spec"`` is the resource specification.
        buffer : bytes
            The serialized call.

        Returns
        -------
        TaskFuture
            The call's future.

        Raises
        ------
        Exception
            The reason why the executor takes no more tasks, if it has failed, and all exceptions of ``submit``.
        """
        if self.bad_state_is_set and self.executor_exception is not None:
            raise self.executor_exception
        how = context.get("task_executor") or {}
        function = _function(how.get("f", _DEFAULT_TASK))
        asked = {**self._task_resources, **(context.get("resource_spec") or {})}
        future = self.submit(function, asked, buffer, *how.get("a", ()), **how.get("k", {}))
        with self._counting:
            self._task_counter += 1
        return future

    # --- reports ---

    def connected_managers(self) -> list[dict[str, Any]]:
        """Describe the nodes, as HighThroughputExecutor describes its managers.

        The number of all running tasks is right. How they are spread over nodes is an estimate, which fills one node
        after another.
        """
        running = self.outstanding()
        now = time.monotonic()
        described, names = [], set()
        for node in self.nodes:
            name = node["name"]
            names.add(name)
            slots = int(node["slots"] or max(1, int(node["cores"])))
            tasks = min(slots, running)
            running -= tasks
            since = now if tasks else self._idle_since.get(name, now)
            self._idle_since[name] = since
            described.append(
                {
                    "manager": name,
                    "block_id": node["block"],
                    "worker_count": slots,
                    "tasks": tasks,
                    "idle_duration": now - since,
                    "active": True,
                    "draining": False,
                    # Nodes have the Python version of their manager, and Parsl from the same environment.
                    "parsl_version": PARSL_VERSION,
                    "python_version": platform.python_version(),
                }
            )
        for gone in self._idle_since.keys() - names:
            del self._idle_since[gone]
        return described

    def connected_managers_packages(self) -> dict[str, dict[str, str]]:
        """Return the packages of each node with their versions; none for nodes that may have another environment."""
        same = self._settings.local and self._settings.env_pack is None
        return {node["name"]: dict(_packages()) if same else {} for node in self.nodes}


@functools.cache
def _function(path: str) -> Any:
    return pkgutil.resolve_name(":".join(path.rsplit(".", 1)))


@functools.cache
def _packages() -> dict[str, str]:
    return {package.name: package.version for package in importlib.metadata.distributions() if package.name}
