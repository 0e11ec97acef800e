"""Why tasks that could run are not placed."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Sequence

from taskvine_exec.insight.state import Task
from taskvine_exec.insight.why.causes import Cause
from taskvine_exec.insight.why.context import Context
from taskvine_exec.insight.why.places import missing_nodes, occupants
from taskvine_exec.insight.why.running import is_straggler, running
from taskvine_exec.insight.words import few, in_bytes, in_seconds, plural
from taskvine_manager.record.events import Waiting
from taskvine_manager.wire.messages import Profile

MB = 1 << 20
RESOURCES = ("cores", "memory", "disk", "gpus")


class Waits:
    """Causes of waiting, by the reason that the scheduler gave."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.table: dict[str, Callable[[Task, Waiting], Cause]] = {
            "no-node": self._no_node,
            "few-nodes": self._few_nodes,
            "full": self._full,
            "too-large": self._too_large,
            "reserved": self._reserved,
            "busy-node": self._busy_node,
            "transfer-limit": self._transfer_limit,
            "suspect": self._suspect,
        }
        """What makes the cause for each of the scheduler's reasons."""

    def of(self, task: Task) -> tuple[Cause, ...]:
        """Return why a task with all its inputs is not on a node."""
        state = self._context.state
        if not any(not node.draining for node in state.current_nodes().values()):
            return (self._no_node(task, Waiting(task.number, "no-node")),)
        said = self._context.reason(task)
        if said is None or said[1].why not in self.table or said[1].why == "no-node":
            words = "the scheduler has not said yet why it waits"
            if not state.has_details:
                words = "this record has no details (executor.record-details), so it does not say why"
            return self._behind(task, Cause("unknown", words))
        return self._behind(task, self.table[said[1].why](task, said[1]))

    def _behind(self, task: Task, cause: Cause) -> tuple[Cause, ...]:
        """Put the tasks that are before a task between it and what holds up the first of them."""
        ready = self._context.ready
        before = bisect.bisect_left(ready, self._context.rank(task), key=self._context.rank)
        if cause.kind not in ("full", "unknown") or not before:
            return (cause,)
        mine = self._context.profile(task).priority
        higher = bisect.bisect_left(ready, (-mine, -(1 << 62)), key=self._context.rank)
        words = f"{plural(before, 'ready task')} {'is' if before == 1 else 'are'} before it"
        if higher:
            words += f", {higher:,} of them with a higher priority"
        return (Cause("queue", words, causes=(cause,)),)

    # --- nodes ---

    def _no_node(self, task: Task, said: Waiting) -> Cause:
        nodes = self._context.state.current_nodes()
        if nodes:
            words = f"all nodes are to leave ({few(nodes)}), and take no new tasks"
        else:
            words = "no node is there"
        return Cause("no-node", words, causes=missing_nodes(self._context))

    def _few_nodes(self, task: Task, said: Waiting) -> Cause:
        words = f"the executor waits for more nodes: {said.subject} have joined"
        return Cause("few-nodes", words, causes=missing_nodes(self._context))

    def _full(self, task: Task, said: Waiting) -> Cause:
        lacking = [(name, what) for name, what in said.lacking if name in self._context.state.current_nodes()]
        if not lacking:
            return Cause("full", "no node has free resources for it")
        words = "no node has free resources for it: " + few(f"{name} lacks {what}" for name, what in lacking)
        if more := len(self._context.state.current_nodes()) - len(lacking):
            words += f" ({plural(more, 'more node')})"
        names = [name for name, _ in lacking]
        causes: tuple[Cause, ...] = ()
        if all(what == "disk" for _, what in lacking):
            causes = self._caches(names)
        else:
            disks = [name for name, what in lacking if what == "disk"]
            causes = (*self._lower(task), *self._stragglers(), *self._caches(disks))
        return Cause("full", f"{words}; {held}" if (held := occupants(self._context, names)) else words, causes=causes)

    def _caches(self, names: Sequence[str]) -> tuple[Cause, ...]:
        """Return what the caches of nodes hold."""
        found = []
        for name in names:
            node = self._context.state.nodes[name]
            needed = [file for file in node.files if self._is_needed(file)]
            held, size = in_bytes(sum(node.files.values())), in_bytes(node.info.disk * MB)
            words = (
                f"the disk of node {name} is full: it holds {held} of temp files and results in {size}, "
                f"and unfinished tasks read {len(needed):,} of these files"
                if node.files
                else f"the disk of node {name} is full: tasks there have asked for all of {size}"
            )
            found.append(Cause("cache", words, node=name))
        return tuple(found)

    def _is_needed(self, file: str) -> bool:
        known = self._context.state.files.get(file)
        return known is not None and bool(known.readers)

    def _lower(self, task: Task) -> tuple[Cause, ...]:
        """Return the longest-running task of a lower priority that has what a task needs."""
        mine = self._context.profile(task).priority
        running = [
            other
            for node in self._context.state.current_nodes().values()
            for number in node.tasks
            if self._context.profile(other := self._context.state.tasks[number]).priority < mine
        ]
        if not running:
            return ()
        first = min(running, key=lambda other: other.placed)
        name, since = self._context.name(first), in_seconds(self._context.since(first.placed))
        priority = self._context.profile(first).priority
        words = f"{name} has priority {priority:g}, and is on node {first.node} since {since}"
        if len(running) > 1:
            words = f"{plural(len(running), 'task')} with lower priorities are on nodes; {words}"
        return (Cause("priority", f"{words}: tasks that run are not stopped for others", first.number, first.node),)

    def _stragglers(self) -> tuple[Cause, ...]:
        """Return the task that has been on a node for the longest time, if that is unusual."""
        nodes = self._context.state.current_nodes().values()
        tasks = [self._context.state.tasks[number] for node in nodes for number in node.tasks]
        slow = [task for task in tasks if is_straggler(self._context, task)]
        return (running(self._context, min(slow, key=lambda task: task.placed)),) if slow else ()

    def _too_large(self, task: Task, said: Waiting) -> Cause:
        profile = self._context.profile(task)
        lacking = {what for _, what in said.lacking} or set(RESOURCES)
        asked = [words for name in RESOURCES if name in lacking and (words := self._asked(profile, name))]
        if not asked:
            asked = [f"it needs {few(sorted(lacking))}"]
        return Cause("too-large", f"no node is large enough, even if it were empty: {'; '.join(asked)}")

    def _asked(self, profile: Profile, resource: str) -> str:
        """Return what a task asks for of a resource, and the most that a node has; empty if it asks for nothing."""
        asked = getattr(profile, resource)
        if asked is None:
            return ""
        most = max((getattr(node.info, resource) for node in self._context.state.current_nodes().values()), default=0)
        if resource == "gpus" and not most:
            return f"it asks for gpus={asked:g}, and no node has a gpu"
        unit = " MB" if resource in ("memory", "disk") else ""
        return f"it asks for {resource}={asked:g}{unit}, and the largest node has {most:g}{unit}"

    # --- other tasks, transfers ---

    def _reserved(self, task: Task, said: Waiting) -> Cause:
        first = self._task(said.subject)
        if first is None:
            return Cause("reserved", "the nodes with free resources are kept for an earlier task")
        reason = self._context.reason(first)
        causes = (self._full(first, reason[1]),) if reason is not None and reason[1].why == "full" else ()
        words = f"the nodes with free resources are kept for {self._context.name(first)}, which came earlier"
        return Cause("reserved", words, first.number, causes=causes)

    def _busy_node(self, task: Task, said: Waiting) -> Cause:
        node = self._context.state.nodes.get(said.subject)
        words = f"node {said.subject} has its inputs, and is busy"
        if node is not None:
            words += f" with {plural(len(node.tasks), 'task')}"
        return Cause("busy-node", words, node=said.subject)

    def _transfer_limit(self, task: Task, said: Waiting) -> Cause:
        state = self._context.state
        file = state.files.get(said.subject)
        holders = list(file.holders) if file is not None else []
        under_way = sum(transfer.source in holders for transfer in state.transfers.values())
        words = f"its input {said.subject} cannot be copied now"
        if holders:
            words += f": {few(holders)} may send no more at a time ({plural(under_way, 'transfer')} under way)"
        return Cause("transfer-limit", words)

    def _suspect(self, task: Task, said: Waiting) -> Cause:
        words = "it was on a node when that was lost, so it is retried alone; another such task runs first"
        return Cause("suspect", words, task.number)

    def _task(self, number: str) -> Task | None:
        try:
            return self._context.state.tasks.get(int(number))
        except ValueError:
            return None


def reasons(context: Context, tasks: Iterable[Task]) -> dict[str, list[Task]]:
    """Return tasks that could run by the scheduler's reason why they wait."""
    found: dict[str, list[Task]] = {}
    for task in tasks:
        said = context.reason(task)
        found.setdefault("unknown" if said is None else said[1].why, []).append(task)
    return found
