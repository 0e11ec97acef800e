"""A ready ``parsl.Config`` for one machine."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from parsl.config import Config
from parsl.errors import ConfigurationError

from taskvine_exec.executor import TaskVineExecutor
from taskvine_exec.resolver import DAG_RESOLVER

TUNE_VARIABLE = "TASKVINE_TUNE"
"""Environment variable with tuning parameters: a JSON object."""


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
        If a value is not valid, or ``TASKVINE_TUNE`` is no JSON object of numbers.
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
    text = os.environ.get(TUNE_VARIABLE, "").strip()
    if not text:
        return
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"the environment variable {TUNE_VARIABLE} is no JSON: {error}") from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise ConfigurationError(f"the environment variable {TUNE_VARIABLE} holds a {kind}: must be a JSON object")
    wrong = [name for name, value in found.items() if not isinstance(value, (int, float))]
    if wrong:
        raise ConfigurationError(f"the environment variable {TUNE_VARIABLE} gives {wrong[0]!r} no number")
    given = settings.get("tune_parameters")
    if given is None:
        given = getattr(settings.get("manager_config"), "tune_parameters", None)
    if given is None or isinstance(given, Mapping):  # else the executor says what is wrong with it
        # Both spellings of a name are one parameter: the environment's value must not meet the script's.
        again = {name.replace("_", "-") for name in found}
        kept = {name: value for name, value in (given or {}).items() if str(name).replace("_", "-") not in again}
        settings["tune_parameters"] = {**kept, **found}
