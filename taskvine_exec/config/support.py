"""Fields that an engine does not support, and fields that have no effect on it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from parsl.errors import ConfigurationError

from taskvine_exec.config.redaction import redacted
from taskvine_exec.config.rules import refuse
from taskvine_exec.config.user import TaskVineFactoryConfig, TaskVineManagerConfig
from taskvine_exec.submission.resources import brief

logger = logging.getLogger(__name__)

#: Fields of the manager that no engine supports, with what to do instead.
_LEFT_OUT = {
    "app_pack": "left out: give a packed environment as env_pack",
    "autolabel": "left out: declare resources in each app's specification",
}

_NEEDS_TASKVINE = (
    "project_name",
    "project_password_file",
    "condor_requirements",
    "batch_options",
    "python_env",
    "batch_type",
    "worker_executable",
)

#: Fields that the embedded engine ignores, with the reason.
_IGNORED = dict.fromkeys(("port", "address"), "the embedded engine listens on no network") | dict.fromkeys(
    ("workers_per_cycle", "factory_timeout", "scratch_dir"), "the embedded engine starts nodes without vine_factory"
)


def refuse_left_out(manager: TaskVineManagerConfig) -> None:
    """Raise if a field is set that no engine supports."""
    for name, instead in _LEFT_OUT.items():
        if value := getattr(manager, name):
            refuse(name, value, instead)


def check_embedded(manager: TaskVineManagerConfig, factory: TaskVineFactoryConfig) -> None:
    """Raise if fields are set that need TaskVine, and name all of them; warn of fields without effect."""
    asked = {name: value for name, value in _set(manager, factory, _NEEDS_TASKVINE).items() if value}
    if asked:
        listing = ", ".join(f"{name}={brief(redacted(name, value))}" for name, value in asked.items())
        raise ConfigurationError(f"the embedded engine does not support {listing}: use engine='taskvine'")
    for name, value in _set(manager, factory, _IGNORED).items():
        logger.warning("%s=%r has no effect: %s", name, value, _IGNORED[name])


def _set(manager: TaskVineManagerConfig, factory: TaskVineFactoryConfig, names: Iterable[str]) -> dict[str, Any]:
    """Return the fields whose values are not the defaults."""
    defaults = vars(TaskVineManagerConfig()) | vars(TaskVineFactoryConfig())
    given = vars(manager) | vars(factory)
    return {name: given[name] for name in names if given[name] != defaults[name]}
