"""What is known of nodes before they start: where they run, how many there can be, and their size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parsl.errors import ConfigurationError

from taskvine_exec.config.rules import POSITIVE, is_whole, refuse, whole
from taskvine_exec.config.user import TaskVineFactoryConfig
from taskvine_exec.config.worker_options import SIZES

# Providers and launchers that start nodes on other machines, by name because some of their modules are optional.
_REMOTE_PROVIDERS = frozenset(
    {"ClusterProvider", "KubernetesProvider", "AWSProvider", "GoogleCloudProvider", "AzureProvider"}
)
_REMOTE_LAUNCHERS = frozenset(
    {
        "SrunLauncher",
        "SrunMPILauncher",
        "AprunLauncher",
        "JsrunLauncher",
        "GnuParallelLauncher",
        "MpiExecLauncher",
        "MpiRunLauncher",
    }
)


def are_local(factory: TaskVineFactoryConfig, worker_launch_method: str, provider: Any | None) -> bool:
    """Tell whether all workers run on this machine. Workers started by hand (no provider) may run anywhere."""
    if worker_launch_method == "factory":
        return factory.batch_type == "local"
    launcher = getattr(provider, "launcher", None)
    return "LocalProvider" in _classes(provider) and not _REMOTE_LAUNCHERS & _classes(launcher)


def refuse_remote(provider: Any | None) -> None:
    """Raise if a provider starts nodes on other machines."""
    remote = _REMOTE_PROVIDERS & _classes(provider)
    # LocalProvider with a launcher such as srun reaches the other nodes of the allocation it runs in.
    nodes = getattr(provider, "nodes_per_block", 1)
    if remote or (is_whole(nodes) and nodes > 1):
        what = type(provider).__name__ + ("" if remote else f" with nodes_per_block={nodes}")
        raise ConfigurationError(
            f"provider={what} starts workers on other machines, but the embedded engine runs only on this machine: "
            "use engine='taskvine'"
        )


def _classes(obj: object) -> frozenset[str]:
    return frozenset(base.__name__ for base in type(obj).__mro__)


def most(factory: TaskVineFactoryConfig, worker_launch_method: str, provider: Any | None) -> int | None:
    """Return the largest possible number of nodes. None: unknown."""
    if worker_launch_method == "factory":
        return factory.max_workers
    blocks: Any = getattr(provider, "max_blocks", None)  # each block is one node
    return int(blocks) if worker_launch_method == "provider" and is_whole(blocks) else None


def size(factory: TaskVineFactoryConfig, options: Mapping[str, int], provider: Any | None) -> dict[str, Any]:
    """Determine the size of a node: from the factory's fields, else the worker's options, else the provider.

    Parameters
    ----------
    factory
        The factory's configuration.
    options
        The worker's options, by name.
    provider
        The provider, if any.

    Returns
    -------
    dict
        Cores, memory and disk (both in MB) and GPUs, by name. None: the size of the machine.
    """
    found: dict[str, Any] = dict.fromkeys(SIZES)
    cores, memory_gb = (getattr(provider, name, None) for name in ("cores_per_node", "mem_per_node"))
    if cores is not None:
        whole(1).check("provider.cores_per_node", cores)
        found["cores"] = int(cores)
    if memory_gb is not None:
        POSITIVE.check("provider.mem_per_node", memory_gb)
        found["memory"] = float(memory_gb) * 1024  # Parsl counts GB here, TaskVine MB
    found |= options
    for name in SIZES:
        value = getattr(factory, name)
        if value or (name == "gpus" and value is not None):  # 0 GPUs is a size; 0 cores is "not set"
            found[name] = value
    return found


def refuse_larger_library(where: str, library: Mapping[str, Any], node: Mapping[str, float | None]) -> None:
    """Raise if a library asks for more than a node has; ``where`` names its settings."""
    for name in SIZES:
        wanted, there = library.get(name), node[name]
        if wanted is not None and there is not None and wanted > there:
            refuse(f"{where}[{name!r}]", wanted, f"at most the {there:.10g} that a node has")
