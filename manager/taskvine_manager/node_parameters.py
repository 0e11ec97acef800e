"""Names of the tuning parameters that nodes act on.

The parameters are declared in :mod:`taskvine_manager.parameters`. Nodes need only the names, and the import of the
declarations would lengthen their start by a tenth.
"""

from __future__ import annotations

BATCH = "executor.batch"
KEEPALIVE_INTERVAL = "keepalive-interval"
KEEPALIVE_TIMEOUT = "keepalive-timeout"
MAX_LIBRARY_RETRIES = "max-library-retries"
RECORD_DETAILS = "executor.record-details"
MAX_TASK_STDOUT_STORAGE = "max-task-stdout-storage"

# Without RECORD_DETAILS, which does not change during a run.
ALL = frozenset({BATCH, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_LIBRARY_RETRIES, MAX_TASK_STDOUT_STORAGE})
