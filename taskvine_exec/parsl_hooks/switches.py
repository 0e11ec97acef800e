"""Switches of the hooks: which there are, what each is for, and which of them are off.

The environment variable ``TASKVINE_EXEC_HOOKS_OFF`` names hooks to switch off, separated by commas; ``all`` means all
hooks. It is read once, when the first module that has a hook is imported. Without a hook, results are the same, but a
slower or less convenient way is taken. This command shows the state of each::

    python -c "from taskvine_exec.parsl_hooks import hooks; print(hooks())"
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from parsl.errors import ConfigurationError

logger = logging.getLogger(__name__)

VARIABLE = "TASKVINE_EXEC_HOOKS_OFF"
"""Environment variable with the names of hooks that are off."""


@dataclass(eq=False)
class Hook:
    """One way in which this package depends on internals of Parsl or CPython.

    Parameters
    ----------
    name : str
        Name of the hook, and of the module of this folder that has it.
    purpose : str
        What the hook is for.
    without : str
        What happens if it is off.
    on : bool
        Whether the hook is used.
    """

    name: str
    purpose: str
    without: str
    on: bool = True


COLLECTOR = Hook(
    "collector",
    "Python's cyclic garbage collector looks at old objects less often while many apps are called",
    "it takes up to half of the time that an app costs in the user's process",
)
COMPARISON = Hook(
    "comparison",
    "large arguments are compared with stored ones by memcmp, with addresses from Python's Py_buffer",
    "they are read and compared in pieces, which takes a quarter longer",
)
CONDITIONS = Hook(
    "conditions",
    "the future that submit returns has a small condition and drops its callbacks, which saves memory",
    "it is like any other future",
)
FILES = Hook(
    "files",
    "Files inside containers and other objects are staged: File.__reduce_ex__ is replaced",
    "such Files are not available in sandboxes: they are pickled as they are, and only Files that are arguments "
    "themselves or items of inputs are staged",
)
FRAMES = Hook(
    "frames",
    "the DataFlowKernel's stack frames say which task an argument belongs to, which task is submitted, and which part "
    "of Parsl scales blocks",
    "no results stay on nodes, DAG_RESOLVER waits for all futures, and lost blocks are replaced under any strategy",
)
FUTURES = Hook(
    "futures",
    "an AppFuture gets another class, which loads a result from its node when it is read",
    "each result is loaded when its task ends",
)
JOBS = Hook(
    "jobs",
    "the state of a job in its provider's table is reset, so that the provider asks the batch system again",
    "a job that its batch system did not list for a moment counts as ended after a minute",
)
LAUNCHING = Hook(
    "launching",
    "the DataFlowKernel launches tasks in a thread with a queue, instead of a pool of one thread",
    "launching a task takes longer, and threads may switch several times at every task",
)
LOCK = Hook(
    "lock",
    "the lock on the DataFlowKernel's counters is only tried, so that no thread owns it while it waits to run",
    "threads may switch several times at every task",
)
PROXIES = Hook(
    "proxies",
    "a proxy shows its own class to Parsl and to picklers, known by the calling frame",
    "proxies load their values as soon as Parsl or a pickler looks at them",
)
RECORDS = Hook(
    "records",
    "a finished AppFuture gets a copy of its task record, so that the two form no reference cycle",
    "results that nobody uses stay in memory and on nodes until Python's garbage collector runs",
)
RESOLVER = Hook(
    "resolver",
    "DAG_RESOLVER leaves placeholders in arguments, so that tasks are sent before their dependencies are done",
    "DAG_RESOLVER waits for all futures, as Parsl's resolvers do",
)
STAND_INS = Hook(
    "stand-ins",
    "the DataFlowKernel gets small finished futures for dependencies that it need not wait for, or none if its log and "
    "monitoring do not list dependencies",
    "it gets an ordinary finished AppFuture for each dependency",
)
WRAPPERS = Hook(
    "wrappers",
    "functions are recognised inside Parsl's wrappers by the wrappers' code",
    "functions with a walltime, monitoring or staging are pickled for each call, and tasks import Parsl",
)
HOOKS = (
    COLLECTOR,
    COMPARISON,
    CONDITIONS,
    FILES,
    FRAMES,
    FUTURES,
    JOBS,
    LAUNCHING,
    LOCK,
    PROXIES,
    RECORDS,
    RESOLVER,
    STAND_INS,
    WRAPPERS,
)
"""All hooks."""


def hooks() -> str:
    """List the hooks: name, state, what it is for, and what happens without it."""
    return "\n".join(
        f"{each.name}: {'on' if each.on else 'OFF'}\n    {each.purpose}\n    without it: {each.without}"
        for each in HOOKS
    )


def switch_off(names: str) -> None:
    """Switch hooks off.

    Parameters
    ----------
    names : str
        Their names, separated by commas, or ``all``.

    Raises
    ------
    parsl.errors.ConfigurationError
        If there is no hook of a name. Nothing is switched off then.
    """
    known = {each.name: each for each in HOOKS}
    wanted = {name.strip() for name in names.split(",")} - {""}
    if "all" in wanted:
        wanted = wanted - {"all"} | known.keys()
    if unknown := sorted(wanted - known.keys()):
        raise ConfigurationError(
            f"{VARIABLE} names {', '.join(unknown)}, which is no hook: the hooks are {', '.join(known)}, or all"
        )
    for name in wanted:
        known[name].on = False


def mention(label: str) -> None:
    """Log which hooks are off, with the consequences of each, at the start of an executor."""
    for each in HOOKS:
        if not each.on:
            logger.warning("executor %s: the hook %s is off (%s): %s", label, each.name, VARIABLE, each.without)


switch_off(os.environ.get(VARIABLE, ""))
