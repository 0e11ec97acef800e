"""Causes of the state of a task."""

from __future__ import annotations

from collections.abc import Callable

from taskvine_exec.insight.state import Task
from taskvine_exec.insight.why import upstream
from taskvine_exec.insight.why.causes import Cause
from taskvine_exec.insight.why.context import Context
from taskvine_exec.insight.why.places import node_end
from taskvine_exec.insight.why.running import running
from taskvine_exec.insight.why.waits import Waits
from taskvine_exec.insight.words import few, in_bytes, in_seconds, plural
from taskvine_manager.record import events

MOST_LINKS = 12
"""Links of a chain that are shown; of a longer chain, half of them at each end."""
MOST_AGAIN = 5
"""Attempts without an end that are shown, the last ones."""
_PLACES = {
    events.MANAGER: "the manager",
    events.RELAY: "the manager's directory",
    events.WORKERS: "some worker",
    events.FILES: "the user's file",
}
_REQUEUED = {
    "node-lost": "its node was lost",
    "returned": "its node had not started it, and gave it back",
    "unreadable": "an input could not be read",
    "yielded": "its outputs did not fit on its node",
}


class Explainer:
    """Makes the tree of causes of any task of a state."""

    def __init__(self, context: Context) -> None:
        self._context, self._state = context, context.state
        self._waits = Waits(context)
        self._states: dict[str, Callable[[Task], Cause]] = {
            "waiting": self._waiting,
            "ready": self._ready,
            "assigned": self._assigned,
            "returned": self._returned,
            "raised": self._failed,
            "lost": self._failed,
            "cancelled": self._failed,
            "over": self._over,
        }

    def task(self, number: int) -> Cause:
        """Return the state of a task, with its causes below it.

        Raises
        ------
        KeyError
            If the record has no such task.
        """
        task = self._state.tasks[number]
        cause = self._states[task.outcome or task.state](task)
        more = (*self._again(task), *self._recovers(task))
        before = () if task.outcome else self._no_manager()
        causes = (*more, *cause.causes) if task.outcome == "returned" else (*before, *cause.causes, *more)
        return Cause(cause.kind, cause.text, number, cause.node, causes=causes)

    def _no_manager(self) -> tuple[Cause, ...]:
        """Return why no task can go on, if that is so."""
        if self._state.ended is not None:
            return (Cause("run-over", f"the run ended {in_seconds(self._context.since(self._state.ended))} ago"),)
        if self._context.is_live is False:
            since = in_seconds(self._context.since(self._state.now))
            words = f"the manager is gone without an end of the run: it was killed, or it crashed, at least {since} ago"
            return (Cause("manager-gone", f"{words}. What follows was so before"),)
        return ()

    # --- tasks that have not ended ---

    def _waiting(self, task: Task) -> Cause:
        return self._chain(upstream.waited_for(self._context, task))

    def _chain(self, path: upstream.Path) -> Cause:
        """Return the causes along a chain of tasks, from the last link to the first."""
        *links, end = path
        cause = self._end_of_chain(end) if links else self._unmade(end)
        shown = len(links) if len(links) <= MOST_LINKS else MOST_LINKS // 2
        for link in reversed(links[len(links) - shown :]):
            cause = self._link(link, cause)
        hidden = len(links) - 2 * shown
        if hidden > 0:
            cause = Cause(cause.kind, f"{plural(hidden, 'more task')} of the chain", causes=(cause,))
            for link in reversed(links[:shown]):
                cause = self._link(link, cause)
        return cause

    def _link(self, task: Task, cause: Cause) -> Cause:
        return Cause(task.outcome or "waiting", self._story(task), task.number, causes=(cause,))

    def _story(self, task: Task) -> str:
        """Return the state of a task in the middle of a chain."""
        name = self._context.name(task)
        if task.outcome == "cancelled":
            return f"{name} did not run, because an input was not made"
        if task.outcome:
            return f"{name} was not able to run, because an input was not made"
        inputs = sum(use.kind != "local" for use in task.inputs)
        makers = [self._context.maker(file) for file in sorted(task.missing)]
        names = few(dict.fromkeys(self._context.name(maker) for maker in makers if maker is not None))
        where = f" on node {task.node}" if task.node else ""
        what = "its input" if inputs == 1 else f"{len(task.missing):,} of its {plural(inputs, 'input')}"
        words = f"{name} waits{where} for {what}"
        return f"{words}, made by {names}" if names else words

    def _end_of_chain(self, task: Task) -> Cause:
        cause = self._states[task.outcome or task.state](task)
        again = () if task.outcome else (*self._again(task), *self._recovers(task))
        return Cause(cause.kind, cause.text, task.number, cause.node, causes=(*cause.causes, *again))

    def _unmade(self, task: Task) -> Cause:
        """Return the state of a task whose inputs nobody makes."""
        files = sorted(task.missing)
        causes = []
        for name in files[:3]:
            file = self._state.files.get(name)
            lost = file.lost_with if file is not None else ""
            words = f"nothing makes {name}, and no replica is left"
            causes.append(Cause("no-maker", words, causes=(node_end(self._context, lost),) if lost else ()))
        return Cause("waiting", self._story(task), task.number, causes=tuple(causes))

    def _ready(self, task: Task) -> Cause:
        since = in_seconds(self._context.since(task.submitted))
        words = f"{self._context.name(task)} could run, and is not on a node; it was submitted {since} ago"
        return Cause("ready", words, task.number, causes=self._waits.of(task))

    def _assigned(self, task: Task) -> Cause:
        if task.missing:
            path = upstream.waited_for(self._context, task)
            if len(path) > 1:
                return self._chain(path)
        since = in_seconds(self._context.since(task.placed))
        words = f"{self._context.name(task)} is on node {task.node} since {since}"
        causes = (
            *self._copies(task),
            *self._library(task),
            *(self._behind(task) or (running(self._context, task),)),
            *self._placement(task),
        )
        return Cause("assigned", words, task.number, task.node, causes=causes)

    def _copies(self, task: Task) -> tuple[Cause, ...]:
        """Return the inputs that its node is copying or reading."""
        found = []
        for use in task.inputs:
            table, kind = (
                (self._state.reading, "reading") if use.kind == "local" else (self._state.transfers, "transfer")
            )
            transfer = table.get((use.source, task.node))
            if transfer is not None:
                size = self._state.files[use.source].size if use.source in self._state.files else 0
                what = f"{use.source} ({in_bytes(size)})" if size else use.source
                source = _PLACES.get(transfer.source, f"node {transfer.source}")
                since = in_seconds(self._context.since(transfer.since))
                words = f"{what} is being copied to node {task.node} from {source} since {since}"
                found.append(Cause(kind, words, node=task.node))
        return tuple(found[:3])

    def _library(self, task: Task) -> tuple[Cause, ...]:
        """Return that the library of a task's node is not ready."""
        node, profile = self._state.nodes.get(task.node), self._context.profile(task)
        if node is None or profile.mode != "L2":
            return ()
        name = str(profile.library[0]) if profile.library else ""
        for kind in ("library", "context"):
            step = node.processes.get((kind, name))
            if step is not None and step.step == "started":
                what = f"the {kind} {name!r}" if name else f"the {kind}"
                return (Cause("library", f"{what} on node {task.node} has started, and is not ready", node=task.node),)
        return ()

    def _behind(self, task: Task) -> tuple[Cause, ...]:
        """Return the tasks that its node has to run first."""
        node = self._state.nodes.get(task.node)
        if node is None:
            return ()
        earlier = [
            other
            for number in node.tasks
            if number != task.number and (other := self._state.tasks[number]).placed <= task.placed
            if (other.placed, number) < (task.placed, task.number)
        ]
        cores = sum(self._context.profile(other).cores or 1.0 for other in earlier)
        limit = float(node.info.slots) if node.info.slots is not None else node.info.cores
        held = float(len(earlier)) if node.info.slots is not None else cores
        if not earlier or held + (self._context.profile(task).cores or 1.0) <= limit + 1e-9:
            return ()
        first = min(earlier, key=lambda other: (other.placed, other.number))
        words = f"{plural(len(earlier), 'task')} came to node {task.node} before it, and {limit:g} cores are there"
        if node.info.slots is not None:
            words = f"{plural(len(earlier), 'task')} came to node {task.node} before it, and {limit:g} slots are there"
        return (Cause("node-queue", words, node=task.node, causes=(running(self._context, first),)),)

    # --- tasks that have ended ---

    def _returned(self, task: Task) -> Cause:
        words = f"{self._context.name(task)} returned"
        if task.ran_on:
            words += f" on node {task.ran_on}"
        times = self._times(task)
        return Cause("returned", words, task.number, task.ran_on, causes=(*self._placement(task), *times))

    def _times(self, task: Task) -> tuple[Cause, ...]:
        if not task.started:
            return ()
        began = task.dispatched or task.started
        words = f"it waited for {in_seconds(began - task.submitted)} after it was submitted"
        words += f", took {in_seconds(task.started - began)} to start, and ran for {in_seconds(task.seconds)}"
        return (Cause("times", words),)

    def _placement(self, task: Task) -> tuple[Cause, ...]:
        """Return why a task is, or was, on its node."""
        placed = task.placement
        if placed is None:
            return ()
        total = placed.local + placed.missing
        if placed.how == "ahead":
            words = f"it was sent to node {placed.node} behind the task that makes its inputs"
        elif placed.how == "parcel":
            words = f"TaskVine placed it on node {placed.node}"
        elif total:
            words = f"node {placed.node} had {in_bytes(placed.local)} of its {in_bytes(total)} of inputs"
        elif placed.how == "inputs":
            words = f"it could start first on node {placed.node}"
        else:
            words = f"node {placed.node} had free resources, and it reads no files"
        if placed.cost > 0:
            words += f", and was expected to start it within {in_seconds(placed.cost)}"
        others = few(
            f"{name} ({in_seconds(cost)}, {in_bytes(local)} there{'' if room else ', full'})"
            for name, cost, local, room in placed.others
        )
        return (Cause("placement", f"{words}; next best: {others}" if others else words, node=placed.node),)

    def _failed(self, task: Task) -> Cause:
        path = upstream.failed_first(self._context, task)
        if len(path) > 1:
            return self._chain(path)
        name = self._context.name(task)
        failure = self._context.failure(task)
        if task.outcome == "cancelled" or (failure is not None and failure.kind == "cancelled"):
            words = f"{name} was cancelled"
            return Cause("cancelled", words, task.number, causes=(Cause("by-program", "the program cancelled it"),))
        node = f" on node {task.ran_on}" if task.ran_on else ""
        if failure is None:
            words = f"{name} {'raised an exception' if task.outcome == 'raised' else 'was lost'}{node}"
            return Cause(task.outcome, f"{words}; this record has no details", task.number, task.ran_on)
        if task.outcome == "raised":
            words = f"{name} raised {failure.kind or 'an exception'}{node}"
            error = Cause("error", _last_line(failure.text) or failure.kind, task.number, detail=failure.text)
            return Cause("raised", words, task.number, task.ran_on, causes=(error,))
        words = f"{name} was lost{node}: {failure.kind or 'unknown'}"
        return Cause("lost", words, task.number, task.ran_on, causes=self._loss(task, failure))

    def _loss(self, task: Task, failure: events.Failure) -> tuple[Cause, ...]:
        """Return why a task was lost."""
        first, _, rest = failure.text.strip().partition("\n")
        own = Cause(failure.kind or "lost", first or failure.kind, task.number, task.ran_on, detail=rest)
        if failure.kind == "file-lost":
            lost = [(use.source, self._state.files.get(use.source)) for use in task.inputs]
            gone = [node_end(self._context, file.lost_with) for _, file in lost if file is not None and file.lost_with]
            return (Cause(own.kind, own.text, own.task, own.node, own.detail, causes=tuple(gone[:1])),)
        if failure.kind != "node-lost":
            return (own,)
        names = list(dict.fromkeys(node for _, why, node in task.again if why == "node-lost" and node))
        if task.ran_on and task.ran_on not in names:
            names.append(task.ran_on)
        ends = tuple(node_end(self._context, name) for name in names) or (own,)
        if len(names) > 1 and all(cause.kind in ("node-lost", "out-of-memory") for cause in ends):
            words = f"it was on each of the {len(names)} nodes when they were lost: it may be what kills them"
            return (Cause("poison", words, task.number), *ends)
        return ends[::-1]

    def _over(self, task: Task) -> Cause:
        return Cause("over", f"{self._context.name(task)} ran again to recreate files", task.number)

    # --- attempts ---

    def _again(self, task: Task) -> tuple[Cause, ...]:
        """Return why a task was run again."""
        found = []
        for time, why, name in task.again[-MOST_AGAIN:]:
            words = f"{in_seconds(self._context.since(time))} ago it was queued again: {_REQUEUED.get(why, why)}"
            causes = (node_end(self._context, name),) if name and why == "node-lost" else ()
            found.append(Cause("requeued", words, task.number, name, causes=causes))
        return tuple(found)

    def _recovers(self, task: Task) -> tuple[Cause, ...]:
        """Return why a finished task runs again, or that it did."""
        if task.origin is None:
            return ()
        lost = [
            (use.source, file.lost_with)
            for use in task.outputs
            if (file := self._state.files.get(use.source)) is not None and file.lost_with
        ]
        words = "it had returned, and runs again because files that it made were lost"
        if lost:
            words += f": {few(name for name, _ in lost)}"
        ends = tuple(node_end(self._context, name) for name in dict.fromkeys(node for _, node in lost[:3]))
        return (Cause("recovery", words, task.number, causes=ends),)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
