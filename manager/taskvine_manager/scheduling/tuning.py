"""The tuning parameters that the scheduler acts on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from taskvine_manager.parameters import NAMESPACE, canonical, own, taskvine

SHORT = own.PREFETCH.default
"""Default of the tuning parameter ``executor.prefetch``, in seconds. Tasks known to be shorter are sent ahead of a free
slot, about this much work for each slot."""


@dataclass(kw_only=True)
class Tuning:
    """The values in force, shared by all parts of the scheduler; a ``default_transfer_rate`` of 0 is unset."""

    temp_replica_count: int = taskvine.TEMP_REPLICA_COUNT.default
    transfer_replica_per_cycle: int = taskvine.TRANSFER_REPLICA_PER_CYCLE.default
    transfer_temps_recovery: bool = taskvine.TRANSFER_TEMPS_RECOVERY.default
    clean_redundant_replicas: bool = taskvine.CLEAN_REDUNDANT_REPLICAS.default
    immediate_recovery: bool = taskvine.IMMEDIATE_RECOVERY.default
    worker_source_max_transfers: int = taskvine.WORKER_SOURCE_MAX_TRANSFERS.default
    file_source_max_transfers: int = taskvine.FILE_SOURCE_MAX_TRANSFERS.default
    shift_disk_load: bool = taskvine.SHIFT_DISK_LOAD.default
    default_transfer_rate: float = 0.0
    resource_submit_multiplier: float = taskvine.RESOURCE_SUBMIT_MULTIPLIER.default
    proportional_resources: bool = False
    proportional_whole_tasks: bool = taskvine.PROPORTIONAL_WHOLE_TASKS.default
    wait_for_workers: int = taskvine.WAIT_FOR_WORKERS.default
    prefetch: float = own.PREFETCH.default
    weight_transfer: float = own.WEIGHT_TRANSFER.default
    weight_wait: float = own.WEIGHT_WAIT.default

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Set new values, by parameter name; skip parameters that the scheduler does not use."""
        given = {canonical(name): value for name, value in parameters.items()}
        if (shares := given.get(taskvine.PROPORTIONAL_RESOURCES.name)) is not None:  # it sets both, as in TaskVine
            given.setdefault(taskvine.PROPORTIONAL_WHOLE_TASKS.name, shares)
        elif given.get(taskvine.PROPORTIONAL_WHOLE_TASKS.name):
            given[taskvine.PROPORTIONAL_RESOURCES.name] = True
        for each in (taskvine.TEMP_REPLICA_COUNT, taskvine.TRANSFER_REPLICA_PER_CYCLE):
            if each.name in given:
                given[each.name] = max(1, given[each.name])
        for each in (taskvine.WORKER_SOURCE_MAX_TRANSFERS, taskvine.FILE_SOURCE_MAX_TRANSFERS):
            if given.get(each.name, 1) < 1:  # no limit, as in TaskVine
                given[each.name] = 1 << 30
        for name, value in given.items():
            field = name.removeprefix(NAMESPACE).replace("-", "_")
            if field in self.__dataclass_fields__:
                setattr(self, field, type(getattr(self, field))(value))
