"""TaskVine's tuning parameters, each declared once.

The names, defaults and bounds are those of ``vine_tune`` in cctools 8.0.0 (commit f4e3b63), which has 48 names for 45
parameters. TaskVine itself takes a double for each, ignores unknown names, and silently moves values into the bounds.
"""

from __future__ import annotations

from taskvine_manager import node_parameters
from taskvine_manager.parameters.kinds import EXACT, LARGEST_INT, Flag, Real, Whole
from taskvine_manager.parameters.support import Standing, Support, ignored

#: The version of TaskVine with which the statements about it were checked.
TASKVINE_VERSION = "8.0.0"

_KEPT = Standing(Support.NO_EFFECT, "the executor sets it itself, because its loop depends on the value")
_OFF = ((0, "off"),)
_NO_NETWORK = ignored("nodes and manager share a machine, so a closed connection is noticed at once")
_UNTIMED = ignored("transfers within one machine have no time limit")
_PUSHED = ignored("nodes send their results without being asked")
_WHOLE_GRAPH = ignored("the manager already has the whole graph")
_NO_MONITOR = ignored("the node itself watches memory")
_NO_STORAGE = ignored("the cache may fill the node's disk; its files are evicted when outputs need the space")
_NO_LOG = ignored("there is no such log")
_ONE_HOST = ignored("all nodes run on one host, so none is slower than the others")
_SHARES = Standing(Support.EMULATED, "for cores, memory and disk, only in the scheduler's count; off unless it is set")

# ---- Data

TEMP_REPLICA_COUNT = Whole(
    "temp-replica-count",
    1,
    "Number of nodes that hold each temp file. More replicas cost storage and transfers, and save recomputation "
    "when a node is lost.",
    "7.8.0",
    minimum=1,
    meanings=((1, "no replication"),),
)

TRANSFER_TEMPS_RECOVERY = Flag(
    "transfer-temps-recovery",
    False,
    "When a node is lost, copy its temp files from the remaining replicas until they reach their replica count.",
    "7.11.0",
    taskvine=Standing(Support.NO_EFFECT, "files are queued before the lost replicas are subtracted"),
)

TRANSFER_REPLICA_PER_CYCLE = Whole(
    "transfer-replica-per-cycle",
    10,
    "Maximum number of replicas requested in one scheduling cycle.",
    "7.11.0",
    minimum=1,
    taskvine=Standing(Support.NO_EFFECT, "the value is stored and never read"),
)

CLEAN_REDUNDANT_REPLICAS = Flag(
    "clean-redundant-replicas",
    False,
    "Remove replicas beyond the replica count from nodes on which no task reads them.",
    "7.17.0",
)

SHIFT_DISK_LOAD = Flag(
    "shift-disk-load",
    False,
    "Move new temp files from the nodes that hold the most data to nodes with more free space.",
    "7.17.0",
)

IMMEDIATE_RECOVERY = Flag(
    "immediate-recovery",
    False,
    "Recreate a temp file as soon as its last replica is lost, instead of when a task needs it.",
    "7.7.0",
)

WORKER_SOURCE_MAX_TRANSFERS = Whole(
    "worker-source-max-transfers",
    10,
    "Maximum number of simultaneous transfers from one node to others.",
    "7.5.0",
    minimum=1,
)

FILE_SOURCE_MAX_TRANSFERS = Whole(
    "file-source-max-transfers",
    1,
    "Maximum number of simultaneous transfers from one source that is not a node, such as a URL.",
    "7.5.0",
    minimum=1,
)

LOAD_FROM_SHARED_FILESYSTEM = Flag(
    "load-from-shared-filesystem",
    False,
    "Let workers read declared files from a file system that they share with the manager, instead of receiving "
    "them from the manager.",
    "7.11.0",
    embedded=ignored("nodes share a file system anyway; with shared_fs=True tasks read files in place"),
)

DEFAULT_TRANSFER_RATE = Real(
    "default-transfer-rate",
    1024.0 * 1024.0,
    "Transfer rate assumed for time limits until one has been measured.",
    "7.5.0",
    minimum=1,
    maximum=LARGEST_INT,
    unit="bytes/s",
    embedded=Standing(Support.EMULATED, "to choose a node, not for time limits; 1e9 unless it is set"),
)

TRANSFER_OUTLIER_FACTOR = Whole(
    "transfer-outlier-factor",
    10,
    "Factor by which a transfer may be slower than the average before it is given up.",
    "7.5.0",
    minimum=1,
    embedded=_UNTIMED,
)

MIN_TRANSFER_TIMEOUT = Whole(
    "min-transfer-timeout",
    60,
    "Minimum time limit of a transfer between manager and worker, even of a small file.",
    "7.5.0",
    unit="s",
    embedded=_UNTIMED,
)

TRANSIENT_ERROR_INTERVAL = Real(
    "transient-error-interval",
    15.0,
    "Time before a worker, a library, a task or a replica is tried again after a failure.",
    "7.9.0",
    minimum=1,
    maximum=LARGEST_INT,
    unit="s",
    embedded=ignored("the engine tries again when something has changed"),
)

