"""What holds up a run."""

from __future__ import annotations

from taskvine_exec.insight.state import Task
from taskvine_exec.insight.why.causes import Cause
from taskvine_exec.insight.why.context import Context
from taskvine_exec.insight.why.places import missing_nodes
from taskvine_exec.insight.why.tasks import Explainer
from taskvine_exec.insight.why.upstream import failed_first
from taskvine_exec.insight.why.waits import reasons
from taskvine_exec.insight.words import in_seconds, plural

MOST = 5
"""Maximum number of reasons that are shown."""


def of_run(explainer: Explainer, context: Context) -> Cause:
    """Return what holds up a run, the most important first."""
    state = context.state
    unfinished = list(state.unfinished())
    over = state.ended is not None or context.is_live is False
    words = f"{plural(len(unfinished), 'task')} of {len(state.tasks):,} {'has' if len(unfinished) == 1 else 'have'}"
    words += " not ended"
    causes: list[Cause] = []
    if over:
        causes += _ends(context)
    else:
        causes += _holds(explainer, context, unfinished)
    causes += _failures(explainer, context)
    return Cause("run", words, causes=tuple(causes))


def _ends(context: Context) -> list[Cause]:
    ended = context.state.ended
    if ended is not None:
        return [Cause("run-over", f"the run ended {in_seconds(context.since(ended))} ago")]
    return [Cause("manager-gone", "the manager is gone without an end of the run: it was killed, or it crashed")]


def _holds(explainer: Explainer, context: Context, unfinished: list[Task]) -> list[Cause]:
    """Return why tasks that have not ended have not."""
    ready = context.ready
    causes = []
    for group in sorted(reasons(context, ready).values(), key=len, reverse=True)[:MOST]:
        first = explainer.task(group[0].number)
        words = (
            f"{plural(len(group), 'task')} could run, and {'is' if len(group) == 1 else 'are'} not on a node; first: "
        )
        causes.append(Cause("ready", words + first.text, group[0].number, causes=first.causes))
    if not ready:
        causes += _idle(context, unfinished)
    assigned = [task for task in unfinished if task.state == "assigned"]
    if assigned:
        longest = min(assigned, key=lambda task: task.placed)
        causes.append(explainer.task(longest.number))
    elif not ready and unfinished:
        causes.append(explainer.task(unfinished[0].number))
    return causes


def _idle(context: Context, unfinished: list[Task]) -> list[Cause]:
    """Return why nodes are idle although no task waits for them."""
    state = context.state
    nodes = state.current_nodes().values()
    running = sum(len(node.tasks) for node in nodes)
    cores = sum(node.info.cores for node in nodes)
    if not nodes:
        return [Cause("no-node", "no node is there", causes=missing_nodes(context))] if unfinished else [_last(context)]
    if running >= cores:
        return [Cause("busy", f"nodes with {cores:g} cores have {plural(running, 'task')}")]
    free = f"{cores - running:g} of {cores:g} cores of nodes are free, and no task could run there"
    if len(unfinished) > running:
        words = f"{free}: {plural(len(unfinished) - running, 'task')} waits for inputs of others"
        return [Cause("waiting", words.replace("tasks waits", "tasks wait"))]
    last = _last(context)
    return [Cause(last.kind, f"{free}: {last.text}")]


def _last(context: Context) -> Cause:
    """Return how long the program has submitted nothing."""
    last = max((task.submitted for task in context.state.tasks.values()), default=0.0)
    if not last:
        since = in_seconds(context.since(context.state.started))
        return Cause("program", f"the program has submitted no task in {since}")
    return Cause("program", f"the program has submitted nothing for {in_seconds(context.since(last))}")


def _failures(explainer: Explainer, context: Context) -> list[Cause]:
    """Return the first failures; tasks that failed in the same way are counted."""
    alike: dict[int, list[Task]] = {}
    for task in context.state.tasks.values():
        if task.outcome in ("raised", "lost"):
            first = failed_first(context, task)[-1]
            same = None if first.failure is None else first.failure.same
            alike.setdefault(first.number if same is None else same, []).append(task)
    causes = []
    for tasks in sorted(alike.values(), key=len, reverse=True)[:MOST]:
        cause = explainer.task(min(tasks, key=lambda task: task.ended).number)
        more = f", and {plural(len(tasks) - 1, 'more task')} failed in the same way" if len(tasks) > 1 else ""
        causes.append(Cause(cause.kind, cause.text + more, cause.task, cause.node, causes=cause.causes))
    return causes
