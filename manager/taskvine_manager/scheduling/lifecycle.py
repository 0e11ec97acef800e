"""The life of tasks, from submission to their end, and what follows for other tasks when files come or go."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from taskvine_manager.record import events as recorded
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.candidates import Candidates
from taskvine_manager.scheduling.events import Cancelled, Forgotten, Submitted
from taskvine_manager.scheduling.files import File, Origin
from taskvine_manager.scheduling.nodes import Node
from taskvine_manager.scheduling.recovery import Recovery, Unrecoverable
from taskvine_manager.scheduling.storage import Storage
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import State, Task
from taskvine_manager.wire.messages import Completion


class Lifecycle:
    """Moves tasks through their states, except to nodes, which is left to placement.

    Tasks end in a loop and not by recursion: the end of one may end a long chain of others.
    """

    def __init__(self, tables: Tables, storage: Storage, candidates: Candidates) -> None:
        self._tasks, self._graph, self._files, self._nodes = tables.tasks, tables.graph, tables.files, tables.nodes
        self._storage, self._candidates, self._outbox = storage, candidates, tables.outbox
        self._recovery = Recovery(tables)
        self._details = tables.outbox.details

    # --- submission ---

    def submit(self, event: Submitted) -> None:
        """Add tasks."""
        tasks = self._tasks
        tasks.learn(event.profiles)
        ranked = []
        for invocation in event.invocations:
            task = tasks.add(invocation)
            if not task.files and not task.makes:
                tasks.ready(task)
            elif self._enter(task):
                ranked.append(invocation.number)
        self._rank(ranked)

    def _enter(self, task: Task) -> bool:
        """Add a task that reads or produces files; return whether it is now in the graph."""
        number = task.invocation.number
        try:
            ready = self._graph.add(number, task.files, task.makes)
        except ValueError as error:
            task.files = ()
            self.end(task, "file-lost", str(error), name=next(iter(task.makes), ""))
            return False
        self._storage.add_consumer(task)
        self._storage.expect_outputs(task)
        if ready:
            self._tasks.ready(task)
        elif self._recreate_inputs(task):
            self._tasks.add_ahead((number,))
        return task.state is not State.DONE

    def _rank(self, numbers: list[int]) -> None:
        if not numbers:
            return
        for number, rank in self._graph.rank(numbers).items():
            if (task := self._tasks.get(number)) is not None and task.path != task.depth + rank:
                task.path = task.depth + rank
                if task.state is State.READY:
                    self._tasks.queues[task.shape].push(task)

    # --- tasks on nodes ---

    def complete(self, node: Node, task: Task, completion: Completion) -> None:
        """End a task as its node reports, or retry it if it could not read a file that exists or can be recreated."""
        if completion.outcome == failure.LOST and task.files and self._read_again(node, task, completion):
            return
        is_yielding = completion.number in node.yielding
        self.unassign(node, task)
        if is_yielding and completion.outcome == failure.LOST:
            self.requeue(task, "yielded")
            return
        unrecoverable = self._leave(task)
        if task.origin is None:
            self._outbox.finish(completion)
        elif completion.outcome != failure.RETURNED:
            unrecoverable += self._recovery.failed(task, failure.brief(completion.body))
        if unrecoverable:
            self._give_up(unrecoverable)

    def _read_again(self, node: Node, task: Task, completion: Completion) -> bool:
        """Drop the replica that a task could not read; retry the task, unless the file is lost for good.

        Return False, without any change, if the failure names none of the task's input files.
        """
        name = failure.lost_file(completion.body)
        if name is None or name not in task.files:
            return False
        transfer = node.fetching.get(name)
        source = transfer.source if transfer is not None else node.info.name
        self.unassign(node, task)
        self.lost(self._storage.unreadable(source, self._files[name]))
        if task.state is not State.DONE:
            self.requeue(task, "unreadable")
        return True

    def unassign(self, node: Node, task: Task) -> None:
        """Take a task from its node."""
        unread = node.give(task)
        if unread:
            self._storage.end_transfers(node, unread)
        self._candidates.open(node)

    def requeue(self, task: Task, why: str) -> None:
        """Queue a task that was on a node for another attempt, once its inputs exist; ``why`` is for the record."""
        if self._details is not None:
            self._details.append(recorded.Requeued(task.invocation.number, why, task.attempts))
        if not task.files or self._graph.is_ready(task.invocation.number):
            self._tasks.ready(task)
            return
        self._tasks.move(task, State.WAITING)
        self._recreate_inputs(task)

    # --- files come and go ---

    def made(self, names: list[str]) -> None:
        """Ready the tasks for which files that have become available were the last missing ones."""
        names = [name for name in names if (file := self._files.get(name)) is not None and file.is_there]
        for number in self._graph.made(names):
            task = self._tasks[number]
            if task.state is State.WAITING:
                self._tasks.ready(task)
        self._storage.publish(names)

    def fetched(self, name: str) -> None:
        """Handle a new replica: it is as good as the one from which it was copied, and may make others redundant."""
        self.made([name])  # if the source node has left, the file was lost until now
        self._cancel_useless(name)
        self._storage.replication.trim(name)

    def lost(self, files: list[File], *, evicted: bool = False) -> None:
        """Handle files whose last replica is gone: recreate those that are needed, in one plan."""
        if not files:
            return
        for file in files:
            for number in self._graph.lost(file.name):
                task = self._tasks[number]
                if task.state is State.READY:
                    self._tasks.move(task, State.WAITING)
        self.recreate(self._recovery.due(files, evicted=evicted))
        for file in files:
            self._storage.remove_unneeded([file.name])

    def unreadable(self, file: File, problem: str) -> None:
        """End the ready tasks that need a file which exists but cannot be copied."""
        for task in self._consumers(file.name, State.READY):
            self.end(task, "file-unreadable", f"it cannot be copied: {problem}", name=file.name)

    def forget(self, event: Forgotten) -> None:
        """End the tasks that wait for files which the user has forgotten, and recoveries of these files."""
        for name in event.files:
            file = self._storage.forget(name)
            if file is None:
                continue
            if file.named:
                for task in self._consumers(name, State.WAITING, State.READY):
                    if task.origin is None:
                        self.end(task, "file-lost", f"{name} was forgotten", name=name)
            self._cancel_useless(name)
        self._storage.remove_unneeded(event.files)

    def _consumers(self, name: str, *states: State) -> Iterable[Task]:
        """Yield the tasks that read a file and are in certain states, except those that end in the meantime."""
        for number in self._graph.consumers(name):
            task = self._tasks.get(number)
            if task is not None and task.state in states:
                yield task

    # --- recovery ---

    def recreate(self, files: Iterable[File]) -> bool:
        """Recreate missing files; end the tasks that wait for one that cannot be recreated. Return whether all can."""
        origins, unrecoverable = self._recovery.plan(files)
        for origin in origins:
            self._run_again(origin)
        if unrecoverable:
            self._give_up(unrecoverable)
        return not unrecoverable

    def _recreate_inputs(self, task: Task) -> bool:
        return self.recreate(self._files[name] for name in self._graph.missing(task.invocation.number))

    def _run_again(self, origin: Origin) -> None:
        """Run a finished task again, for its files."""
        self._outbox.run_again(origin.invocation.number)
        task = self._tasks.recreate(origin)
        number = task.invocation.number
        if self._details is not None:
            lost = [file for name in origin.files if not (file := self._files[name]).is_there]
            files = [(file.name, file.lost_with or "") for file in lost]
            self._details.append(recorded.Recovery(number, origin.invocation.number, files))
        self._storage.add_consumer(task)
        ready = self._graph.add(number, task.files, task.makes)
        self._rank([number])
        if ready:
            self._tasks.ready(task)

    def _cancel_useless(self, name: str) -> None:
        """Cancel the tasks that recreate a file if none of their outputs is needed any more."""
        for task in self._recovery.useless(name):
            self._cancel(task)

    def _give_up(self, unrecoverable: list[Unrecoverable]) -> None:
        """End the tasks and requests that wait for files, and those that wait for the files of these tasks."""
        left = deque(unrecoverable)
        while left:
            file, reason, problem = left.popleft()
            node = problem.lost_with or ""
            for task in self._consumers(file.name, State.WAITING, State.READY):
                left += self._fail(task, "file-lost", reason, node=node, name=problem.name)
            if file.asked:
                self._storage.refuse(file, failure.lost("file-lost", reason, node=node or None, name=problem.name))

    # --- ends ---

    def cancel(self, event: Cancelled) -> None:
        """End tasks whose outcome is not awaited any more."""
        for number in event.numbers:
            if (task := self._tasks.get(number)) is not None:
                self._cancel(task)

    def _cancel(self, task: Task) -> None:
        self._kill(task)
        self._give_up(self._leave(task))

    def _kill(self, task: Task) -> None:
        """Take a task from its node, if it is on one."""
        if task.node is not None:
            self._outbox.kill(task.node, task.invocation.number)
            # Free its share of the node now: the node may never report a task that had not started.
            self.unassign(self._nodes[task.node], task)

    def end(self, task: Task, kind: str, reason: str, node: str = "", **fields: Any) -> None:
        """End a task as lost, without a completion from a node."""
        self._give_up(self._fail(task, kind, reason, node, **fields))

    def _fail(self, task: Task, kind: str, reason: str, node: str = "", **fields: Any) -> list[Unrecoverable]:
        """End a task as lost; return the files that no task produces any more although they are waited for."""
        unrecoverable = self._leave(task)
        if task.origin is not None:
            return unrecoverable + self._recovery.failed(task, reason)
        record = failure.lost(kind, reason, node=node or None, **fields)
        self._outbox.finish(Completion(task.invocation.number, failure.LOST, record, node, 0.0, 0.0, 0.0))
        return unrecoverable

    def _remove(self, task: Task) -> None:
        self._tasks.remove(task)
        if task.origin is not None and self._details is not None:
            self._details.append(recorded.RecoveryEnded(task.invocation.number))

    def _leave(self, task: Task) -> list[Unrecoverable]:
        """Remove a task that is over, with the tasks that recreate files for it alone.

        Return the files that are asked for and no task produces any more.
        """
        self._remove(task)
        unmade: list[Unrecoverable] = []
        over = [task]
        while over:
            task = over.pop()
            self._storage.release(task)
            if not task.files and not task.makes:
                continue
            self._graph.prune(task.invocation.number)
            for name in task.files:
                for useless in self._recovery.useless(name):
                    self._kill(useless)
                    self._remove(useless)
                    over.append(useless)
                self._storage.replication.trim(name)
            for file in self._storage.remove_unneeded((*task.files, *task.makes)):
                unmade.append(Unrecoverable(file, f"{file.name} was not made", file))
        return unmade