# ---- Scheduling

ATTEMPT_SCHEDULE_DEPTH = Whole(
    "attempt-schedule-depth",
    100,
    "Maximum number of waiting tasks examined for one that fits, before the manager handles results.",
    "7.6.0",
    minimum=1,
    taskvine=_KEPT,
    embedded=ignored("every kind of waiting task is examined"),
)

PREFER_DISPATCH = Flag(
    "prefer-dispatch",
    False,
    "Send waiting tasks to workers before returning finished tasks.",
    "7.7.1",
    taskvine=_KEPT,
    embedded=ignored("sending tasks and returning them do not wait for each other"),
)

MAX_RETRIEVALS = Whole(
    "max-retrievals",
    1,
    "Maximum number of finished tasks fetched in one cycle.",
    "7.5.1",
    minimum=-1,
    meanings=((-1, "no limit"),),
    embedded=_PUSHED,
)

WORKER_RETRIEVALS = Flag(
    "worker-retrievals",
    True,
    "Fetch all finished tasks of a worker at once, instead of one.",
    "7.5.1",
    embedded=_PUSHED,
)

TASK_GROUPS = Flag(
    "task-groups",
    False,
    "Send tasks that are connected by temp files together to one worker.",
    "7.15.0",
    embedded=ignored("short calls are sent to the node that produces their inputs anyway"),
)

HUNGRY_MINIMUM = Whole(
    "hungry-minimum",
    10,
    "Number of waiting tasks below which the manager asks for more.",
    "7.5.0",
    minimum=1,
    embedded=_WHOLE_GRAPH,
)

HUNGRY_MINIMUM_FACTOR = Whole(
    "hungry-minimum-factor",
    2,
    "Number of waiting tasks per worker, or multiple of the workers' resources, below which the manager asks for more.",
    "7.7.0",
    minimum=1,
    embedded=_WHOLE_GRAPH,
)

RESOURCE_SUBMIT_MULTIPLIER = Real(
    "resource-submit-multiplier",
    1.0,
    "Factor by which the manager overcommits a node's cores, memory and GPUs, so that tasks wait at the node "
    "instead of at the manager.",
    "7.5.0",
    minimum=1,
    aliases=("asynchrony-multiplier",),
)

PROPORTIONAL_RESOURCES = Flag(
    "proportional-resources",
    True,
    "Give a task that requests a share of one resource of a node the same share of the others. Setting it also "
    "sets proportional-whole-tasks.",
    "7.5.0",
    aliases=("force-proportional-resources",),
    embedded=_SHARES,
)

PROPORTIONAL_WHOLE_TASKS = Flag(
    "proportional-whole-tasks",
    False,
    "Round the share of proportional-resources up, so that a whole number of such tasks fills the node.",
    "7.5.0",
    aliases=("force-proportional-resources-whole-tasks",),
    embedded=_SHARES,
)

RAMP_DOWN_HEURISTIC = Flag(
    "ramp-down-heuristic",
    False,
    "Give a task all free resources of its worker when there are more workers than waiting tasks. Only with the "
    "resource monitor as a watchdog.",
    "7.7.0",
    embedded=_NO_MONITOR,
)

DISK_PROPORTION_AVAILABLE_TO_TASK = Real(
    "disk-proportion-available-to-task",
    0.75,
    "Share of a worker's storage that tasks get; the worker's cache can grow into the rest.",
    "7.14.5",
    maximum=1,
    open_bounds=True,
    embedded=_NO_STORAGE,
)

SANDBOX_GROW_FACTOR = Real(
    "sandbox-grow-factor",
    2.0,
    "Factor by which the storage of a category grows after one of its tasks ran out of storage.",
    "7.14.5",
    minimum=1.1,
    taskvine=Standing(Support.NATIVE, "the result is multiplied by the old size once more"),
    embedded=_NO_STORAGE,
)

LARGE_TASK_CHECK_INTERVAL = Whole(
    "large-task-check-interval",
    180_000_000,
    "Time between two checks for tasks that are larger than every worker.",
    "7.7.0",
    minimum=1,
    maximum=EXACT,
    unit="µs",
    embedded=ignored("such tasks are refused when they arrive"),
)

MAX_LIBRARY_RETRIES = Whole(
    node_parameters.MAX_LIBRARY_RETRIES,
    15,
    "Number of failures after which a library is not started again.",
    "7.14.5",
    taskvine=Standing(Support.CLAMPED, "every value above 1 becomes 1; only the default is larger"),
    embedded=Standing(Support.EMULATED, "counts libraries killed before they were ready; 3 unless it is set"),
)

WATCH_LIBRARY_LOGFILES = Flag(
    "watch-library-logfiles",
    False,
    "Copy the logs of libraries to the manager while they run.",
    "7.12.0",
    embedded=ignored("libraries write their logs to the run directory anyway"),
)

