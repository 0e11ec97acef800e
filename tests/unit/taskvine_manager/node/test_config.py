"""The configuration of nodes is validated when it is made, and can be sent."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from taskvine_manager.node.config import NodeConfig
from taskvine_manager.runtime.search_path import SearchPath


def config(**fields: Any) -> NodeConfig:
    """Make a simple configuration, with the given fields."""
    usual: dict[str, Any] = {
        "base": "/tmp/run",
        "log": "/tmp/run/log",
        "program": "/package/__main__.py",
        "source_root": "/package",
        "python_version": sys.version_info[:2],
        "sys_path": SearchPath(("/package",), "/usr"),
        "user": 1,
        "directory": None,
        "env_vars": {},
        "env_pack": None,
        "init_command": "",
        "slots": 2,
        "inline_limit": 32 * 1024,
        "import_modules": (),
        "context": None,
        "context_scope": "library",
        "start_timeout": 10.0,
        "serverless": True,
        "tune": {},
    }
    return NodeConfig(**{**usual, **fields}).checked()


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"base": "run"}, "base .* must be an absolute path, not 'run'"),
    ({"log": ""}, "log .* must be an absolute path"),
    ({"program": "__main__.py"}, "program .* must be an absolute path"),
    ({"source_root": "."}, "source_root .* must be an absolute path"),
    ({"directory": "here"}, "directory .* must be an absolute path or None"),
    ({"user": 0}, "user .* must be a process id"),
    ({"slots": 0}, "slots .* must be at least 1, or None"),
    ({"inline_limit": -1}, "inline_limit .* must be at least 0"),
    ({"context_scope": "node"}, "context_scope .* must be 'library' or 'slot', not 'node'"),
    ({"context": b"made", "context_body": b"made"}, "context_body .* must be None if there is a context"),
    ({"start_timeout": 0.0}, "start_timeout .* must be above 0"),
    ({"start_timeout": float("nan")}, "start_timeout .* must be above 0"),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=str)
def test_impossible_value_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_config_can_be_sent() -> None:
    made = config(directory="/home", context="/tmp/run/spool/context")
    assert pickle.loads(pickle.dumps(made)) == made
