"""A data-aware executor for Parsl: intermediate data stays on nodes, and calls run in warm Python processes.

Each name is imported when it is first used. A function on a node that imports one of them loads neither the executor
nor parsl, unless it needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from taskvine_manager import VERSION

if TYPE_CHECKING:
    from taskvine_exec.config import TaskVineFactoryConfig as TaskVineFactoryConfig
    from taskvine_exec.config import TaskVineManagerConfig as TaskVineManagerConfig
    from taskvine_exec.executor import TaskVineExecutor as TaskVineExecutor
    from taskvine_exec.local import local_config as local_config
    from taskvine_exec.parsl_hooks.resolver import DAG_RESOLVER as DAG_RESOLVER
    from taskvine_exec.radio import TaskVineRadio as TaskVineRadio
    from taskvine_exec.submission.temp_files import TaskVineTempStaging as TaskVineTempStaging
    from taskvine_exec.submission.temp_files import TempFile as TempFile
    from taskvine_manager.runtime.context import load_variable_from_library as load_variable_from_library

_HOME = {
    "DAG_RESOLVER": "taskvine_exec.parsl_hooks.resolver",
    "TaskVineExecutor": "taskvine_exec.executor",
    "TaskVineFactoryConfig": "taskvine_exec.config",
    "TaskVineManagerConfig": "taskvine_exec.config",
    "TaskVineRadio": "taskvine_exec.radio",
    "TaskVineTempStaging": "taskvine_exec.submission.temp_files",
    "TempFile": "taskvine_exec.submission.temp_files",
    "load_variable_from_library": "taskvine_manager.runtime.context",
    "local_config": "taskvine_exec.local",
}

__all__ = list(_HOME)
__version__ = VERSION


def __getattr__(name: str) -> Any:
    try:
        module = importlib.import_module(_HOME[name])
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(module, name)