MAX_TASK_STDOUT_STORAGE = Whole(
    node_parameters.MAX_TASK_STDOUT_STORAGE,
    1024**3,
    "Maximum size of a task's standard output; the rest is cut off.",
    "7.7.0",
    minimum=1,
    unit="bytes",
    embedded=Standing(Support.EMULATED, "for L1 tasks, in the logs of their node; no limit unless it is set"),
)

CATEGORY_STEADY_N_TASKS = Whole(
    "category-steady-n-tasks",
    25,
    "Number of finished tasks of a category after which its resources are predicted again. Applies to every "
    "manager of the process.",
    "7.5.0",
    minimum=1,
    embedded=ignored("tasks get the resources that they request; nothing is predicted"),
)

# ---- Workers

WAIT_FOR_WORKERS = Whole(
    "wait-for-workers",
    0,
    "Number of nodes that must have joined before the first task is sent.",
    "7.5.0",
)

MAX_WORKERS = Whole(
    "max-workers",
    -1,
    "Maximum number of nodes; TaskVine turns further workers away.",
    "7.15.5",
    minimum=-1,
    meanings=((-1, "no limit"), (0, "no limit")),
    embedded=Standing(Support.EMULATED, "a further node waits until another has left"),
)

MAX_NEW_WORKERS = Whole(
    "max-new-workers",
    10,
    "Maximum number of workers admitted in one cycle, before the manager does other work.",
    "7.7.0",
    meanings=((0, "same as 1"),),
    embedded=ignored("admitting a node delays nothing"),
)

DISCONNECT_SLOW_WORKER_FACTOR = Real(
    "disconnect-slow-worker-factor",
    0.0,
    "Multiple of the average time of a category beyond which a task's worker counts as slow. It is disconnected "
    "when this happens again.",
    "7.5.0",
    minimum=1,
    also=(0.0,),
    meanings=_OFF,
    embedded=_ONE_HOST,
)

OPTION_BLOCKLIST_SLOW_WORKERS_TIMEOUT = Real(
    "option-blocklist-slow-workers-timeout",
    900.0,
    "Time for which the host of a slow worker is not admitted again.",
    "7.7.0",
    maximum=LARGEST_INT,
    unit="s",
    meanings=((0, "never admitted again"),),
    embedded=_ONE_HOST,
)

ENFORCE_WORKER_EVICTION_INTERVAL = Whole(
    "enforce-worker-eviction-interval",
    0,
    "Average time between two removals of a random node, to test how a workflow survives losses.",
    "7.15.5",
    unit="s",
    meanings=_OFF,
    embedded=Standing(Support.EMULATED, "nodes are killed; executor.loss-interval also takes fractions of seconds"),
)

KEEPALIVE_INTERVAL = Whole(
    node_parameters.KEEPALIVE_INTERVAL,
    120,
    "Time without a message from a node after which it is asked for an answer.",
    "7.5.0",
    unit="s",
    meanings=_OFF,
    taskvine=Standing(Support.NATIVE, "30 s unless it is set, to notice sooner when a host is cut off"),
    embedded=Standing(Support.EMULATED, "30 s unless it is set; nodes and the manager are asked while there are tasks"),
)

KEEPALIVE_TIMEOUT = Whole(
    node_parameters.KEEPALIVE_TIMEOUT,
    900,
    "Time without an answer after which a node counts as lost.",
    "7.5.0",
    unit="s",
    taskvine=Standing(Support.NATIVE, "60 s unless it is set, to notice sooner when a host is cut off"),
    embedded=Standing(
        Support.EMULATED, "60 s unless it is set; also for slots, tasks and libraries stopped by SIGSTOP"
    ),
)

SHORT_TIMEOUT = Whole(
    "short-timeout",
    5,
    "Time limit for a short message.",
    "7.5.0",
    minimum=1,
    unit="s",
    embedded=_NO_NETWORK,
)

LONG_TIMEOUT = Whole(
    "long-timeout",
    3600,
    "Time limit for a message that has begun to arrive.",
    "7.5.0",
    minimum=1,
    unit="s",
    embedded=_NO_NETWORK,
)

# ---- Measuring

MONITOR_INTERVAL = Whole(
    "monitor-interval",
    0,
    "Time between two measurements of a task by the resource monitor.",
    "7.5.1",
    unit="s",
    meanings=((0, "the monitor's own interval"),),
    embedded=_NO_MONITOR,
)

RESOURCE_MANAGEMENT_INTERVAL = Whole(
    "resource-management-interval",
    30,
    "Time between two measurements of the manager's own resources.",
    "7.7.0",
    minimum=1,
    unit="s",
    embedded=_NO_LOG,
)

PERF_LOG_INTERVAL = Whole(
    "perf-log-interval",
    5,
    "Time between two lines of the performance log.",
    "7.7.0",
    minimum=1,
    unit="s",
    taskvine=_KEPT,
    embedded=_NO_LOG,
)

UPDATE_INTERVAL = Whole(
    "update-interval",
    60,
    "Time between two reports to the catalog server, if the manager has a project name.",
    "7.7.0",
    minimum=1,
    unit="s",
    embedded=ignored("the manager reports to no catalog server"),
)
