"""Configuration for ``parsl-perf``: HighThroughputExecutor on this machine, as ``taskvine.py`` beside it."""

import os

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider


def fresh_config() -> Config:
    """Return the configuration; parsl-perf calls this."""
    executor = HighThroughputExecutor(
        encrypted=False,
        cores_per_worker=1,
        max_workers_per_node=int(os.environ.get("TASKVINE_PERF_CORES", "2")),
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    return Config([executor], strategy="none", initialize_logging=False)
