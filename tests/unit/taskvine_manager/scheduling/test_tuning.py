"""The tuning parameters of the scheduler."""

from __future__ import annotations

from taskvine_manager.scheduling.tuning import Tuning


def test_defaults_are_those_of_taskvine() -> None:
    tuning = Tuning()
    assert (tuning.temp_replica_count, tuning.transfer_replica_per_cycle) == (1, 10)
    assert (tuning.transfer_temps_recovery, tuning.clean_redundant_replicas, tuning.immediate_recovery) == (0, 0, 0)
    assert (tuning.worker_source_max_transfers, tuning.file_source_max_transfers) == (10, 1)


def test_only_supported_parameters_are_taken() -> None:
    tuning = Tuning()
    tuning.tune({"temp-replica-count": 3.0, "hungry-minimum": 5})
    tuning.tune({"immediate_recovery": 1})
    assert tuning == Tuning(temp_replica_count=3, immediate_recovery=1)


def test_missing_limit_is_none() -> None:
    tuning = Tuning()
    tuning.tune({"worker-source-max-transfers": 0, "file-source-max-transfers": -1, "temp-replica-count": 0})
    assert tuning.worker_source_max_transfers > 10**6
    assert tuning.file_source_max_transfers > 10**6
    assert tuning.temp_replica_count == 1
