"""The configuration classes for users: the meaning, default and rule of each field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from taskvine_exec.config.redaction import redacted_repr
from taskvine_exec.config.rules import DICT, FLAG, NAME, NAMES, PATH, TEXT, one_of, or_none, whole
from taskvine_exec.config.tuning import SOURCE
from taskvine_tune.tuning import Source

AUTOLABEL_ALGORITHMS = ("max-xput", "bucketing", "max")

#: Batch systems that any release of vine_factory supports.
BATCH_TYPES = (
    "local",
    "condor",
    "sge",
    "uge",
    "slurm",
    "pbs",
    "torque",
    "moab",
    "lsf",
    "flux",
    "k8s",
    "amazon",
    "vine",
    "wq",
    "cluster",
    "dryrun",
)


@dataclass(repr=False)
class TaskVineManagerConfig:
    """Configuration of the manager.

    Every field may also be given to ``TaskVineExecutor`` by name.

    Parameters
    ----------
    port : int
        Network port on which the manager listens for workers. 0 takes any free port. No effect on the embedded engine.
    address : str, optional
        Address at which workers reach the manager. Default: 'localhost' if all workers are on this machine or are
        started by hand. Otherwise, the address of this machine's host name or default route. No effect on the embedded
        engine.
    project_name : str, optional
        Name under which the manager registers with TaskVine's public catalog server. Default: it does not register.
        Needs the TaskVine engine.
    project_password_file : str, optional
        File with the password that manager and workers show each other. Only you may have access to it, and nodes must
        see it. Default: a new password for each run if all workers are on this machine. Otherwise,
        ``taskvine-exec/password`` in ``$XDG_STATE_HOME`` or ``~/.local/state``, created if missing. Needs the TaskVine
        engine.
    env_vars : dict, optional
        Environment variables to set for tasks.
    init_command : str
        Shell command to run before the Python process of a task or library starts.
    env_pack : str, optional
        Python environment that tasks run in: the path of a tarball (conda-pack, venv-pack or poncho) or of an
        environment's directory. Default: the environment of your program.
    app_pack : bool
        Not supported: must be False. Use ``env_pack``.
    extra_pkgs : list of str, optional
        No effect, because ``app_pack`` is not supported.
    max_retries : int, optional
        How many times a task is retried if its node is lost. None means no limit. Parsl's own ``retries`` apply in
        addition.
    library_config : dict, optional
        Settings of the library that runs function calls, by key:

        ``num_slots``
            Number of calls that run at a time. Default: one per core of the node.
        ``cores``, ``memory`` (MB), ``disk`` (MB)
            Resources of the whole library. A call that asks for none gets this amount divided by ``num_slots`` (by 1 if
            that is not given). For memory this is also the call's limit. Default: calls get one core, or the node's
            cores divided by ``num_slots``, and have no limits.
        ``gpus``
            Checked to be at most what a node has, without any other effect: calls see only gpus that they ask for.
        ``gpu_memory``
            Only for libraries with names: calls of this library ask for it themselves.
        ``import_modules``
            List of modules, or of their names, that the library imports once for all slots.
            ``docs/how-to/context.md`` says which modules are safe to import this way.
        ``context``, ``context_args``, ``context_kwargs``
            Setup function and its arguments. It runs before the first call and returns a dict of variables, which
            calls read with ``load_variable_from_library``.
        ``context_scope``
            'library' (default) runs the setup function once per library, 'slot' once per slot.
        ``start_timeout``
            Time limit in seconds for ``init_command``, and again for ``import_modules`` and ``context`` together. Calls
            fail if the library takes longer. Default: 1,800.
    shared_fs : bool
        Whether workers see the same file system as your program. Files are then used in place and not sent. Apps run
        in your program's directory, unless the executor's ``working_directory`` says otherwise.
    autolabel : bool
        Not supported: must be False. Declare resources in each app's resource specification.
    autolabel_algorithm : {'max-xput', 'bucketing', 'max'}
        No effect, because ``autolabel`` is not supported.
    autolabel_window : int, optional
        No effect, because ``autolabel`` is not supported.
    autocategory : bool
        Whether each app is its own category, unless its resource specification names one.
    enable_peer_transfers : bool
        Whether nodes copy files from one another.
    wait_for_workers : int, optional
        Number of workers that must join before the first task is sent.
    tune_parameters : dict, TuneParameters or path, optional
        Tuning parameters of TaskVine and of the executor: a dict by name (with dashes or underscores), a
        ``taskvine_tune.TuneParameters``, or the path of a TOML, YAML or JSON file. ``taskvine-tune list`` prints all of
        them.
    vine_log_dir : str, optional
        Directory for the manager's logs. Default: a directory named after the executor's label in Parsl's run
        directory.
    """

    port: int = field(default=0, metadata={"rule": whole(0, 65535)})
    address: str | None = field(default=None, metadata={"rule": or_none(NAME)})
    project_name: str | None = field(default=None, metadata={"rule": or_none(TEXT)})
    project_password_file: str | None = field(default=None, metadata={"rule": or_none(PATH)})

    env_vars: dict[str, Any] | None = field(default=None, metadata={"rule": or_none(DICT)})
    init_command: str = field(default="", metadata={"rule": TEXT})
    env_pack: str | None = field(default=None, metadata={"rule": or_none(PATH)})
    app_pack: bool = field(default=False, metadata={"rule": FLAG})
    extra_pkgs: list[str] | None = field(default=None, metadata={"rule": or_none(NAMES)})
    max_retries: int | None = field(default=1, metadata={"rule": or_none(whole(0))})
    library_config: dict[str, Any] | None = field(default=None, metadata={"rule": or_none(DICT)})

    shared_fs: bool = field(default=False, metadata={"rule": FLAG})
    autolabel: bool = field(default=False, metadata={"rule": FLAG})
    autolabel_algorithm: str = field(default="max-xput", metadata={"rule": one_of(*AUTOLABEL_ALGORITHMS)})
    autolabel_window: int | None = field(default=None, metadata={"rule": or_none(whole(1))})
    autocategory: bool = field(default=True, metadata={"rule": FLAG})
    enable_peer_transfers: bool = field(default=True, metadata={"rule": FLAG})
    wait_for_workers: int | None = field(default=None, metadata={"rule": or_none(whole(0))})
    tune_parameters: Source | None = field(default=None, metadata={"rule": or_none(SOURCE)})

    vine_log_dir: str | None = field(default=None, metadata={"rule": or_none(PATH)})

    __repr__ = redacted_repr


@dataclass(repr=False)
class TaskVineFactoryConfig:
    """Configuration of workers and of the factory that starts them. The default is one worker on this machine.

    Every field may also be given to ``TaskVineExecutor`` by name. ``cores``, ``gpus``, ``memory``, ``disk``,
    ``worker_options`` and ``worker_executable`` apply to all workers. The other fields apply to workers that the
    factory starts (``worker_launch_method='factory'``).

    Parameters
    ----------
    factory_timeout : int
        Seconds after which ``vine_factory`` ends if it sees no manager. No effect on the embedded engine.
    scratch_dir : str, optional
        Directory in which ``vine_factory`` creates a directory for its jobs. On most batch systems, nodes must see it.
        Default: the log directory, or the current directory if the run has no log directory. No effect on the embedded
        engine.
    min_workers : int
        Number of workers to keep at all times.
    max_workers : int
        Largest number of workers.
    workers_per_cycle : int
        Largest number of workers that ``vine_factory`` starts in each cycle of 30 seconds. 0 means no limit. No effect
        on the embedded engine.
    worker_options : str, optional
        Further command-line options of ``vine_worker``. The embedded engine takes ``-t``, ``--timeout``, ``--cores``,
        ``--memory``, ``--disk`` and ``--gpus`` only.
    worker_executable : str
        Worker program: a name on PATH, or a path. Needs the TaskVine engine.
    worker_timeout : int
        Seconds without work after which a worker ends.
    cores : int, optional
        Cores of a worker. Default (None or 0): the provider's ``cores_per_node``, or else all cores that it may use.
    gpus : int, optional
        GPUs of a worker. Default (None): all GPUs that it may use.
    memory : int, optional
        Memory of a worker in MB. Default (None or 0): the provider's ``mem_per_node``, or else all memory that it may
        use.
    disk : int, optional
        Storage of a worker in MB. Default (None or 0): all free storage.
    python_env : str, optional
        Tarball of a Python environment in which ``vine_factory`` runs workers. Needs the TaskVine engine and a batch
        system. Use ``env_pack`` otherwise.
    batch_type : str
        Batch system that runs the workers, such as 'slurm' or 'condor'. 'local' means this machine. All other types
        need the TaskVine engine.
    condor_requirements : str, optional
        Requirements expression for HTCondor. Needs the TaskVine engine.
    batch_options : str, optional
        Further options of the batch system, in its own syntax. Needs the TaskVine engine.
    """

    factory_timeout: int = field(default=300, metadata={"rule": whole(0)})
    scratch_dir: str | None = field(default=None, metadata={"rule": or_none(PATH)})

    min_workers: int = field(default=1, metadata={"rule": whole(0)})
    max_workers: int = field(default=1, metadata={"rule": whole(0)})
    workers_per_cycle: int = field(default=1, metadata={"rule": whole(0)})

    worker_options: str | None = field(default=None, metadata={"rule": or_none(TEXT)})
    worker_executable: str = field(default="vine_worker", metadata={"rule": PATH})
    worker_timeout: int = field(default=300, metadata={"rule": whole(0)})
    cores: int | None = field(default=None, metadata={"rule": or_none(whole(0))})
    gpus: int | None = field(default=None, metadata={"rule": or_none(whole(0))})
    memory: int | None = field(default=None, metadata={"rule": or_none(whole(0))})
    disk: int | None = field(default=None, metadata={"rule": or_none(whole(0))})
    python_env: str | None = field(default=None, metadata={"rule": or_none(PATH)})

    batch_type: str = field(default="local", metadata={"rule": one_of(*BATCH_TYPES)})
    condor_requirements: str | None = field(default=None, metadata={"rule": or_none(TEXT)})
    batch_options: str | None = field(default=None, metadata={"rule": or_none(TEXT)})

    # Not for users: Parsl's own executor sets these from the manager's configuration.
    _project_port: int = 0
    _project_address: str | None = None
    _project_name: str | None = None
    _project_password_file: str | None = None

    __repr__ = redacted_repr
