"""The executor's own tuning parameters, each declared once."""

from __future__ import annotations

from taskvine_manager import node_parameters
from taskvine_manager.parameters.kinds import Real, Whole
from taskvine_manager.parameters.support import Standing, Support, ignored

_OFF = ((0, "off"),)
_BY_BYTES = ignored("TaskVine takes the worker with most bytes of the inputs, then the one with most free cores")

LIBRARY_SLOTS = Whole(
    "executor.library-slots",
    0,
    "Number of function calls that the library of a node runs at a time. This is num_slots of library_config, "
    "under a name that a sweep can set.",
    meanings=((0, "one for each core"),),
    live=False,
)

INLINE_LIMIT = Whole(
    "executor.inline-limit",
    32 * 1024,
    "Size above which a value is a file on a node instead of part of a message. This is the executor's "
    "inline_limit, under a name that a sweep can set.",
    maximum=64 * 1024,
    unit="bytes",
    live=False,
)

BATCH = Whole(
    node_parameters.BATCH,
    0,
    "Maximum number of short calls sent together: to a slot, or with TaskVine in one of its tasks.",
    maximum=65536,
    meanings=((0, "64 on the embedded engine, 1024 with TaskVine"), (1, "no batching")),
)

PREFETCH = Real(
    "executor.prefetch",
    0.020,
    "Amount of work that is sent to a node ahead of a free slot, for each slot. Calls that take longer are not sent "
    "ahead; of those that read large results, one is unless it takes five times as long.",
    maximum=60,
    unit="s",
    meanings=_OFF,
    taskvine=ignored("a node gets two batches at a time; executor.batch sets their size"),
)

AWAKE = Real(
    "executor.awake",
    0.0005,
    "Time for which the manager polls for the next message before it sleeps, while there are at most four tasks. "
    "A sequence of short calls then takes three quarters of the time.",
    maximum=0.1,
    unit="s",
    meanings=((0, "the manager sleeps at once"),),
)

RECORD_DETAILS = Whole(
    node_parameters.RECORD_DETAILS,
    1,
    "Whether the record of the run has details: placements, waiting reasons, transfers, replicas, evictions, "
    "recoveries, failures, and the starts and ends of nodes, libraries and slots.",
    maximum=1,
    meanings=((0, "tasks and nodes only"), (1, "details")),
    live=False,
)

WEIGHT_TRANSFER = Real(
    "executor.weight-transfer",
    1.0,
    "Weight, in the choice of a node, of the expected time to copy a task's inputs there.",
    maximum=1000,
    meanings=((0, "ignores where the inputs are"),),
    taskvine=_BY_BYTES,
)

WEIGHT_WAIT = Real(
    "executor.weight-wait",
    1.0,
    "Weight, in the choice of a node, of the expected time until a busy node is free.",
    maximum=1000,
    meanings=((0, "ignores whether a node is busy"),),
    taskvine=_BY_BYTES,
)

LOSS_INTERVAL = Real(
    "executor.loss-interval",
    0.0,
    "Average time between two kills of a random node while there are tasks, to test how a workflow survives losses.",
    minimum=0.01,
    maximum=1e6,
    also=(0.0,),
    unit="s",
    meanings=_OFF,
    taskvine=Standing(
        Support.CLAMPED, "it becomes enforce-worker-eviction-interval, in whole seconds, which releases workers"
    ),
)

LOSS_SEED = Whole(
    "executor.loss-seed",
    0,
    "Random seed for the kills of executor.loss-interval: when they happen, and which node is killed.",
    taskvine=ignored("TaskVine draws its own random numbers"),
)
