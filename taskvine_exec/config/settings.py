"""The settings that an engine gets: frozen, checked and resolved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from taskvine_exec.config.redaction import redacted_repr
from taskvine_exec.submission.resources import Mode
from taskvine_manager.node import pinning
from taskvine_manager.parameters import Engine
from taskvine_manager.runtime.payload import INLINE_LIMIT
from taskvine_manager.wire.messages import Library
from taskvine_tune.tuning import TuneParameters

#: Default of a library's start_timeout, in seconds.
START_TIMEOUT = 1800.0

WorkingDirectory = Literal["submit", "sandbox"]


@dataclass(frozen=True, kw_only=True, repr=False)
class LibrarySettings:
    """The settings of a named library, checked and resolved.

    Fields mean the same as those of :class:`EngineSettings` for the default library. Memory and gpus belong to the
    library for as long as it runs.

    Parameters
    ----------
    slots
        Calls that run at a time. None: as many as the node's cores allow.
    gpus
        GPUs of the whole library, or a part of one.
    gpu_memory
        Memory that it needs of each, in MB.
    """

    slots: int | None = None
    cores: float | None = None
    memory: float | None = None
    disk: float | None = None
    gpus: float = 0
    gpu_memory: float = 0.0
    import_modules: tuple[str, ...] = ()
    context: Callable[..., Any] | None = None
    context_args: tuple[Any, ...] = ()
    context_kwargs: dict[str, Any] = field(default_factory=dict)
    context_scope: Literal["library", "slot"] = "library"
    start_timeout: float = START_TIMEOUT

    __repr__ = redacted_repr

    def described(self, name: str) -> Library:
        """Return what managers and nodes need to know of the library to count its resources."""
        return Library(name, self.slots, self.memory, self.gpus, self.gpu_memory)


@dataclass(frozen=True, kw_only=True, repr=False)
class EngineSettings:
    """The settings that both engines share, checked and resolved.

    Fields named as in the two configuration classes mean the same there. The fields below are derived.

    Parameters
    ----------
    function_exec_mode
        'L1' or 'L2'.
    env_pack
        Absolute path of a tarball or of an environment's directory.
    slots
        Function slots of the library. None: the engine chooses the number.
    library_cores, library_memory, library_disk
        Resources of the node that the library may use. Memory and disk are in MB. None: all.
    import_modules
        Names of the modules that the library imports before it forks slots.
    context, context_args, context_kwargs, context_scope
        The library's setup function, its arguments, and its scope.
    start_timeout
        Seconds that a library may take to start.
    libraries
        The named libraries.
    tune_parameters
        Tuning parameters to send to the engine, by name with dashes.
    tuning
        All tuning parameters that were set.
    most_nodes
        Largest possible number of nodes. None: unknown.
    node_cores, node_memory, node_disk, node_gpus
        Size of a node. Memory and disk are in MB. None: the size of the machine.
    accelerators
        Names of a node's GPUs. Empty: those that it finds.
    gpu_memory
        Memory of each GPU in MB. None: what the node finds.
    cpu_affinity
        How tasks are bound to CPUs.
    local
        Whether all nodes are on this machine.
    vine_log_dir, scratch_dir
        Absolute paths.
    inline_limit
        Largest encoded argument list or result, in bytes, that is sent inside messages.
    """

    engine: ClassVar[Engine]

    function_exec_mode: Mode
    worker_launch_method: str

    env_vars: dict[str, str] = field(default_factory=dict)
    init_command: str = ""
    env_pack: str | None = None
    max_retries: int | None = 1

    slots: int | None = None
    library_cores: float | None = None
    library_memory: float | None = None
    library_disk: float | None = None
    import_modules: tuple[str, ...] = ()
    context: Callable[..., Any] | None = None
    context_args: tuple[Any, ...] = ()
    context_kwargs: dict[str, Any] = field(default_factory=dict)
    context_scope: Literal["library", "slot"] = "library"
    start_timeout: float = START_TIMEOUT
    libraries: dict[str, LibrarySettings] = field(default_factory=dict)

    shared_fs: bool = False
    autocategory: bool = True
    enable_peer_transfers: bool = True
    wait_for_workers: int | None = None
    tune_parameters: dict[str, float] = field(default_factory=dict)
    tuning: TuneParameters = field(default_factory=TuneParameters)
    most_nodes: int | None = None

    min_workers: int = 1
    max_workers: int = 1
    workers_per_cycle: int = 1
    worker_timeout: int = 300
    factory_timeout: int = 300

    node_cores: int | None = None
    node_memory: float | None = None
    node_disk: float | None = None
    node_gpus: int | None = None
    accelerators: tuple[str, ...] = ()
    gpu_memory: float | None = None
    cpu_affinity: str = pinning.NONE
    local: bool = True

    vine_log_dir: str | None = None
    scratch_dir: str | None = None

    inline_limit: int = INLINE_LIMIT

    __repr__ = redacted_repr


@dataclass(frozen=True, kw_only=True, repr=False)
class EmbeddedSettings(EngineSettings):
    """The settings of the embedded engine, checked and resolved."""

    engine: ClassVar[Engine] = "embedded"


@dataclass(frozen=True, kw_only=True, repr=False)
class VineSettings(EngineSettings):
    """The settings of the TaskVine engine, checked and resolved.

    Parameters
    ----------
    port, address, project_name
        As in :class:`TaskVineManagerConfig`.
    password_file
        Path of the password file. None: a file in the run's private directory.
    ssl
        True: TLS between manager and workers, with a key made for the run. A tuple: the paths of a key and its
        certificate.
    worker
        The worker program.
    worker_options, batch_type, condor_requirements, batch_options, python_env
        As in :class:`TaskVineFactoryConfig`.
    batching
        Whether short calls are sent together in parcels.
    """

    engine: ClassVar[Engine] = "taskvine"

    port: int = 0
    address: str | None = None
    project_name: str | None = None
    password_file: str | None = None
    ssl: bool | tuple[str, str] = False
    batching: bool = True
    worker: str = "vine_worker"
    worker_options: str = ""
    batch_type: str = "local"
    condor_requirements: str | None = None
    batch_options: str | None = None
    python_env: str | None = None


def working_directory(asked: WorkingDirectory | None, settings: EngineSettings) -> WorkingDirectory:
    """Choose where apps run.

    Parameters
    ----------
    asked
        'submit' (the user's directory) or 'sandbox' (a private directory for each call). None is 'submit' if all nodes
        are on this machine or ``shared_fs`` is set, and 'sandbox' otherwise.
    settings
        The executor's settings.
    """
    return asked or ("submit" if settings.local or settings.shared_fs else "sandbox")
