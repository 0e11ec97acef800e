"""Arguments of HighThroughputExecutor become settings of ours, or an error."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.executors import HighThroughputExecutor

from taskvine_exec.clients.htex_names import NO_EFFECT, translate


@pytest.mark.parametrize(
    ("given", "settings", "task"),
    [
        ({}, {}, {}),
        ({"cores": 4, "label": "x"}, {"cores": 4, "label": "x"}, {}),
        ({"max_workers_per_node": 3}, {"library_config": {"num_slots": 3}}, {}),
        (
            {"max_workers_per_node": 3, "library_config": {"num_slots": 3, "cores": 6}},
            {"library_config": {"num_slots": 3, "cores": 6}},
            {},
        ),
        ({"cores_per_worker": 1}, {}, {}),
        ({"cores_per_worker": 0.5, "mem_per_worker": 1.5}, {}, {"cores": 0.5, "memory": 1500}),
        ({"available_accelerators": 2}, {"gpus": 2}, {"gpus": 1}),
        ({"available_accelerators": ["0", "1"]}, {"gpus": 2}, {"gpus": 1}),
        ({"available_accelerators": []}, {}, {}),
        ({"address": "a", "worker_port": 9123}, {"address": "a", "port": 9123}, {}),
        (
            {"heartbeat_period": 5, "heartbeat_threshold": 120, "tune_parameters": {"temp-replica-count": 2}},
            {
                "tune_parameters": {"keepalive-interval": 5, "keepalive-timeout": 120, "temp-replica-count": 2},
            },
            {},
        ),
        ({"heartbeat_threshold": 2}, {"tune_parameters": {"keepalive-timeout": 30}}, {}),
        ({"cpu_affinity": "none", "enable_mpi_mode": False}, {}, {}),
    ],
)
def test_what_arguments_mean(given: dict[str, Any], settings: dict[str, Any], task: dict[str, Any]) -> None:
    before = repr(given)
    made = translate(given)
    assert (made.settings, made.task) == (settings, task)
    assert repr(given) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cpu_affinity": "block"}, "cpu_affinity='block'"),
        ({"enable_mpi_mode": True}, "each task runs on one node"),
        ({"mpi_launcher": "srun"}, "each task runs on one node"),
        ({"available_accelerators": ["2", "3"]}, "CUDA_VISIBLE_DEVICES"),
        ({"available_accelerators": "0"}, "give a number"),
        ({"max_workers_per_node": 2, "library_config": {"num_slots": 3}}, "disagree"),
        ({"heartbeat_period": 5, "tune_parameters": "tuning.toml"}, "keepalive-interval"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        translate(given)


def test_arguments_without_effect_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "taskvine_exec"):
        assert translate({"worker_debug": True, "prefetch_capacity": 4, "poll_period": 10}).settings == {}
    assert sorted(record.getMessage().partition(" ")[0] for record in caplog.records) == ["poll_period", "worker_debug"]


def test_arguments_without_effect_exist() -> None:
    """A name that Parsl drops is dropped here too."""
    names = HighThroughputExecutor.__init__.__code__.co_varnames
    assert {name for name in NO_EFFECT if name not in names} == set()
