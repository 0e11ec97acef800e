"""A ready ``parsl.Config`` for one machine."""

from __future__ import annotations

import inspect
import os
import tempfile
from typing import Any

from parsl.config import Config
from parsl.errors import ConfigurationError

from taskvine_exec.executor import TaskVineExecutor
from taskvine_exec.parsl_hooks.resolver import DAG_RESOLVER
from taskvine_tune.environment import parameters_from_environment
from taskvine_tune.errors import TuningError
from taskvine_tune.tuning import TuneParameters


def local_config(**overrides: Any) -> Config:
    """Make a Config for this machine, with one ``TaskVineExecutor`` and DAG_RESOLVER.

    The strategy is ``'none'``, because one machine needs no scaling. Logs go to ``runinfo`` in the current directory,
    as Parsl's do. If that is not writable, they go to a new temporary directory.

    The environment variable ``TASKVINE_TUNE`` may hold a JSON object of tuning parameters, such as
    ``{"temp-replica-count": 2}``. They override those in ``tune_parameters``, so that a script can be tuned without
    changing it.

    Parameters
    ----------
    **overrides
        Arguments of ``parsl.Config`` (``retries``, ``run_dir``, ``strategy``, ``monitoring`` ...) and of
        ``TaskVineExecutor`` (``label``, ``cores``, ``provider``, ``tune_parameters`` ...). A name
        that both have, such as ``project_name``, goes to the Config. ``executors`` are added after the
        TaskVineExecutor.

    Returns
    -------
    parsl.Config
        The Config, for ``parsl.load``.

    Raises
    ------
    parsl.errors.ConfigurationError
        If a value is not valid, or ``TASKVINE_TUNE`` is not a JSON object of tuning parameters.
    TypeError
        If neither class has an argument of that name. The message names the nearest one.

    Examples
    --------
    >>> import parsl
    >>> from taskvine_exec import local_config
    >>> with parsl.load(local_config(retries=1, cores=4)):
    ...     ...
    """
    known = set(inspect.signature(Config.__init__).parameters) - {"self"}
    chosen = {name: value for name, value in overrides.items() if name in known}
    settings = {name: value for name, value in overrides.items() if name not in known}
    _tune_from_environment(settings)
    others = chosen.pop("executors", None) or ()
    run_dir = chosen.pop("run_dir", None)
    arguments = {"strategy": "none", "dependency_resolver": DAG_RESOLVER, **chosen}
    executor = TaskVineExecutor(**settings)
    return Config(executors=[executor, *others], run_dir=_run_dir(run_dir), **arguments)


def _run_dir(given: str | os.PathLike[str] | None) -> str:
    if given is not None:
        return os.path.expanduser(given)
    chosen = "runinfo"
    if os.access(chosen if os.path.isdir(chosen) else ".", os.W_OK | os.X_OK):
        return chosen
    return os.path.join(tempfile.mkdtemp(prefix="taskvine-runs-"), chosen)


def _tune_from_environment(settings: dict[str, Any]) -> None:
    """Override the tuning parameters in the settings, however they were given, with those of the environment."""
    try:
        found = parameters_from_environment()
        if not found:
            return
        given = settings.get("tune_parameters")
        if given is None:
            given = getattr(settings.get("manager_config"), "tune_parameters", None)
        settings["tune_parameters"] = TuneParameters.load(given or {}) | found
    except TuningError as error:
        raise ConfigurationError(str(error)) from error
