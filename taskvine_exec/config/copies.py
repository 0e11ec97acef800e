"""Copies of configurations, so that no object of the user is changed."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from parsl.errors import ConfigurationError

from taskvine_exec.config.redaction import redacted
from taskvine_exec.config.rules import is_whole
from taskvine_exec.config.user import TaskVineFactoryConfig, TaskVineManagerConfig
from taskvine_exec.config.validation import LIBRARY_KEYS
from taskvine_exec.submission.resources import brief, did_you_mean
from taskvine_tune.tuning import TuneParameters

_Config = TypeVar("_Config", TaskVineManagerConfig, TaskVineFactoryConfig)


def own_manager_config(obj: object) -> TaskVineManagerConfig:
    """Copy a manager's configuration, as :func:`_own` does."""
    return _own(obj, TaskVineManagerConfig, "manager_config")


def own_factory_config(obj: object) -> TaskVineFactoryConfig:
    """Copy a factory's configuration, as :func:`_own` does."""
    return _own(obj, TaskVineFactoryConfig, "factory_config")


def _own(obj: object, cls: type[_Config], argument: str) -> _Config:
    """Copy a configuration into a class of this package.

    Parameters
    ----------
    obj
        An instance of ``cls``, one of Parsl's class of that name (never changed), or None for the defaults.
    cls : type
        The class of the copy.
    argument : str
        Name of the executor's argument, for messages.

    Returns
    -------
    TaskVineManagerConfig or TaskVineFactoryConfig
        A copy with its own dicts and lists. User objects in them are not copied.

    Raises
    ------
    ConfigurationError
        If ``obj`` is anything else, or sets a field that this package does not support.
    """
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
    if is_whole(value):
        return operator.index(value)  # type: ignore[arg-type]  # numpy's integers become Python's
    return list(value) if isinstance(value, list) else value


class Libraries(dict[str, Any]):
    """Settings of named libraries by name. Its repr hides possible passwords: Parsl logs it."""

    def __repr__(self) -> str:
        return repr(redacted("libraries", dict(self)))


def own_libraries(libraries: Mapping[str, Any] | None) -> Libraries | None:
    """Copy the settings of named libraries."""
    return None if libraries is None else Libraries((name, _copied(library)) for name, library in libraries.items())


def with_overrides(
    manager: object, factory: object, settings: Mapping[str, Any]
) -> tuple[TaskVineManagerConfig, TaskVineFactoryConfig]:
    """Apply settings to the fields of either configuration.

    Parameters
    ----------
    manager, factory
        The original configurations, which stay unchanged: as in :func:`_own`.
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
    own = own_manager_config(manager), own_factory_config(factory)
    owners: dict[str, object] = {
        each.name: config for config in own for each in dataclasses.fields(config) if not each.name.startswith("_")
    }
    for name, value in settings.items():
        if name in owners:
            setattr(owners[name], name, _copied(value))
        elif name in LIBRARY_KEYS:
            raise TypeError(f"unknown setting {name!r}: it is a key of library_config and of libraries")
        else:
            raise TypeError(f"unknown setting {name!r}: {did_you_mean(name, owners)}")
    return own
