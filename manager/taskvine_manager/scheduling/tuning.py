"""The tuning parameters that the scheduler acts on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHORT = 0.020
"""Default of the tuning parameter ``executor.prefetch``, in seconds. Tasks known to be shorter are sent ahead of a free
slot, about this much work for each slot."""


@dataclass(kw_only=True)
class Tuning:
    """The values in force, shared by all parts of the scheduler; a ``default_transfer_rate`` of 0 is unset."""

    temp_replica_count: int = 1
    transfer_replica_per_cycle: int = 10
    transfer_temps_recovery: int = 0
    clean_redundant_replicas: int = 0
    immediate_recovery: int = 0
    worker_source_max_transfers: int = 10
    file_source_max_transfers: int = 1
    shift_disk_load: int = 0
    default_transfer_rate: float = 0.0
    resource_submit_multiplier: float = 1.0
    proportional_resources: int = 0
    proportional_whole_tasks: int = 0
    wait_for_workers: int = 0
    prefetch: float = SHORT
    weight_transfer: float = 1.0
    weight_wait: float = 1.0

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Set new values, by parameter name; skip parameters that the scheduler does not use."""
        given = {name.removeprefix("executor.").replace("-", "_"): value for name, value in parameters.items()}
        known: dict[str, Any] = {}
        for name in given.keys() & Tuning.__dataclass_fields__.keys():
            known[name] = type(getattr(self, name))(given[name])
        if "proportional_resources" in known:  # it sets both, as in TaskVine
            known = {"proportional_whole_tasks": known["proportional_resources"], **known}
        elif known.get("proportional_whole_tasks"):
            known["proportional_resources"] = 1
        for name in ("temp_replica_count", "transfer_replica_per_cycle"):
            if name in known:
                known[name] = max(1, known[name])
        for name in ("worker_source_max_transfers", "file_source_max_transfers"):
            if known.get(name, 1) < 1:  # no limit, as in TaskVine
                known[name] = 1 << 30
        for name, value in known.items():
            setattr(self, name, value)
