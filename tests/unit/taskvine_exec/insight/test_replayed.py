"""The state that is folded from a record is the scheduler's own, after each of many random events."""

from __future__ import annotations

import os
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant

from taskvine_exec.insight.fold import Fold
from taskvine_exec.insight.state import State
from taskvine_manager.record import Recorder, Tail
from taskvine_manager.record.events import MANAGER, RELAY
from taskvine_manager.scheduling.events import Cancelled, Event, Finish, Looked, Record, Submitted
from tests.unit.taskvine_manager.scheduling.test_core_machine import SchedulerMachine


class ReplayedMachine(SchedulerMachine):
    """Writes what the manager's loop would write, and reads it after each event."""

    details = True

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        path = os.path.join(self.directory.name, "record")
        self.recorder = Recorder(path, details=True)
        self.tail = Tail(path)
        self.fold = Fold()

    def handle(self, event: Event) -> None:
        if isinstance(event, Submitted):
            self.recorder.submitted(event.profiles, event.invocations)
        elif isinstance(event, Cancelled):
            self.recorder.note("cancelled", event.numbers)
        super().handle(event)

    def do_finish(self, finish: Finish) -> None:
        super().do_finish(finish)
        self.recorder.done(finish.completions)

    def do_record(self, record: Record) -> None:
        self.recorder.events(record.events)

    @property
    def state(self) -> State:
        self.recorder.flush()
        for entry in self.tail.more():
            self.fold.take(entry)
        return self.fold.state

    @invariant()
    def reasons_are_known(self) -> None:
        """Each kind of ready task has a reason, after the shell has asked for it."""
        self.handle(Looked())
        state = self.state
        ready = {task.profile for task in state.unfinished() if task.state == "ready"}
        for profile in ready:
            shapes = {task.shape for task in self.core.tasks.values() if task.profile.number == profile}
            alike = {task.profile.number for task in self.core.tasks.values() if task.shape in shapes}
            assert alike & state.reasons.keys(), f"nothing is said of ready tasks of profile {profile}"

    @invariant()
    def tasks_are_the_same(self) -> None:
        folded = {task.number: (task.state, task.node, task.attempts) for task in self.state.unfinished()}
        own = {number: (task.state.value, task.node or "", task.attempts) for number, task in self.core.tasks.items()}
        assert folded == own

    @invariant()
    def nodes_are_the_same(self) -> None:
        state = self.state
        folded = {
            name: (node.tasks, node.files, node.draining, node.released, node.libraries)
            for name, node in state.current_nodes().items()
        }
        own = {
            name: (set(node.assigned), node.files, node.draining, node.released, node.libraries)
            for name, node in self.core.nodes.items()
        }
        assert folded == own

    @invariant()
    def files_are_the_same(self) -> None:
        folded = {name: set(file.holders) for name, file in self.state.files.items() if file.holders}
        own = {
            file.name: {
                *file.holders,
                *([MANAGER] if file.value is not None else []),
                *([RELAY] if file.relayed is not None else []),
            }
            for file in self.core.files
            if file.is_there
        }
        assert folded == own

    @invariant()
    def transfers_are_the_same(self) -> None:
        state = self.state
        own = {
            (file, name): transfer.source or RELAY
            for name, node in self.core.nodes.items()
            for file, transfer in node.fetching.items()
        }
        storage = self.core.parts.storage
        own |= {(file, RELAY): source for file, source in storage.transfers.relays.items()}
        assert {key: transfer.source for key, transfer in state.transfers.items()} == own
        inputs = storage.inputs.by_path
        assert set(state.reading) == {(path, node) for path, known in inputs.items() for node in known.coming}
        copies = {path: set(known.copies) for path, known in inputs.items() if known.copies}
        assert {path: set(nodes) for path, nodes in state.inputs.items() if nodes} == copies

    @invariant()
    def counts_are_the_same(self) -> None:
        stats, state = self.core.stats(), self.state
        assert (state.recoveries, state.evicted) == (stats["tasks_recovered"], stats["files_evicted"])

    def teardown(self) -> None:
        super().teardown()
        self.recorder.close()
        assert self.state.ended is not None
        self.tail.close()
        self.directory.cleanup()


ReplayedMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestReplayed = ReplayedMachine.TestCase
