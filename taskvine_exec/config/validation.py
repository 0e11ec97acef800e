"""The checks of all fields by their rules, and of fields that depend on each other."""

from __future__ import annotations

import dataclasses
import numbers
import os
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from parsl.errors import ConfigurationError

from taskvine_exec.config import tuning
from taskvine_exec.config.redaction import redacted
from taskvine_exec.config.rules import AMOUNT, DICT, POSITIVE, Rule, one_of, or_none, refuse, whole
from taskvine_exec.config.user import TaskVineFactoryConfig, TaskVineManagerConfig
from taskvine_exec.submission.resources import GPUS_ALLOWED, did_you_mean, number_of_gpus


def _is_importable(value: object) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else value
    return isinstance(name, str) and name != "__main__" and all(map(str.isidentifier, name.split(".")))


_MODULES = Rule(
    "a list of modules, or of their full names, without __main__",
    lambda value: isinstance(value, (list, tuple)) and all(map(_is_importable, value)),
)
_ARGUMENTS = Rule("a tuple or a list", lambda value: isinstance(value, (tuple, list)))
_KEYWORD_ARGUMENTS = Rule(
    "a dict with string keys",
    lambda value: isinstance(value, Mapping) and all(isinstance(key, str) for key in value),
)
_VARIABLE_NAME = Rule(
    "the name of an environment variable: a non-empty string without '=' or NUL",
    lambda value: isinstance(value, str) and value != "" and not set(value) & {"=", "\0"},
)
_VARIABLE = Rule(
    "a string without NUL, a number or a path",
    lambda value: isinstance(value, (str, numbers.Real, os.PathLike)) and "\0" not in str(value),
)


def _is_number_of_gpus(value: object) -> bool:
    try:
        number_of_gpus(value)
    except ValueError:
        return False
    return True


_GPUS = Rule(GPUS_ALLOWED, _is_number_of_gpus)
_GPU_MEMORY = Rule("0, or a number of at least 1", lambda value: AMOUNT.accepts(value) and (value == 0 or value >= 1))
_LIBRARY_RULES: Mapping[str, Rule] = {
    "num_slots": or_none(whole(0)),
    "cores": or_none(AMOUNT),
    "memory": or_none(AMOUNT),
    "disk": or_none(AMOUNT),
    "gpus": or_none(_GPUS),
    "gpu_memory": or_none(_GPU_MEMORY),
    "import_modules": or_none(_MODULES),
    "context": or_none(Rule("callable", callable)),
    "context_args": or_none(_ARGUMENTS),
    "context_kwargs": or_none(_KEYWORD_ARGUMENTS),
    "context_scope": or_none(one_of("library", "slot")),
    "start_timeout": or_none(POSITIVE),
}

#: The keys of TaskVineManagerConfig.library_config, and of each library of ``libraries``.
LIBRARY_KEYS = tuple(_LIBRARY_RULES)

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


#: Names of libraries: they become names of files and go into messages.
_LIBRARY_NAME = Rule(
    "a name of at most 100 letters, digits, '_', '-' and '.', which begins with a letter or digit",
    lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", value) is not None,
)


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
    for config, cls in ((manager, TaskVineManagerConfig), (factory, TaskVineFactoryConfig)):
        for each in dataclasses.fields(cls):
            if "rule" in each.metadata:
                each.metadata["rule"].check(f"{type(config).__name__}.{each.name}", getattr(config, each.name))
    _check_env_vars(manager.env_vars or {})
    library = manager.library_config or {}
    _check_library("library_config", library)
    if library.get("gpu_memory"):
        allowed = "left out: calls of this library ask for gpu_memory themselves"
        refuse("library_config['gpu_memory']", library["gpu_memory"], allowed)
    tuning.load(manager.tune_parameters, peer_transfers=manager.enable_peer_transfers)
    if factory.min_workers > factory.max_workers:
        allowed = f"at most max_workers, which is {factory.max_workers}"
        refuse(f"{type(factory).__name__}.min_workers", factory.min_workers, allowed)


def validate_libraries(libraries: Mapping[Any, Any] | None) -> None:
    """Check the names and the settings of named libraries.

    Raises
    ------
    ConfigurationError
        For the first name or setting that is not valid.
    """
    or_none(DICT).check("libraries", libraries)
    for name, library in (libraries or {}).items():
        _LIBRARY_NAME.check("a name in libraries", name)
        DICT.check(f"libraries[{name!r}]", library)
        _check_library(f"libraries[{name!r}]", library)


def _check_env_vars(env_vars: Mapping[Any, object]) -> None:
    for name, value in env_vars.items():
        _VARIABLE_NAME.check("a name in env_vars", name)
        if not _VARIABLE.accepts(value):  # the message hides the value: it may be a secret
            kind = type(value).__name__
            raise ConfigurationError(f"env_vars[{name!r}] of type {kind} is not valid: must be {_VARIABLE.allowed}")


def _check_library(where: str, library: Mapping[Any, Any]) -> None:
    for key, value in library.items():
        if key not in _LIBRARY_RULES:
            hint = did_you_mean(str(key), _LIBRARY_RULES, _FOREIGN_LIBRARY_KEYS)
            raise ConfigurationError(f"{where} has the unknown key {key!r}: {hint}")
        rule = _LIBRARY_RULES[key]
        if not rule.accepts(value):
            refuse(f"{where}[{key!r}]", redacted(key, value), rule.allowed)
    if library.get("context") is None:
        idle = [key for key in ("context_args", "context_kwargs", "context_scope") if library.get(key)]
        if idle:
            raise ConfigurationError(f"{where} has {' and '.join(idle)}, but no context: add it or drop these keys")
