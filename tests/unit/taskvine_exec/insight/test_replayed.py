"""The state that is folded from a record is the scheduler's own, after each of many random events."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant

from taskvine_exec.insight.fold import Fold, read_state
from taskvine_exec.insight.state import State
from taskvine_manager.record import Recorder, Tail
from taskvine_manager.record.events import MANAGER, RELAY
from taskvine_manager.scheduling.core import Scheduler
from taskvine_manager.scheduling.events import Cancelled, Crowded, Event, Finish, Looked, Record, Submitted
from tests.unit.taskvine_manager.scheduling.test_core_machine import SchedulerMachine
from tests.unit.taskvine_manager.scheduling.world import Instructions, World


def view(state: State) -> dict[str, Any]:
    """What a folded state has in common with the scheduler's tables."""
    return {
        "tasks": {task.number: (task.state, task.node, task.attempts) for task in state.unfinished()},
        "nodes": {
            name: (node.tasks, node.files, node.draining, node.released, node.libraries)
            for name, node in state.current_nodes().items()
        },
        "files": {name: set(file.holders) for name, file in state.files.items() if file.holders},
        "transfers": {key: transfer.source for key, transfer in state.transfers.items()},
        "reading": set(state.reading),
        "inputs": {path: set(nodes) for path, nodes in state.inputs.items() if nodes},
        "counts": (state.recoveries, state.evicted),
    }


def own_view(core: Scheduler) -> dict[str, Any]:
    """The same of the scheduler."""
    storage, stats = core.parts.storage, core.stats()
    transfers = {
        (file, name): transfer.source or RELAY
        for name, node in core.nodes.items()
        for file, transfer in node.fetching.items()
    }
    transfers |= {(file, RELAY): source for file, source in storage.transfers.relays.items()}
    inputs = storage.inputs.by_path
    return {
        "tasks": {number: (task.state.value, task.node or "", task.attempts) for number, task in core.tasks.items()},
        "nodes": {
            name: (set(node.assigned), dict(node.files), node.draining, node.released, node.libraries)
            for name, node in core.nodes.items()
        },
        "files": {
            file.name: {
                *file.holders,
                *([MANAGER] if file.value is not None else []),
                *([RELAY] if file.relayed is not None else []),
            }
            for file in core.files
            if file.is_there
        },
        "transfers": transfers,
        "reading": {(path, node) for path, known in inputs.items() for node in known.coming},
        "inputs": {path: set(known.copies) for path, known in inputs.items() if known.copies},
        "counts": (stats["tasks_recovered"], stats["files_evicted"]),
    }


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
    def state_is_the_same(self) -> None:
        assert view(self.state) == own_view(self.core)

    def teardown(self) -> None:
        super().teardown()
        self.recorder.close()
        assert self.state.ended is not None
        self.tail.close()
        self.directory.cleanup()


ReplayedMachine.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestReplayed = ReplayedMachine.TestCase


class RecordedWorld(World):
    """A scheduler whose record is written, with an imagined time for each event."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 0.0
        monkeypatch.setattr("taskvine_manager.record.writer.time.time", lambda: self.clock)
        self.recorder = Recorder(str(path), details=True)
        super().__init__(details=True, max_retries=None)

    def handle(self, event: Event) -> Instructions:
        self.clock += 1.0
        if isinstance(event, Submitted):
            self.recorder.submitted(event.profiles, event.invocations)
        instructions = super().handle(event)
        for instruction in instructions:
            if isinstance(instruction, Finish):
                self.recorder.done(instruction.completions)
            elif isinstance(instruction, Record):
                self.recorder.events(instruction.events)
        return instructions


@pytest.mark.parametrize("seed", range(10))
def test_state_at_random_moments_of_a_graph_with_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Nodes are killed and their disks fill up while a random graph runs; the record is read for past moments."""
    chance = random.Random(seed)
    path = tmp_path / "record"
    world = RecordedWorld(path, monkeypatch)
    if seed % 2:
        world.replicate(2)
    for number in range(3):
        world.join(f"n{number}", disk=0.001)
    for number in range(60):
        needs = [f"f{other}" for other in chance.sample(range(number), min(number, chance.randrange(3)))]
        world.call(needs=needs, makes=[f"f{number}"])
    moments: dict[float, dict[str, Any]] = {}
    for step in range(150):
        assigned = [(node.info.name, number) for node in world.core.nodes.values() for number in node.assigned]
        if step % 10 == 9:
            world.leave(chance.choice(sorted(world.core.nodes)))
            world.join(f"n{step}", disk=0.001)
        elif assigned and step % 7 == 3:
            world.handle(Crowded(*chance.choice(assigned), 500))
        elif chance.random() < 0.3:
            world.arrive()
        elif assigned:
            world.works(chance.choice(assigned)[1], size=chance.choice([10, 100, 200]))
        moments[world.clock] = own_view(world.core)
    world.recorder.close()
    stats = world.core.stats()
    assert stats["tasks_recovered"]
    for moment in chance.sample(sorted(moments), 20):
        assert view(read_state(path, until=moment)) == moments[moment]
