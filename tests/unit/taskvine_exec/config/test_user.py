"""The classes for users have the same fields as Parsl's."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest
from parsl.executors.taskvine import TaskVineFactoryConfig as ParslFactoryConfig
from parsl.executors.taskvine import TaskVineManagerConfig as ParslManagerConfig

import taskvine_exec
from taskvine_exec.config import TaskVineFactoryConfig, TaskVineManagerConfig

PAIRS = [
    (TaskVineManagerConfig, ParslManagerConfig),
    (TaskVineFactoryConfig, ParslFactoryConfig),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_fields_and_their_order_equal_parsls(ours: Any, theirs: Any) -> None:
    assert [each.name for each in dataclasses.fields(ours)] == [each.name for each in dataclasses.fields(theirs)]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_defaults_equal_parsls(ours: Any, theirs: Any) -> None:
    # Parsl's port depends on whether ndcctools is installed; ours is always "any free one".
    assert dataclasses.asdict(ours()) == dataclasses.asdict(theirs()) | ({"port": 0} if hasattr(ours, "port") else {})


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_positional_construction_equals_parsls(ours: Any, theirs: Any) -> None:
    values = [f"value {number}" for number in range(len(dataclasses.fields(theirs)))]
    assert dataclasses.asdict(ours(*values)) == dataclasses.asdict(theirs(*values))


def test_import_needs_no_taskvine() -> None:
    code = (
        "import sys, taskvine_exec.config as c; c.own_manager_config(None); c.own_factory_config(None);"
        "print([m for m in sys.modules if m.startswith(('ndcctools.taskvine', 'parsl.executors.taskvine'))])"
    )
    # Only this module counts, not its whole package.
    code = (
        "import types, sys; sys.path[:] = sys.argv[2:];"
        "p = types.ModuleType('taskvine_exec'); p.__path__ = [sys.argv[1]];"
        + ("sys.modules['taskvine_exec'] = p;" + code)
    )
    package = os.path.dirname(taskvine_exec.__file__)
    done = subprocess.run([sys.executable, "-c", code, package, *sys.path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
