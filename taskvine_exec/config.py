"""The configuration classes for users, and the settings that each engine derives from them.

:class:`TaskVineManagerConfig` and :class:`TaskVineFactoryConfig` have the fields of Parsl's classes of the same names,
in the same order. A configuration written for Parsl's own TaskVineExecutor works unchanged. The classes are mutable
because Parsl's are. The executor works on copies. :func:`embedded_settings` and :func:`vine_settings` derive a frozen
object from them.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import numbers
import operator
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

from parsl.errors import ConfigurationError

from taskvine_exec import passwords
from taskvine_exec.submission.resources import MODES_ALLOWED, Mode, brief, did_you_mean, normalise_mode
from taskvine_manager.parameters import PARAMETERS, Engine, own
from taskvine_manager.parameters.taskvine import ENFORCE_WORKER_EVICTION_INTERVAL
from taskvine_manager.runtime.payload import INLINE_LIMIT, LARGEST_INLINE_LIMIT
from taskvine_tune.errors import TuningError
from taskvine_tune.tuning import Source, TuneParameters

__all__ = [
    "AUTOLABEL_ALGORITHMS",
    "BATCH_TYPES",
    "LIBRARY_KEYS",
    "EmbeddedSettings",
    "TaskVineFactoryConfig",
    "TaskVineManagerConfig",
    "VineSettings",
    "WorkingDirectory",
    "embedded_settings",
    "own_factory_config",
    "own_manager_config",
    "retuned",
    "validate",
    "vine_settings",
    "with_overrides",
    "working_directory",
]

logger = logging.getLogger(__name__)

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

#: The keys of TaskVineManagerConfig.library_config.
LIBRARY_KEYS = (
    "num_slots",
    "cores",
    "memory",
    "disk",
    "gpus",
    "import_modules",
    "context",
    "context_args",
    "context_kwargs",
    "context_scope",
    "start_timeout",
)

#: Default of library_config's start_timeout, in seconds.
START_TIMEOUT = 1800.0

#: Names that other software uses for the keys of library_config.
_FOREIGN_LIBRARY_KEYS: Mapping[str, str] = {
    "function_slots": "num_slots",
    "memory (mbs)": "memory",
    "disk (mbs)": "disk",
    "cpus": "cores",
    "setup": "context",
    "library_context_info": "context",
    "hoisting_modules": "import_modules",
    "lib_modules": "import_modules",
    "modules": "import_modules",
    "imports": "import_modules",
}

WorkingDirectory = Literal["submit", "sandbox"]

_LAUNCH_METHODS = ("provider", "factory", "manual")


@dataclass(repr=False)
class TaskVineManagerConfig:
    """Configuration of the manager.

    Every field may also be given to :class:`~taskvine_exec.TaskVineExecutor` by name.

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
        ``cores``, ``memory`` (MB), ``disk`` (MB), ``gpus``
            Resources that all slots share. Default: those of the node.
        ``import_modules``
            List of modules, or of their names, that the library imports once for all slots. ``docs/guide.md`` says
            which modules are safe to import this way.
        ``context``, ``context_args``, ``context_kwargs``
            Setup function and its arguments. It runs before the first call and returns a dict of variables, which
            calls read with :func:`~taskvine_exec.load_variable_from_library`.
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
        :class:`~taskvine_tune.TuneParameters`, or the path of a TOML, YAML or JSON file. ``taskvine-tune list`` prints
        all of them.
    vine_log_dir : str, optional
        Directory for the manager's logs. Default: a directory named after the executor's label in Parsl's run
        directory.
    """

    port: int = 0
    address: str | None = None
    project_name: str | None = None
    project_password_file: str | None = None

    env_vars: dict[str, Any] | None = None
    init_command: str = ""
    env_pack: str | None = None
    app_pack: bool = False
    extra_pkgs: list[str] | None = None
    max_retries: int | None = 1
    library_config: dict[str, Any] | None = None

    shared_fs: bool = False
    autolabel: bool = False
    autolabel_algorithm: str = "max-xput"
    autolabel_window: int | None = None
    autocategory: bool = True
    enable_peer_transfers: bool = True
    wait_for_workers: int | None = None
    tune_parameters: Source | None = None

    vine_log_dir: str | None = None

    def __repr__(self) -> str:
        return _guarded_repr(self)


@dataclass(repr=False)
class TaskVineFactoryConfig:
    """Configuration of workers and of the factory that starts them. The default is one worker on this machine.

    Every field may also be given to :class:`~taskvine_exec.TaskVineExecutor` by name. ``cores``, ``gpus``, ``memory``,
    ``disk``, ``worker_options`` and ``worker_executable`` apply to all workers. The other fields apply to workers that
    the factory starts (``worker_launch_method='factory'``).

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

    factory_timeout: int = 300
    scratch_dir: str | None = None

    min_workers: int = 1
    max_workers: int = 1
    workers_per_cycle: int = 1

    worker_options: str | None = None
    worker_executable: str = "vine_worker"
    worker_timeout: int = 300
    cores: int | None = None
    gpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    python_env: str | None = None

    batch_type: str = "local"
    condor_requirements: str | None = None
    batch_options: str | None = None

    # Not for users: Parsl's own executor sets these from the manager's configuration.
    _project_port: int = 0
    _project_address: str | None = None
    _project_name: str | None = None
    _project_password_file: str | None = None

    def __repr__(self) -> str:
        return _guarded_repr(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class EmbeddedSettings:
    """The settings of the embedded engine, checked and resolved.

    Fields named as in the two configuration classes mean the same there. The fields below are derived.

    Parameters
    ----------
    function_exec_mode
        'L1' or 'L2'.
    env_pack
        Absolute path of a tarball or of an environment's directory.
    slots
        Function slots of the library. None: the engine chooses the number.
    library_cores, library_memory, library_disk, library_gpus
        Resources of the node that the library may use. Memory and disk are in MB. None: all.
    import_modules
        Names of the modules that the library imports before it forks slots.
    context, context_args, context_kwargs, context_scope
        The library's setup function, its arguments, and its scope.
    start_timeout
        Seconds that a library may take to start.
    tune_parameters
        Tuning parameters to send to the engine, by name with dashes.
    tuning
        All tuning parameters that were set.
    most_nodes
        Largest possible number of nodes. None: unknown.
    node_cores, node_memory, node_disk, node_gpus
        Size of a node. Memory and disk are in MB. None: the size of the machine.
    vine_log_dir, scratch_dir
        Absolute paths.
    inline_limit
        Largest encoded argument list or result, in bytes, that is sent inside messages.
    """

    engine: ClassVar[Engine] = "embedded"

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
    library_gpus: int | None = None
    import_modules: tuple[str, ...] = ()
    context: Callable[..., Any] | None = None
    context_args: tuple[Any, ...] = ()
    context_kwargs: dict[str, Any] = field(default_factory=dict)
    context_scope: Literal["library", "slot"] = "library"
    start_timeout: float = START_TIMEOUT

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

    vine_log_dir: str | None = None
    scratch_dir: str | None = None

    inline_limit: int = INLINE_LIMIT

    def __repr__(self) -> str:
        return _guarded_repr(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class VineSettings(EmbeddedSettings):
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
    local
        Whether all nodes are on this machine.
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
    local: bool = True
    batching: bool = True
    worker: str = "vine_worker"
    worker_options: str = ""
    batch_type: str = "local"
    condor_requirements: str | None = None
    batch_options: str | None = None
    python_env: str | None = None


# ---- Hiding secrets


_SECRET_NAME = r"[\w.-]*(?:pass|secret|token|credential|api[_-]?key|access[_-]?key)[\w.-]*"
_SECRET = re.compile(rf"""({_SECRET_NAME}(?:\s*[=:]\s*|\s+))("[^"]*"|'[^']*'|\S+)""", re.IGNORECASE)
_URL_SECRET = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_HIDING = ("env_vars", "context_args", "context_kwargs")
_HIDDEN = "***"


def _guarded(name: str, value: object) -> object:
    """Replace possible passwords in a field's value: Parsl logs the repr of every configuration."""
    if name in _HIDING and value:
        return dict.fromkeys(value, _HIDDEN) if isinstance(value, Mapping) else _HIDDEN
    if name == "library_config" and isinstance(value, Mapping):
        return {key: _guarded(str(key), inner) for key, inner in value.items()}
    if isinstance(value, str):
        return _URL_SECRET.sub(_HIDDEN, _SECRET.sub(rf"\g<1>{_HIDDEN}", value))
    return value


def _guarded_repr(config: Any) -> str:
    names = [each.name for each in dataclasses.fields(config) if not each.name.startswith("_")]
    shown = ", ".join(f"{name}={_guarded(name, getattr(config, name))!r}" for name in names)
    return f"{type(config).__name__}({shown})"


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    shown = brief(_guarded(name.rsplit(".", 1)[-1], value))
    raise ConfigurationError(f"{name}={shown} is not valid: must be {allowed}")


# ---- Copies


_Config = TypeVar("_Config", TaskVineManagerConfig, TaskVineFactoryConfig)


def own_manager_config(obj: object) -> TaskVineManagerConfig:
    """Copy a manager's configuration into this package's class.

    Parameters
    ----------
    obj
        A :class:`TaskVineManagerConfig`, Parsl's class of that name (never changed), or None for the defaults.

    Returns
    -------
    TaskVineManagerConfig
        A copy with its own dicts and lists. User objects in them are not copied.

    Raises
    ------
    ConfigurationError
        If ``obj`` is anything else, or sets a field that this package does not support.
    """
    return _own(obj, TaskVineManagerConfig, "manager_config")


def own_factory_config(obj: object) -> TaskVineFactoryConfig:
    """Copy a factory's configuration into this package's class.

    Parameters
    ----------
    obj
        A :class:`TaskVineFactoryConfig`, Parsl's class of that name (never changed), or None for the defaults.

    Returns
    -------
    TaskVineFactoryConfig
        The copy.

    Raises
    ------
    ConfigurationError
        If ``obj`` is anything else, or sets a field that this package does not support.
    """
    return _own(obj, TaskVineFactoryConfig, "factory_config")


def _own(obj: object, cls: type[_Config], argument: str) -> _Config:
    names = [each.name for each in dataclasses.fields(cls)]
    if obj is None:
        return cls()
    if isinstance(obj, cls):
        own = copy.copy(obj)  # keeps the class of a subclass
    elif dataclasses.is_dataclass(obj) and not isinstance(obj, type) and _resembles(obj, cls, names):
        own = cls()
    else:
        what = f"the class {obj.__name__}" if isinstance(obj, type) else brief(obj)
        raise ConfigurationError(f"{argument} is {what}: must be None or an instance of {cls.__name__}")
    for name in names:
        setattr(own, name, _copied(getattr(obj, name, getattr(own, name))))
    return own


def _resembles(obj: Any, cls: type[Any], names: Iterable[str]) -> bool:
    """Tell whether ``obj`` is Parsl's dataclass of the same name, from any release, without importing that class."""
    theirs = {each.name: each for each in dataclasses.fields(obj)}
    if not theirs.keys() >= set(names) and cls.__name__ not in {base.__name__ for base in type(obj).__mro__}:
        return False
    for name in theirs.keys() - set(names):
        # A later release of Parsl may have more fields. A value set there must not be dropped silently.
        if getattr(obj, name) != _default(theirs[name]):
            raise ConfigurationError(
                f"{type(obj).__name__}.{name} is set, but this executor has no such field: unset it"
            )
    return True


def _default(theirs: dataclasses.Field[Any]) -> object:
    return theirs.default if theirs.default_factory is dataclasses.MISSING else theirs.default_factory()


def _copied(value: object) -> object:
    """Copy the containers of a configuration, but not the objects in them."""
    if isinstance(value, TuneParameters):  # immutable
        return value
    if isinstance(value, Mapping):
        return {key: _container(inner) for key, inner in value.items()}
    return _container(value)


def _container(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if _is_whole(value):
        return operator.index(value)  # type: ignore[arg-type]  # numpy's integers become Python's
    return list(value) if isinstance(value, list) else value


def with_overrides(
    manager: TaskVineManagerConfig, factory: TaskVineFactoryConfig, settings: Mapping[str, Any]
) -> tuple[TaskVineManagerConfig, TaskVineFactoryConfig]:
    """Apply settings to the fields of either configuration.

    Parameters
    ----------
    manager, factory
        The original configurations, which stay unchanged.
    settings
        Values by field name.

    Returns
    -------
    tuple
        Copies of both, with the settings applied.

    Raises
    ------
    TypeError
        If a field does not exist, as for any unknown keyword argument.
    """
    manager, factory = own_manager_config(manager), own_factory_config(factory)
    owners: dict[str, object] = {
        each.name: config
        for config in (manager, factory)
        for each in dataclasses.fields(config)
        if not each.name.startswith("_")
    }
    for name, value in settings.items():
        if name in owners:
            setattr(owners[name], name, _copied(value))
        elif name in LIBRARY_KEYS:
            raise TypeError(f"unknown setting {name!r}: it is a key of library_config")
        else:
            raise TypeError(f"unknown setting {name!r}: {did_you_mean(name, owners)}")
    return manager, factory


# ---- Validation


@dataclass(frozen=True)
class _Rule:
    """The allowed values of a field, as text and as a test."""

    allowed: str
    accepts: Callable[[Any], bool]


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_amount(value: object) -> bool:
    return _is_number(value) and not isinstance(value, bool) and float(value) >= 0  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # an int too large for a float
        return False


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike)) and isinstance(os.fspath(value), str) and os.fspath(value) != ""


def _module_name(value: object) -> object:
    return value.__name__ if isinstance(value, ModuleType) else value


def _is_importable(value: object) -> bool:
    name = _module_name(value)
    return isinstance(name, str) and name != "__main__" and all(map(str.isidentifier, name.split(".")))


def _whole(low: int, high: int | None = None) -> _Rule:
    span = f"of at least {low}" if high is None else f"from {low} to {high}"
    most = math.inf if high is None else high
    return _Rule(f"a whole number {span}", lambda value: _is_whole(value) and low <= value <= most)


def _one_of(*values: str) -> _Rule:
    return _Rule("one of " + ", ".join(map(repr, values)), lambda value: isinstance(value, str) and value in values)


def _or_none(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.allowed}, or None", lambda value: value is None or rule.accepts(value))


_AMOUNT = _Rule("a number of at least 0", _is_amount)
_POSITIVE = _Rule("a number above 0", lambda value: _is_amount(value) and value > 0)
_FLAG = _Rule("True or False", lambda value: isinstance(value, bool))
_PATH = _Rule("a path", _is_path)
_TEXT = _Rule("a string", lambda value: isinstance(value, str))
_NAME = _Rule("a non-empty string", lambda value: isinstance(value, str) and value != "")
_DICT = _Rule("a dict", lambda value: isinstance(value, Mapping))
_TUNING = _Rule(
    "a dict, a TuneParameters, or the path of a TOML, YAML or JSON file",
    lambda value: isinstance(value, Mapping) or _is_path(value),
)
_NAMES = _Rule(
    "a list of non-empty strings", lambda value: isinstance(value, (list, tuple)) and all(map(_NAME.accepts, value))
)
_VARIABLE_NAME = _Rule(
    "the name of an environment variable: a non-empty string without '=' or NUL",
    lambda value: isinstance(value, str) and value != "" and not set(value) & {"=", "\0"},
)
_VARIABLE = _Rule(
    "a string without NUL, a number or a path",
    lambda value: isinstance(value, (str, numbers.Real, os.PathLike)) and "\0" not in str(value),
)

_MANAGER_RULES: Mapping[str, _Rule] = {
    "port": _whole(0, 65535),
    "address": _or_none(_NAME),
    "project_name": _or_none(_TEXT),
    "project_password_file": _or_none(_PATH),
    "env_vars": _or_none(_DICT),
    "init_command": _TEXT,
    "env_pack": _or_none(_PATH),
    "app_pack": _FLAG,
    "extra_pkgs": _or_none(_NAMES),
    "max_retries": _or_none(_whole(0)),
    "library_config": _or_none(_DICT),
    "shared_fs": _FLAG,
    "autolabel": _FLAG,
    "autolabel_algorithm": _one_of(*AUTOLABEL_ALGORITHMS),
    "autolabel_window": _or_none(_whole(1)),
    "autocategory": _FLAG,
    "enable_peer_transfers": _FLAG,
    "wait_for_workers": _or_none(_whole(0)),
    "tune_parameters": _or_none(_TUNING),
    "vine_log_dir": _or_none(_PATH),
}

_FACTORY_RULES: Mapping[str, _Rule] = {
    "factory_timeout": _whole(0),
    "scratch_dir": _or_none(_PATH),
    "min_workers": _whole(0),
    "max_workers": _whole(0),
    "workers_per_cycle": _whole(0),
    "worker_options": _or_none(_TEXT),
    "worker_executable": _PATH,
    "worker_timeout": _whole(0),
    "cores": _or_none(_whole(0)),
    "gpus": _or_none(_whole(0)),
    "memory": _or_none(_whole(0)),
    "disk": _or_none(_whole(0)),
    "python_env": _or_none(_PATH),
    "batch_type": _one_of(*BATCH_TYPES),
    "condor_requirements": _or_none(_TEXT),
    "batch_options": _or_none(_TEXT),
}

_LIBRARY_RULES: Mapping[str, _Rule] = {
    "num_slots": _or_none(_whole(0)),
    "cores": _or_none(_AMOUNT),
    "memory": _or_none(_AMOUNT),
    "disk": _or_none(_AMOUNT),
    "gpus": _or_none(_whole(0)),
    "import_modules": _or_none(
        _Rule(
            "a list of modules, or of their full names, without __main__",
            lambda value: isinstance(value, (list, tuple)) and all(map(_is_importable, value)),
        )
    ),
    "context": _or_none(_Rule("callable", callable)),
    "context_args": _or_none(_Rule("a tuple or a list", lambda value: isinstance(value, (tuple, list)))),
    "context_kwargs": _or_none(
        _Rule(
            "a dict with string keys",
            lambda value: isinstance(value, Mapping) and all(isinstance(key, str) for key in value),
        )
    ),
    "context_scope": _or_none(_one_of("library", "slot")),
    "start_timeout": _or_none(_POSITIVE),
}


def validate(manager: TaskVineManagerConfig, factory: TaskVineFactoryConfig) -> None:
    """Check the type and range of every field.

    Parameters
    ----------
    manager, factory
        The configurations to check, which stay unchanged.

    Raises
    ------
    ConfigurationError
        For the first field that is not valid. The message names the field, its value, and the allowed values.
    """
    for config, rules in ((manager, _MANAGER_RULES), (factory, _FACTORY_RULES)):
        for name, rule in rules.items():
            _check(rule, f"{type(config).__name__}.{name}", getattr(config, name))
    _check_env_vars(manager.env_vars or {})
    _check_library(manager.library_config or {})
    _tuned(manager.tune_parameters, peer_transfers=manager.enable_peer_transfers)
    if factory.min_workers > factory.max_workers:
        allowed = f"at most max_workers, which is {factory.max_workers}"
        _refuse(f"{type(factory).__name__}.min_workers", factory.min_workers, allowed)


def _check(rule: _Rule, name: str, value: object) -> None:
    if not rule.accepts(value):
        _refuse(name, value, rule.allowed)


def _check_env_vars(env_vars: Mapping[Any, object]) -> None:
    for name, value in env_vars.items():
        _check(_VARIABLE_NAME, "a name in env_vars", name)
        if not _VARIABLE.accepts(value):  # the message hides the value: it may be a secret
            kind = type(value).__name__
            raise ConfigurationError(f"env_vars[{name!r}] of type {kind} is not valid: must be {_VARIABLE.allowed}")


def _check_library(library: Mapping[Any, Any]) -> None:
    for key, value in library.items():
        if key not in _LIBRARY_RULES:
            hint = did_you_mean(str(key), _LIBRARY_RULES, _FOREIGN_LIBRARY_KEYS)
            raise ConfigurationError(f"library_config has the unknown key {key!r}: {hint}")
        rule = _LIBRARY_RULES[key]
        if not rule.accepts(value):
            _refuse(f"library_config[{key!r}]", _guarded(key, value), rule.allowed)
    if library.get("context") is None:
        idle = [key for key in ("context_args", "context_kwargs", "context_scope") if library.get(key)]
        if idle:
            raise ConfigurationError(
                f"library_config has {' and '.join(idle)}, but no context: add it or drop these keys"
            )


def _tuned(
    source: Source | None, *, nodes: int | None = None, peer_transfers: bool, running: bool = False
) -> TuneParameters:
    """Load and check tuning parameters."""
    try:
        tune = TuneParameters.load({} if source is None else source)
        return tune.check(nodes=nodes, peer_transfers=peer_transfers, running=running)
    except TuningError as error:
        raise ConfigurationError(f"tune_parameters: {error}") from error


# ---- The embedded engine


def embedded_settings(
    manager: TaskVineManagerConfig,
    factory: TaskVineFactoryConfig,
    *,
    function_exec_mode: str,
    worker_launch_method: str,
    provider: Any | None = None,
    inline_limit: int = INLINE_LIMIT,
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

    Returns
    -------
    EmbeddedSettings
        The settings, with defaults filled in and paths made absolute.

    Raises
    ------
    ConfigurationError
        If a value is not valid, or this engine does not support it.
    """
    manager, factory = own_manager_config(manager), own_factory_config(factory)
    validate(manager, factory)
    _check(_one_of(*_LAUNCH_METHODS), "worker_launch_method", worker_launch_method)
    _refuse_unsupported(manager, factory)
    _refuse_remote(provider)
    options = _worker_options(factory.worker_options)
    return EmbeddedSettings(
        **_common(
            "embedded", manager, factory, options, function_exec_mode, worker_launch_method, provider, inline_limit
        ),
        env_pack=_environment(manager.env_pack),
    )


def _common(
    engine: Engine,
    manager: TaskVineManagerConfig,
    factory: TaskVineFactoryConfig,
    options: Mapping[str, int],
    function_exec_mode: str,
    worker_launch_method: str,
    provider: Any | None,
    inline_limit: int,
) -> dict[str, Any]:
    """Derive the settings that both engines share."""
    try:
        mode = normalise_mode(function_exec_mode)
    except ValueError:
        _refuse("function_exec_mode", function_exec_mode, MODES_ALLOWED)
    _check(_whole(0, LARGEST_INLINE_LIMIT), "inline_limit", inline_limit)
    most_nodes = _most_nodes(factory, worker_launch_method, provider)
    tune = _tuned(manager.tune_parameters, nodes=most_nodes, peer_transfers=manager.enable_peer_transfers)
    _warn_of_ignored(tune, engine)

    library = manager.library_config or {}
    node = _node_size(factory, options, provider)
    _refuse_larger_than_node(library, node)
    if worker_launch_method == "factory" and (manager.wait_for_workers or 0) > factory.max_workers:
        # No other workers can join, and the first task would wait forever.
        allowed = f"at most max_workers, which is {factory.max_workers}"
        _refuse(f"{type(manager).__name__}.wait_for_workers", manager.wait_for_workers, allowed)

    return {
        "function_exec_mode": mode,
        "worker_launch_method": worker_launch_method,
        "env_vars": {name: str(value) for name, value in (manager.env_vars or {}).items()},
        "init_command": manager.init_command,
        "max_retries": manager.max_retries,
        "slots": _slots(library, tune),
        "library_cores": _number_or_none(library.get("cores")),
        "library_memory": _number_or_none(library.get("memory")),
        "library_disk": _number_or_none(library.get("disk")),
        "library_gpus": library.get("gpus"),
        "import_modules": tuple(map(_module_name, library.get("import_modules") or ())),
        "context": library.get("context"),
        "context_args": tuple(library.get("context_args") or ()),
        "context_kwargs": dict(library.get("context_kwargs") or {}),
        "context_scope": library.get("context_scope") or "library",
        "start_timeout": float(library.get("start_timeout") or START_TIMEOUT),
        "shared_fs": manager.shared_fs,
        "autocategory": manager.autocategory,
        "enable_peer_transfers": manager.enable_peer_transfers,
        "wait_for_workers": manager.wait_for_workers,
        "tune_parameters": _given(tune, engine),
        "tuning": tune,
        "most_nodes": most_nodes,
        "min_workers": factory.min_workers,
        "max_workers": factory.max_workers,
        "workers_per_cycle": factory.workers_per_cycle,
        "worker_timeout": options.get("timeout", factory.worker_timeout),
        "factory_timeout": factory.factory_timeout,
        "node_cores": node["cores"],
        "node_memory": node["memory"],
        "node_disk": node["disk"],
        "node_gpus": node["gpus"],
        "vine_log_dir": _absolute(manager.vine_log_dir),
        "scratch_dir": _absolute(factory.scratch_dir),
        "inline_limit": _inline_limit(operator.index(inline_limit), tune),
    }


def vine_settings(
    manager: TaskVineManagerConfig,
    factory: TaskVineFactoryConfig,
    *,
    function_exec_mode: str,
    worker_launch_method: str,
    provider: Any | None = None,
    inline_limit: int = INLINE_LIMIT,
    ssl: bool | tuple[str, str] = False,
    batching: bool = True,
) -> VineSettings:
    """Derive the settings of the TaskVine engine.

    Parameters
    ----------
    manager, factory, function_exec_mode, worker_launch_method, provider, inline_limit
        As in :func:`embedded_settings`.
    ssl, batching
        As in :class:`VineSettings`.

    Raises
    ------
    ConfigurationError
        If a value is not valid, or this engine does not support it.
    """
    manager, factory = own_manager_config(manager), own_factory_config(factory)
    validate(manager, factory)
    _check(_one_of(*_LAUNCH_METHODS), "worker_launch_method", worker_launch_method)
    _refuse_left_out(manager)
    by_factory = worker_launch_method == "factory"
    local = factory.batch_type == "local" if by_factory else _is_local(provider)
    if factory.python_env and (local or not by_factory):
        _refuse("python_env", factory.python_env, "left out where vine_factory is not used: give it as env_pack")
    if factory.python_env is not None and not os.path.isfile(os.path.expanduser(factory.python_env)):
        _refuse("TaskVineFactoryConfig.python_env", factory.python_env, "the path of a file that exists")
    password_file = _password_file(manager.project_password_file, local)
    common = _common("taskvine", manager, factory, {}, function_exec_mode, worker_launch_method, provider, inline_limit)
    _refuse_batch(common["tuning"], batching)
    return VineSettings(
        **common,
        env_pack=_environment(manager.env_pack),
        port=manager.port,
        address=manager.address,
        project_name=manager.project_name or None,
        password_file=password_file,
        ssl=ssl,
        local=local,
        batching=batching,
        worker=factory.worker_executable,
        worker_options=factory.worker_options or "",
        batch_type=factory.batch_type,
        condor_requirements=factory.condor_requirements,
        batch_options=factory.batch_options,
        python_env=_absolute(factory.python_env),
    )


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


def _is_local(provider: Any | None) -> bool:
    """Tell whether a provider's blocks run on this machine. Workers started by hand (no provider) may run anywhere."""
    if provider is None:
        return False
    launchers = {base.__name__ for base in type(getattr(provider, "launcher", None)).__mro__}
    kinds = {base.__name__ for base in type(provider).__mro__}
    elsewhere = {
        "SrunLauncher",
        "SrunMPILauncher",
        "AprunLauncher",
        "JsrunLauncher",
        "GnuParallelLauncher",
        "MpiExecLauncher",
        "MpiRunLauncher",
    }
    return "LocalProvider" in kinds and not launchers & elsewhere


def _refuse_left_out(manager: TaskVineManagerConfig) -> None:
    """Raise if a field is set that no engine supports."""
    if manager.app_pack:
        _refuse("app_pack", manager.app_pack, "left out: give a packed environment as env_pack")
    if manager.autolabel:
        _refuse("autolabel", manager.autolabel, "left out: declare resources in each app's specification")


def _refuse_unsupported(manager: TaskVineManagerConfig, factory: TaskVineFactoryConfig) -> None:
    """Raise if fields are set that need TaskVine, and name all of them; warn of fields without effect."""
    _refuse_left_out(manager)
    asked = {
        name: getattr(config, name)
        for config, names in (
            (manager, ("project_name", "project_password_file")),
            (factory, ("condor_requirements", "batch_options", "python_env")),
        )
        for name in names
        if getattr(config, name)
    }
    if factory.batch_type != "local":
        asked["batch_type"] = factory.batch_type
    if factory.worker_executable != TaskVineFactoryConfig.worker_executable:
        asked["worker_executable"] = factory.worker_executable
    if asked:
        listing = ", ".join(f"{name}={brief(_guarded(name, value))}" for name, value in asked.items())
        raise ConfigurationError(f"the embedded engine does not support {listing}: use engine='taskvine'")
    for name in ("port", "address"):
        if getattr(manager, name):
            value = getattr(manager, name)
            logger.warning("%s=%r has no effect: the embedded engine listens on no network", name, value)
    for name in ("workers_per_cycle", "factory_timeout", "scratch_dir"):
        if (value := getattr(factory, name)) != getattr(TaskVineFactoryConfig, name):
            logger.warning("%s=%r has no effect: the embedded engine starts nodes without vine_factory", name, value)


def working_directory(asked: WorkingDirectory | None, settings: EmbeddedSettings) -> WorkingDirectory:
    """Choose where apps run.

    Parameters
    ----------
    asked
        'submit' (the user's directory) or 'sandbox' (a private directory for each call). None is 'submit' if all nodes
        are on this machine or ``shared_fs`` is set, and 'sandbox' otherwise.
    settings
        The executor's settings.
    """
    here = settings.local if isinstance(settings, VineSettings) else True
    return asked or ("submit" if here or settings.shared_fs else "sandbox")


def retuned(
    source: Source, settings: EmbeddedSettings, in_force: TuneParameters
) -> tuple[TuneParameters, dict[str, float]]:
    """Check tuning parameters for a running executor.

    Parameters
    ----------
    source
        The new parameters, in any form of ``tune_parameters``.
    settings
        The settings that the executor was started with.
    in_force
        All parameters set so far, at the start and later.

    Returns
    -------
    tuning : TuneParameters
        All parameters now in force.
    given : dict
        The parameters to send to the engine, by name with dashes.

    Raises
    ------
    ConfigurationError
        If a parameter is not valid, contradicts the parameters in force or the settings, or cannot change after the
        start.
    """
    _check(_TUNING, "tune_parameters", source)
    tune = _tuned(source, peer_transfers=True, running=True)
    try:
        tuning = in_force | tune
        tuning.check(nodes=settings.most_nodes, peer_transfers=settings.enable_peer_transfers)
    except TuningError as error:
        raise ConfigurationError(f"tune_parameters: {error}") from error
    if isinstance(settings, VineSettings):
        _refuse_batch(tune, settings.batching)
    _warn_of_ignored(tune, settings.engine)
    return tuning, _given(tune, settings.engine)


def _given(tune: TuneParameters, engine: Engine) -> dict[str, float]:
    """Return the parameters to send to an engine. TaskVine gets only those that it acts on, as floats."""
    if engine == "embedded":
        return tune.to_dict()
    acting = [name for name in tune if PARAMETERS[name].on("taskvine").support.acts]
    given = {name: float(tune[name]) for name in acting if not PARAMETERS[name].ours}
    for name in (own.BATCH.name, own.AWAKE.name):  # our own code acts on these
        if name in tune:
            given[name] = float(tune[name])
    native = ENFORCE_WORKER_EVICTION_INTERVAL.name
    if own.LOSS_INTERVAL.name in tune and not given.get(native):
        seconds = tune[own.LOSS_INTERVAL.name]
        given[native] = float(max(1, round(seconds)) if seconds else 0)
    return given


def _warn_of_ignored(tune: TuneParameters, engine: Engine) -> None:
    for parameter in tune.ignored_by(engine):
        note = parameter.on(engine).note
        why = f": {note}" if note else ""
        name = "TaskVine" if engine == "taskvine" else engine
        logger.warning("tuning parameter %r has no effect on the %s engine%s", parameter.name, name, why)


def _slots(library: Mapping[str, Any], tune: TuneParameters) -> int | None:
    configured, tuned = int(library.get("num_slots") or 0), int(own.LIBRARY_SLOTS.of(tune))
    if configured and tuned and configured != tuned:  # 0 is "not set", as in TaskVine
        name = f"tune_parameters: {own.LIBRARY_SLOTS.name}"
        _refuse(name, tuned, f"equal to num_slots of library_config, {configured}")
    return configured or tuned or None


def _inline_limit(argument: int, tune: TuneParameters) -> int:
    """Resolve the two names of one setting. An argument equal to the default counts as not given."""
    tuned = int(tune.get(own.INLINE_LIMIT.name, argument))
    if INLINE_LIMIT != argument != tuned:
        name = f"tune_parameters: {own.INLINE_LIMIT.name}"
        _refuse(name, tuned, f"equal to the executor's inline_limit, {argument}")
    return tuned


def _refuse_batch(tune: TuneParameters, batching: bool) -> None:
    if not batching and (batch := own.BATCH.of(tune)) > 1:
        _refuse(f"tune_parameters: {own.BATCH.name}", batch, "left out, 0 or 1 with batching=False")


def _most_nodes(factory: TaskVineFactoryConfig, worker_launch_method: str, provider: Any | None) -> int | None:
    if worker_launch_method == "factory":
        return factory.max_workers
    blocks: Any = getattr(provider, "max_blocks", None)  # each block is one node
    return int(blocks) if worker_launch_method == "provider" and _is_whole(blocks) else None


#: Providers that start blocks on other machines, by name because some of their modules are optional.
_REMOTE_PROVIDERS = frozenset(
    {"ClusterProvider", "KubernetesProvider", "AWSProvider", "GoogleCloudProvider", "AzureProvider"}
)


def _refuse_remote(provider: Any | None) -> None:
    if provider is None:
        return
    remote = _REMOTE_PROVIDERS & {base.__name__ for base in type(provider).__mro__}
    # LocalProvider with a launcher such as srun reaches the other nodes of the allocation it runs in.
    nodes = getattr(provider, "nodes_per_block", 1)
    if remote or (_is_whole(nodes) and nodes > 1):
        what = type(provider).__name__ + ("" if remote else f" with nodes_per_block={nodes}")
        raise ConfigurationError(
            f"provider={what} starts workers on other machines, but the embedded engine runs only on this machine: "
            "use engine='taskvine'"
        )


_SIZES = ("cores", "memory", "disk", "gpus")

_LONG_OPTIONS = (*_SIZES, "timeout")

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _worker_options(text: str | None) -> dict[str, int]:
    """Parse the options of ``vine_worker`` that the embedded engine supports too."""
    try:
        words = iter(shlex.split(text or ""))
    except ValueError as error:
        raise ConfigurationError(f"TaskVineFactoryConfig.worker_options cannot be read: {error}") from None
    options: dict[str, int] = {}
    for word in words:
        name, value = _option(word)
        if name is None:
            raise ConfigurationError(
                f"TaskVineFactoryConfig.worker_options: the embedded engine does not know {word.split('=')[0]!r}, only "
                f"-t and {', '.join(f'--{known}' for known in _LONG_OPTIONS)}: use engine='taskvine' for other options"
            )
        if value is None:
            value = next(words, "")
        number = _seconds(value) if name == "timeout" else _size(name, value)
        options.pop(name, None)  # the last one wins, even if it unsets a size ('all')
        if number is not None:
            options[name] = number
    return options


def _option(word: str) -> tuple[str | None, str | None]:
    """Split a word of the command line into an option's name and its value, if the word has one."""
    if word.startswith("-t"):
        return "timeout", word[2:] or None
    name, equals, value = word.removeprefix("--").partition("=")
    known = word.startswith("--") and name in _LONG_OPTIONS
    return (name if known else None), (value if equals else None)


def _size(name: str, value: str) -> int | None:
    """Parse a size as ``vine_worker`` does: below 1 (for GPUs, below 0) means all that the machine has."""
    if value == "all":
        return None
    try:
        number = int(value)
    except ValueError:
        _refuse(f"TaskVineFactoryConfig.worker_options: --{name}", value, "a whole number or 'all'")
    return number if number >= (0 if name == "gpus" else 1) else None


def _seconds(value: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([smhd]?)", value.strip().lower())
    if match is None:
        allowed = "a whole number of seconds, or one with the unit s, m, h or d"
        _refuse("TaskVineFactoryConfig.worker_options: --timeout", value, allowed)
    return int(match[1]) * _SECONDS[match[2]]


def _node_size(factory: TaskVineFactoryConfig, options: Mapping[str, int], provider: Any | None) -> dict[str, Any]:
    """Determine the size of a node: from the factory's fields, else the worker's options, else the provider."""
    size: dict[str, Any] = dict.fromkeys(_SIZES)
    cores, memory_gb = (getattr(provider, name, None) for name in ("cores_per_node", "mem_per_node"))
    if cores is not None:
        _check(_whole(1), "provider.cores_per_node", cores)
        size["cores"] = int(cores)
    if memory_gb is not None:
        _check(_POSITIVE, "provider.mem_per_node", memory_gb)
        size["memory"] = float(memory_gb) * 1024  # Parsl counts GB here, TaskVine MB
    size |= options
    for name in _SIZES:
        value = getattr(factory, name)
        if value or (name == "gpus" and value is not None):  # 0 GPUs is a size; 0 cores is "not set"
            size[name] = value
    return size


def _refuse_larger_than_node(library: Mapping[str, Any], node: Mapping[str, float | None]) -> None:
    for name in _SIZES:
        wanted, there = library.get(name), node[name]
        if wanted is not None and there is not None and wanted > there:
            _refuse(f"library_config[{name!r}]", wanted, f"at most the {there:.10g} that a node has")


def _environment(env_pack: str | None) -> str | None:
    path = _absolute(env_pack)
    if path is not None and not os.path.exists(path):
        _refuse(
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
