"""Derives the settings that an engine gets from the configuration."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from typing import Any

from parsl.errors import ConfigurationError

from taskvine_exec import passwords
from taskvine_exec.config import nodes, support, tuning, worker_options
from taskvine_exec.config.hardware import UNSAID, Hardware
from taskvine_exec.config.rules import one_of, refuse, whole
from taskvine_exec.config.settings import (
    START_TIMEOUT,
    EmbeddedSettings,
    EngineSettings,
    LibrarySettings,
    VineSettings,
)
from taskvine_exec.config.user import TaskVineFactoryConfig, TaskVineManagerConfig
from taskvine_exec.config.validation import validate, validate_libraries
from taskvine_exec.submission.resources import MODES_ALLOWED, normalise_mode, number_of_gpus
from taskvine_manager.parameters import Engine
from taskvine_manager.runtime.payload import INLINE_LIMIT, LARGEST_INLINE_LIMIT


def embedded_settings(
    manager: TaskVineManagerConfig,
    factory: TaskVineFactoryConfig,
    *,
    function_exec_mode: str,
    worker_launch_method: str,
    provider: Any | None = None,
    inline_limit: int = INLINE_LIMIT,
    libraries: Mapping[str, Mapping[str, Any]] | None = None,
    hardware: Hardware = UNSAID,
) -> EmbeddedSettings:
    """Derive the settings of the embedded engine.

    Parameters
    ----------
    manager, factory
        The configurations, which stay unchanged.
    function_exec_mode
        'regular' or 'L1', 'serverless' or 'L2'.
    worker_launch_method
        'provider', 'factory' or 'manual'.
    provider
        The Parsl provider that starts nodes, if any. It stays unchanged.
    inline_limit
        Largest encoded argument list or result, in bytes, that is sent inside messages.
    libraries
        Settings of the named libraries, with the keys of ``library_config``.
    hardware
        What the user says of the gpus and CPUs of a node.

    Returns
    -------
    EmbeddedSettings
        The settings, with defaults filled in and paths made absolute.

    Raises
    ------
    ConfigurationError
        If a value is not valid, or this engine does not support it.
    """
    common = _common(
        "embedded",
        manager,
        factory,
        function_exec_mode,
        worker_launch_method,
        provider,
        inline_limit,
        libraries,
        hardware,
    )
    return EmbeddedSettings(**vars(common))


def vine_settings(
    manager: TaskVineManagerConfig,
    factory: TaskVineFactoryConfig,
    *,
    function_exec_mode: str,
    worker_launch_method: str,
    provider: Any | None = None,
    inline_limit: int = INLINE_LIMIT,
    libraries: Mapping[str, Mapping[str, Any]] | None = None,
    hardware: Hardware = UNSAID,
    ssl: bool | tuple[str, str] = False,
    batching: bool = True,
) -> VineSettings:
    """Derive the settings of the TaskVine engine.

    Parameters
    ----------
    manager, factory, function_exec_mode, worker_launch_method, provider, inline_limit, libraries, hardware
        As in :func:`embedded_settings`.
    ssl, batching
        As in :class:`VineSettings`.

    Raises
    ------
    ConfigurationError
        If a value is not valid, or this engine does not support it.
    """
    common = _common(
        "taskvine",
        manager,
        factory,
        function_exec_mode,
        worker_launch_method,
        provider,
        inline_limit,
        libraries,
        hardware,
    )
    if factory.python_env and (common.local or worker_launch_method != "factory"):
        refuse("python_env", factory.python_env, "left out where vine_factory is not used: give it as env_pack")
    if factory.python_env is not None and not os.path.isfile(os.path.expanduser(factory.python_env)):
        refuse("TaskVineFactoryConfig.python_env", factory.python_env, "the path of a file that exists")
    tuning.refuse_batches(common.tuning, batching)
    return VineSettings(
        **vars(common),
        port=manager.port,
        address=manager.address,
        project_name=manager.project_name or None,
        password_file=_password_file(manager.project_password_file, common.local),
        ssl=ssl,
        batching=batching,
        worker=factory.worker_executable,
        worker_options=factory.worker_options or "",
        batch_type=factory.batch_type,
        condor_requirements=factory.condor_requirements,
        batch_options=factory.batch_options,
        python_env=_absolute(factory.python_env),
    )


def _common(
    engine: Engine,
    manager: TaskVineManagerConfig,
    factory: TaskVineFactoryConfig,
    function_exec_mode: str,
    worker_launch_method: str,
    provider: Any | None,
    inline_limit: int,
    libraries: Mapping[str, Mapping[str, Any]] | None,
    hardware: Hardware,
) -> EngineSettings:
    """Check all values, and derive the settings that both engines share."""
    validate(manager, factory)
    one_of("provider", "factory", "manual").check("worker_launch_method", worker_launch_method)
    support.refuse_left_out(manager)
    if engine == "embedded":
        support.check_embedded(manager, factory)
        nodes.refuse_remote(provider)
    try:
        mode = normalise_mode(function_exec_mode)
    except ValueError:
        refuse("function_exec_mode", function_exec_mode, MODES_ALLOWED)
    whole(0, LARGEST_INLINE_LIMIT).check("inline_limit", inline_limit)
    most_nodes = nodes.most(factory, worker_launch_method, provider)
    tune = tuning.load(manager.tune_parameters, nodes=most_nodes, peer_transfers=manager.enable_peer_transfers)
    tuning.warn_of_ignored(tune, engine)

    library = manager.library_config or {}
    options = worker_options.parse(factory.worker_options) if engine == "embedded" else {}
    node = nodes.size(factory, options, provider)
    slots = tuning.slots(library, tune)
    there = hardware.checked(node["gpus"], slots)
    node["gpus"] = there.gpus
    nodes.refuse_larger_library("library_config", library, node)
    validate_libraries(libraries)
    for name, named in (libraries or {}).items():
        nodes.refuse_larger_library(f"libraries[{name!r}]", named, node)
    if worker_launch_method == "factory" and (manager.wait_for_workers or 0) > factory.max_workers:
        # No other workers can join, and the first task would wait forever.
        allowed = f"at most max_workers, which is {factory.max_workers}"
        refuse(f"{type(manager).__name__}.wait_for_workers", manager.wait_for_workers, allowed)

    return EngineSettings(
        function_exec_mode=mode,
        worker_launch_method=worker_launch_method,
        env_vars={name: str(value) for name, value in (manager.env_vars or {}).items()},
        init_command=manager.init_command,
        env_pack=_environment(manager.env_pack),
        max_retries=manager.max_retries,
        slots=slots,
        library_cores=_number_or_none(library.get("cores")),
        library_memory=_number_or_none(library.get("memory")),
        library_disk=_number_or_none(library.get("disk")),
        **_process(library, scope="library"),
        libraries={name: _named(named) for name, named in (libraries or {}).items()},
        shared_fs=manager.shared_fs,
        autocategory=manager.autocategory,
        enable_peer_transfers=manager.enable_peer_transfers,
        wait_for_workers=manager.wait_for_workers,
        tune_parameters=tuning.sent(tune, engine),
        tuning=tune,
        most_nodes=most_nodes,
        min_workers=factory.min_workers,
        max_workers=factory.max_workers,
        workers_per_cycle=factory.workers_per_cycle,
        worker_timeout=options.get("timeout", factory.worker_timeout),
        factory_timeout=factory.factory_timeout,
        node_cores=node["cores"],
        node_memory=node["memory"],
        node_disk=node["disk"],
        node_gpus=there.gpus,
        accelerators=there.accelerators,
        gpu_memory=there.gpu_memory,
        cpu_affinity=there.cpu_affinity,
        local=engine == "embedded" or nodes.are_local(factory, worker_launch_method, provider),
        vine_log_dir=_absolute(manager.vine_log_dir),
        scratch_dir=_absolute(factory.scratch_dir),
        inline_limit=tuning.inline_limit(operator.index(inline_limit), tune),
    )


def _named(library: Mapping[str, Any]) -> LibrarySettings:
    """Resolve the settings of a named library. Its slots share its gpus, and CUDA does not survive a fork."""
    gpus = number_of_gpus(library.get("gpus") or 0)
    gpu_memory = float(library.get("gpu_memory") or 0.0)
    return LibrarySettings(
        slots=int(library.get("num_slots") or 0) or math.ceil(gpus or bool(gpu_memory)) or None,
        cores=_number_or_none(library.get("cores")),
        memory=_number_or_none(library.get("memory")),
        disk=_number_or_none(library.get("disk")),
        gpus=gpus,
        gpu_memory=gpu_memory,
        **_process(library, scope="slot" if gpus or gpu_memory else "library"),
    )


def _process(library: Mapping[str, Any], *, scope: str) -> dict[str, Any]:
    """Resolve the settings of a library's process; ``scope`` is the default of its context's scope."""
    return {
        "import_modules": tuple(getattr(each, "__name__", each) for each in library.get("import_modules") or ()),
        "context": library.get("context"),
        "context_args": tuple(library.get("context_args") or ()),
        "context_kwargs": dict(library.get("context_kwargs") or {}),
        "context_scope": library.get("context_scope") or scope,
        "start_timeout": float(library.get("start_timeout") or START_TIMEOUT),
    }


def _password_file(given: str | None, local: bool) -> str | None:
    """Choose and check the password file. None: one in the run's private directory, for workers on this machine."""
    if given is not None:
        path = os.path.abspath(os.path.expanduser(given))
        if (reason := passwords.unusable(path)) is not None:
            raise ConfigurationError(f"project_password_file={given!r} cannot be used: {reason}")
        return path
    if local:
        return None
    path = passwords.default_path()
    reason = passwords.unusable(path) if os.path.lexists(path) else passwords.unmakeable(path)
    if reason is not None:
        raise ConfigurationError(
            f"workers on other machines need a password file, and {path} cannot be used: {reason}. Give "
            "project_password_file, the path of a file that only you and the nodes can read"
        )
    return path


def _environment(env_pack: str | None) -> str | None:
    path = _absolute(env_pack)
    if path is not None and not os.path.exists(path):
        refuse(
            "TaskVineManagerConfig.env_pack",
            env_pack,
            "the path of an existing tarball or of an existing environment's directory "
            "(conda environments are not looked up by name)",
        )
    return path


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(os.path.expanduser(path))


def _number_or_none(value: Any | None) -> float | None:
    return float(value) if value else None  # 0 is "not set", as in TaskVine
