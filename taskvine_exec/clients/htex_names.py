"""Names of HighThroughputExecutor's arguments, translated to settings of this executor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parsl.errors import ConfigurationError

from taskvine_manager import node_parameters

logger = logging.getLogger(__name__)

MB_PER_GB = 1000
NO_EFFECT: Mapping[str, str] = {
    "address_probe_timeout": "workers use the address that they are given",
    "drain_period": "a node is drained when its block is scaled in",
    "interchange_launch_cmd": "there is no interchange",
    "interchange_port_range": "there is no interchange",
    "loopback_address": "the executor and its manager communicate over a unix socket",
    "manager_selector": "tasks run where their data is",
    "poll_period": "nodes wait for events",
    "prefetch_capacity": "short calls are sent ahead without a setting",
    "worker_debug": "nodes always write their logs",
    "worker_logdir_root": "nodes write their logs to the run directory",
    "worker_port_range": "any free port is taken; give worker_port for a certain one",
    "working_dir": "the endpoint chooses the directory of tasks",
}
"""Arguments that are accepted and change nothing, each with the reason."""
_QUIET = frozenset({"prefetch_capacity", "interchange_launch_cmd", "working_dir"})
"""Arguments without effect that need no mention, because nothing is missing."""
_TUNED: Mapping[str, str] = {
    "heartbeat_period": node_parameters.KEEPALIVE_INTERVAL,
    "heartbeat_threshold": node_parameters.KEEPALIVE_TIMEOUT,
}
LEAST_TIMEOUT = 30.0
"""Seconds of silence that are always allowed. HighThroughputExecutor loses a node after heartbeat_threshold; here a
manager that is silent for so long ends the run."""
_NO_MPI = "each task runs on one node"


@dataclass(frozen=True)
class Translation:
    """Arguments of HighThroughputExecutor, and what they mean here.

    Parameters
    ----------
    settings : dict
        Arguments of ``TaskVineExecutor``.
    task : dict
        Resource specification of tasks that ask for nothing else.
    max_workers_per_node : int or None
        As given.
    cores_per_worker : float
        As given.
    mem_per_worker : float or None
        As given, in GB.
    """

    settings: dict[str, Any]
    task: dict[str, Any]
    max_workers_per_node: int | None = None
    cores_per_worker: float = 1.0
    mem_per_worker: float | None = None


def translate(given: Mapping[str, Any]) -> Translation:
    """Translate the arguments that HighThroughputExecutor has, and pass on all others.

    Parameters
    ----------
    given : mapping
        Arguments of either executor, by name.

    Returns
    -------
    Translation
        The settings.

    Raises
    ------
    parsl.errors.ConfigurationError
        If an argument asks for something that this executor cannot do, or contradicts another one.
    """
    settings = dict(given)
    for name in NO_EFFECT.keys() & settings.keys():
        del settings[name]
        if name not in _QUIET:
            logger.warning("%s has no effect: %s", name, NO_EFFECT[name])
    _refuse(settings)
    task: dict[str, Any] = {}
    workers, cores, memory = (
        settings.pop(name, None) for name in ("max_workers_per_node", "cores_per_worker", "mem_per_worker")
    )
    if workers is not None:
        library = dict(settings.get("library_config") or {})
        if library.setdefault("num_slots", workers) != workers:
            raise ConfigurationError(
                f"max_workers_per_node={workers} and num_slots={library['num_slots']} of library_config disagree: "
                "they are two names of one thing"
            )
        settings["library_config"] = library
    if cores is not None and cores != 1:
        task["cores"] = cores
    if memory is not None:
        task["memory"] = memory * MB_PER_GB
    if settings.get("available_accelerators"):
        task["gpus"] = 1
    else:
        settings.pop("available_accelerators", None)
    if (port := settings.pop("worker_port", None)) is not None:
        settings["port"] = port
    tuned = {_TUNED[name]: settings.pop(name) for name in _TUNED if settings.get(name) is not None}
    if (timeout := tuned.get(node_parameters.KEEPALIVE_TIMEOUT)) is not None:
        tuned[node_parameters.KEEPALIVE_TIMEOUT] = max(LEAST_TIMEOUT, timeout)
    if tuned:
        more = settings.get("tune_parameters") or {}
        if not isinstance(more, Mapping):
            raise ConfigurationError(
                f"set {', '.join(tuned)} in the file of tune_parameters, without their other names"
            )
        settings["tune_parameters"] = {**tuned, **more}
    return Translation(settings, task, workers, 1.0 if cores is None else cores, memory)


def _refuse(settings: dict[str, Any]) -> None:
    """Raise an error for what this executor cannot do; remove arguments that ask for nothing."""
    if settings.pop("enable_mpi_mode", False) or settings.pop("mpi_launcher", None):
        raise ConfigurationError(f"enable_mpi_mode is not supported: {_NO_MPI}")
