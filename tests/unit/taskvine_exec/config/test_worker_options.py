"""The options of vine_worker that the embedded engine supports."""

from __future__ import annotations

from typing import Any

import pytest
from parsl.errors import ConfigurationError

from tests.unit.taskvine_exec.config.derived import embedded


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, {}),
        ("--cores=4", {"node_cores": 4}),
        ("--cores 4 --memory 1000 --disk=2000 --gpus '1'", {"node_cores": 4, "node_memory": 1000, "node_gpus": 1}),
        ("--cores 4 --cores 2", {"node_cores": 2}),
        ("--cores 4 --cores all", {"node_cores": None}),
        ("--cores=0 --gpus=0", {"node_cores": None, "node_gpus": 0}),
        ("--cores=-1 --gpus=-1", {"node_cores": None, "node_gpus": None}),
        ("-t 60", {"worker_timeout": 60}),
        ("-t60", {"worker_timeout": 60}),
        ("-t 5m", {"worker_timeout": 300}),
        ("--timeout=2h", {"worker_timeout": 7200}),
        ("--timeout 1d", {"worker_timeout": 86400}),
    ],
)
def test_worker_options_are_read(options: str | None, expected: dict[str, Any]) -> None:
    settings = embedded(worker_options=options)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--ssl", "embedded engine does not know '--ssl'"),
        ("--cores=2 --feature gpu", "does not know '--feature'"),
        ("-M project", "does not know '-M'"),
        ("--core 4", "does not know '--core'"),
        ("cores=4", "does not know 'cores'"),
        ("cores", "does not know 'cores'"),
        ("4", "does not know '4'"),
        ("--cores=2 --", "does not know '--'"),
        ("-h", "does not know '-h'"),
        ("--cores", "--cores='' .*whole number"),
        ("--cores=", "--cores='' .*whole number"),
        ("--cores --gpus 1", "--cores='' .*whole number"),
        ("--cores=four", "--cores='four'"),
        ("--memory 8GB", "--memory='8GB'"),
        ("-t", "--timeout=''"),
        ("--timeout=-5", "--timeout='-5'"),
        ("--timeout=5w", "--timeout='5w'"),
        ("--cores='4", "cannot be read: No closing quotation"),
    ],
)
def test_bad_worker_options_are_refused(options: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        embedded(worker_options=options)
