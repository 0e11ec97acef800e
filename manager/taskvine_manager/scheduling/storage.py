"""Temp files and results: what tasks and the user need, what is stored of it, and what may be removed.

Storage is the only part that changes the records of files, together with the parts that it consists of: replicas,
transfers and replication.
"""

from __future__ import annotations

from collections.abc import Iterable

from taskvine_manager.record import events as recorded
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import RELAY, Answer, FileCached, FileSpoiled
from taskvine_manager.scheduling.files import File, Origin
from taskvine_manager.scheduling.inputs import Inputs
from taskvine_manager.scheduling.nodes import Node
from taskvine_manager.scheduling.replicas import Replicas
from taskvine_manager.scheduling.replication import Replication
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import Task
from taskvine_manager.scheduling.transfers import Transfers
from taskvine_manager.wire.messages import Completion


class Storage:
    """Records of files."""

    def __init__(self, tables: Tables) -> None:
        self.replicas = Replicas(tables)
        self.transfers = Transfers(tables, self.replicas)
        self.replication = Replication(tables, self.replicas, self.transfers)
        self.inputs = Inputs(tables, self.transfers)
        self._files, self._nodes, self._graph = tables.files, tables.nodes, tables.graph
        self._outbox, self._tuning = tables.outbox, tables.tuning
        self._details = tables.outbox.details

    # --- nodes ---

    def join(self, node: Node) -> None:
        """Add a node."""
        self._nodes[node.info.name] = node
        self.replication.join(node.info.name)

    def leave(self, name: str) -> list[File]:
        """Remove a node; return the files that were lost with it."""
        node = self._nodes.pop(name)
        self.replication.leave(name)
        for coming, transfer in list(node.fetching.items()):
            self.transfers.end(node, coming)
            self.replication.end_move(coming)
            if not transfer.for_task and (file := self._files.get(coming)) is not None:
                self.replication.note(file)
        for other in self._nodes.values():  # replicas that were being copied from it are copied from elsewhere
            for coming, transfer in list(other.fetching.items()):
                if transfer.source == name and not transfer.for_task:
                    self.transfers.end(other, coming)
                    if (file := self._files.get(coming)) is not None:  # None: it was forgotten during the transfer
                        self.replication.note(file)
        self.inputs.leave(name)
        held = self.replicas.leave(node)
        if self._tuning.transfer_temps_recovery:
            for file in held:
                self.replication.note(file)
        return [file for file in held if not file.is_there]

    # --- tasks ---

    def add_consumer(self, task: Task) -> None:
        """Count a task as a consumer of its inputs, so that they are kept until :meth:`release`."""
        for name in task.files:
            file = self._files[name]
            file.consumers += 1
            task.depth = max(task.depth, file.depth + 1)

    def expect_outputs(self, task: Task) -> None:
        """Record what the outputs of a new task are."""
        for use in task.invocation.outputs:
            if use.kind != "local":
                file = self._files[use.source]
                file.depth = task.depth
                file.recoverable = task.profile.recoverable
                file.replicas = use.replicas
                file.named = use.kind == "temp"

    def record_outputs(self, node: Node, task: Task | None, completion: Completion) -> list[str]:
        """Record the files that a task produced, and how to recreate them.

        Parameters
        ----------
        node : Node
            The node that ran the task.
        task : Task or None
            The task; None if it was cancelled in the meantime.
        completion : Completion
            How it ended.

        Returns
        -------
        list of str
            The files and results that are available now.
        """
        made = []
        for name, size, stamp in completion.made:
            file = self._files.get(name)
            if file is None or not (file.is_needed or task is not None):
                self._outbox.drop(node.info.name, name)  # no record: forgotten while the task ran
            else:
                self.replicas.add(node, name, size, stamp)
                made.append(name)
        if task is None or completion.outcome != failure.RETURNED:
            return made
        large = list(made)
        if isinstance(completion.body, bytes):
            for use in task.invocation.outputs:
                # A task that is run again for another file may also produce a result that is already forgotten.
                if use.kind == "value" and (file := self._files.get(use.source)) is not None:
                    file.value = completion.body
                    made.append(use.source)
                    if self._details is not None:
                        self._details.append(recorded.Made(use.source, recorded.MANAGER, len(file.value)))
        if large:
            # A small result needs no origin: the manager holds it, and cannot lose it.
            origin = task.origin or Origin(task.invocation, task.profile, task.files, completion.seconds)
            for old in self._files.originate(origin, large):
                self._outbox.discard(old.invocation.arguments)
                self.remove_unneeded(self._files.release(old))
        return made

    def publish(self, names: list[str]) -> None:
        """Answer the requests for files that are available now, and have them replicated as far as wanted."""
        for name in names:
            file = self._files[name]
            self.replication.note(file)
            self.replication.balance(file)
            if file.asked:
                self._answer(file)
        self.remove_unneeded(names)

    def end_transfers(self, node: Node, names: list[str]) -> None:
        """End transfers to a node that were started for a task which has left it; ``names`` are the files it read."""
        if not node.fetching:
            return
        for name in names:
            transfer = node.fetching.get(name)
            if transfer is not None and transfer.for_task:
                self.transfers.end(node, name)
                self.replication.note(self._files[name])

    def release(self, task: Task) -> None:
        """Release the arguments and inputs of a task that is over; :meth:`remove_unneeded` then removes the files."""
        if task.origin is None:  # the origin of its files, if there is one, keeps the arguments
            invocation = task.invocation
            origins = (file.origin for name in task.makes if (file := self._files.get(name)) is not None)
            if not task.makes or not any(each is not None and each.invocation is invocation for each in origins):
                self._outbox.discard(invocation.arguments)
        for name in task.files:
            self._files[name].consumers -= 1

    # --- the end of files ---

    def remove_unneeded(self, names: Iterable[str]) -> list[File]:
        """Remove the replicas of files that are not needed any more, and the records on which nothing depends.

        Returns
        -------
        list of File
            Files that the user has asked for, that were never made, and that no task will make.
        """
        unmade: list[File] = []
        forgotten: list[str] = []
        left = list(names)
        while left:
            name = left.pop()
            file = self._files.get(name)
            if file is None:
                continue
            if file.is_needed:
                if not (file.holders or file.was_made or self._graph.makers(name)):
                    if file.asked:
                        unmade.append(file)
                    elif not (file.consumers or file.dependants):
                        self._files.drop(name)
                        forgotten.append(name)
                continue
            self._remove_bytes(file)
            if file.dependants or self._graph.makers(name):
                continue
            over, inputs = self._files.drop(name)
            forgotten.append(name)
            left += inputs
            for origin in over:
                self._outbox.discard(origin.invocation.arguments)
        if forgotten and self._details is not None:
            self._details.append(recorded.Forgotten(forgotten))
        return unmade[::-1]

    def _remove_bytes(self, file: File) -> None:
        for name in list(file.holders):
            self.replicas.drop(name, file, "unneeded")
        if file.relayed is not None:
            file.relayed = None
            self._outbox.drop(RELAY, file.name)
            self._dropped(file, recorded.RELAY)
        if file.value is not None and not file.dependants:  # dependants that run again need a small result
            file.value = None
            self._dropped(file, recorded.MANAGER)
        if not file.is_there:
            self._graph.lost(file.name)
            file.lost_with = None

    def _dropped(self, file: File, place: str, why: str = "unneeded") -> None:
        """Record that the manager has dropped what it held of a file."""
        if self._details is not None:
            self._details.append(recorded.Dropped(file.name, place, why))

    # --- replicas ---

    def cached(self, node: Node, event: FileCached) -> bool:
        """Record that a node has fetched a replica; return whether it is a new one of a file that is needed."""
        self._arrived(node, event)
        file = self._files.get(event.file)
        if file is None or not file.is_needed:
            self.replication.end_move(event.file)
            self._outbox.drop(event.node, event.file)  # forgotten during the transfer
            return False
        if event.file in node.files:
            return False
        self.transfers.measure(event.size, event.seconds)
        self.replicas.add(node, event.file, event.size, event.stamp)
        return True

    def not_cached(self, node: Node, event: FileCached) -> list[File]:
        """Record that a node failed to fetch a replica; return the file if its last replica proved to be spoiled."""
        source = self._arrived(node, event)
        file = self._files.get(event.file)
        if file is None:
            return []
        self.replication.end_move(event.file)
        lost = []
        if event.spoiled and source is not None:
            if self.replicas.remove(source, file, "spoiled"):
                lost.append(file)
        elif source in file.holders:  # otherwise the source is gone, and another may work
            file.refused[event.node] = None
        self.replication.note(file)
        return lost

    def _arrived(self, node: Node, event: FileCached) -> str | None:
        """End the transfer that an event is about; return its source."""
        transfer = node.fetching.get(event.file)
        source = event.source if event.source is not None or transfer is None else transfer.source
        if transfer is not None and transfer.source == source:  # otherwise a transfer from elsewhere has replaced it
            self.transfers.end(node, event.file, event.size, event.seconds, event.problem)
        return source

    def spoiled(self, event: FileSpoiled) -> list[File]:
        """Remove a replica that could not be read; return the file if it was the last one."""
        file = self._files.get(event.file)
        if file is None or file.holders.get(event.node) != event.stamp:
            return []  # the spoiled replica has been replaced
        if self.replicas.remove(event.node, file, "spoiled"):
            return [file]
        self.replication.note(file)
        return []

    def unreadable(self, source: str, file: File) -> list[File]:
        """Remove a replica that a task could not read, on a node or the relay; return the file if it was the last."""
        if source == RELAY and file.relayed is not None:
            file.relayed = None
            self._dropped(file, recorded.RELAY, "unreadable")
        return [file] if self.replicas.remove(source, file, "unreadable") or not file.is_there else []

    # --- the user ---

    def forget(self, name: str) -> File | None:
        """Note that the user will not ask for a file again; return its record."""
        file = self._files.get(name)
        if file is not None:
            file.wanted = False
        return file

    def ask(self, request: int, name: str) -> File | None:
        """Answer a request for a file, now or when it is available; return the file if it is missing."""
        file = self._files.get(name)
        if file is None or (not file.was_made and not self._graph.makers(name)):
            record = failure.lost("file-lost", f"{name} is on no node", name=name)
            self._outbox.add(Answer(request, name, None, record))
            return None
        file.asked.append(request)
        if not file.is_there:
            return file
        self._answer(file)
        return None

    def _answer(self, file: File) -> None:
        where = file.value if file.value is not None else self.replicas.where(file)
        asked, file.asked = file.asked, []
        for request in asked:
            self._outbox.add(Answer(request, file.name, where))

    def refuse(self, file: File, record: bytes) -> None:
        """Refuse the requests for a file that cannot be had."""
        asked, file.asked = file.asked, []
        for request in asked:
            self._outbox.add(Answer(request, file.name, None, record))
        self.remove_unneeded([file.name])

    def tuned(self) -> None:
        """Apply new values of the tuning parameters."""
        self.transfers.tuned()
        for file in self._files.values():
            if file.holders:
                file.refused.clear()
                self.replication.note(file)
                self.replication.clean(file.name)
