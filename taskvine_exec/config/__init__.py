"""The configuration for users, its rules, and the settings that each engine derives from it.

:class:`TaskVineManagerConfig` and :class:`TaskVineFactoryConfig` have the fields of Parsl's classes of the same names,
in the same order. A configuration written for Parsl's own TaskVineExecutor works unchanged. The classes are mutable
because Parsl's are. The executor works on copies. :func:`embedded_settings` and :func:`vine_settings` derive a frozen
object from them.
"""

from taskvine_exec.config.copies import own_factory_config, own_libraries, own_manager_config, with_overrides
from taskvine_exec.config.derivation import embedded_settings, vine_settings
from taskvine_exec.config.hardware import Hardware
from taskvine_exec.config.recorded import facts
from taskvine_exec.config.settings import (
    EmbeddedSettings,
    EngineSettings,
    LibrarySettings,
    VineSettings,
    WorkingDirectory,
    working_directory,
)
from taskvine_exec.config.tuning import retuned
from taskvine_exec.config.user import AUTOLABEL_ALGORITHMS, BATCH_TYPES, TaskVineFactoryConfig, TaskVineManagerConfig
from taskvine_exec.config.validation import LIBRARY_KEYS, validate

__all__ = [
    "AUTOLABEL_ALGORITHMS",
    "BATCH_TYPES",
    "LIBRARY_KEYS",
    "EmbeddedSettings",
    "EngineSettings",
    "Hardware",
    "LibrarySettings",
    "TaskVineFactoryConfig",
    "TaskVineManagerConfig",
    "VineSettings",
    "WorkingDirectory",
    "embedded_settings",
    "facts",
    "own_factory_config",
    "own_libraries",
    "own_manager_config",
    "retuned",
    "validate",
    "vine_settings",
    "with_overrides",
    "working_directory",
]
