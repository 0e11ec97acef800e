"""Why a task waits, failed, was run again, or ran where it did; and what holds up a run.

:func:`explain` takes a :class:`~taskvine_exec.insight.state.State` and a task, and returns a tree of causes as data.

- :mod:`~taskvine_exec.insight.why.causes`: the tree, and the kinds of causes;
- :mod:`~taskvine_exec.insight.why.tasks`: causes of the state of a task;
- :mod:`~taskvine_exec.insight.why.waits`: why tasks that could run are not placed;
- :mod:`~taskvine_exec.insight.why.places`: what happened to nodes and blocks;
- :mod:`~taskvine_exec.insight.why.upstream`: the task at the beginning of a chain;
- :mod:`~taskvine_exec.insight.why.runs`: what holds up a run.
"""

from __future__ import annotations

from taskvine_exec.insight.state import State
from taskvine_exec.insight.why.causes import KINDS, Cause
from taskvine_exec.insight.why.context import Context
from taskvine_exec.insight.why.runs import of_run
from taskvine_exec.insight.why.tasks import Explainer

__all__ = ["KINDS", "Cause", "explain", "explain_run"]


def explain(state: State, number: int, *, now: float | None = None, is_live: bool | None = None) -> Cause:
    """Return why a task is in its state.

    Parameters
    ----------
    state : State
        The state of the run.
    number : int
        The executor's number of the task.
    now : float, optional
        The present time, in seconds since the epoch; default: the time of the record's last entry.
    is_live : bool, optional
        Whether the manager still runs; None if that is unknown.

    Returns
    -------
    Cause
        The state of the task, with its causes below it.

    Raises
    ------
    KeyError
        If the record has no such task.
    """
    return Explainer(Context(state, now, is_live)).task(number)


def explain_run(state: State, *, now: float | None = None, is_live: bool | None = None) -> Cause:
    """Return what holds up a run now; the parameters are those of :func:`explain`."""
    context = Context(state, now, is_live)
    return of_run(Explainer(context), context)
