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
    """Make a Config with one :class:`~taskvine_exec.TaskVineExecutor` and DAG_RESOLVER, for this machine.

    Nothing is to be scaled on one machine, so that the strategy is ``'none'``. Logs go to ``runinfo`` in the current
    directory, as Parsl's do, or to a new directory for temporary files if nothing can be written here.

    If the environment variable ``TASKVINE_TUNE`` holds a JSON object, such as ``{"temp-replica-count": 2}``, its
    entries are tuning parameters that go before those in ``tune_parameters``: a finished script can be tuned without
    being changed.

    Parameters
    ----------
    **overrides
        Arguments of :class:`parsl.Config` (``retries``, ``run_dir``, ``strategy``, ``monitoring`` ...; what
        ``executors`` lists is added behind the TaskVineExecutor) and of :class:`~taskvine_exec.TaskVineExecutor`
        (``label``, ``cores``, ``provider``, ``tune_parameters`` ...). A name that both have, as ``project_name``, is
        the Config's.

    Returns
    -------
    parsl.Config
        To be given to ``parsl.load``.

    Raises
    ------
    parsl.errors.ConfigurationError
        If a value is not valid, or ``TASKVINE_TUNE`` is no JSON object of tuning parameters.
    TypeError
        If neither of the two has an argument of some name; the message names the nearest one.

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
    """Merge the environment's tuning parameters over those of the settings, whichever way these were given."""
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
