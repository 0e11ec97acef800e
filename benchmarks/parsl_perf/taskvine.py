"""Configuration for ``parsl-perf``: TaskVineExecutor on this machine, with a core for each slot.

``TASKVINE_PERF_CORES`` and ``TASKVINE_PERF_ENGINE`` change the number of cores (2) and the engine (``embedded``).
"""

import os
from typing import Any

from parsl.config import Config
from parsl.providers import LocalProvider

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor


def fresh_config() -> Config:
    """Return the configuration; parsl-perf calls this."""
    engine: Any = os.environ.get("TASKVINE_PERF_ENGINE", "embedded")
    executor = TaskVineExecutor(
        engine=engine,
        cores=int(os.environ.get("TASKVINE_PERF_CORES", "2")),
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    return Config([executor], dependency_resolver=DAG_RESOLVER, strategy="none", initialize_logging=False)
