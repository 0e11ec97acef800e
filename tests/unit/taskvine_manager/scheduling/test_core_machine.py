"""The scheduler driven by random events, beside a model of nodes that carry out its instructions."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, assume, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core
from taskvine_manager.scheduling.events import (
    RELAY,
    Answer,
    Asked,
    Cancelled,
    Completed,
    Crowded,
    Discard,
    Drop,
    Event,
    Fetch,
    FileCached,
    FileSpoiled,
    Finish,
    Forgotten,
    Full,
    InputCached,
    InputCopy,
    Kill,
    NodeDraining,
    NodeJoined,
    NodeLeft,
    Relay,
    Relayed,
    Release,
    Replica,
    Returned,
    Run,
    RunAgain,
    Submitted,
    Tuned,
)
from taskvine_manager.scheduling.tables import Settings
from taskvine_manager.scheduling.tasks import State, Task
from taskvine_manager.wire.messages import L1, L2, Completion, FileUse, Invocation, Library, NodeInfo, Profile

CORES, MEMORY = 4.0, 100.0
SIZE = 10
PROFILES = (
    Profile(0, "f", "plain", L2, None, None, None, None, 0.0, "short"),
    Profile(1, "f", "two", L2, 2.0, 30.0, None, None, 0.0, "long"),
    Profile(2, "f", "task", L1, 1.0, None, None, None, 0.0, "long"),
    Profile(3, "f", "urgent", L2, 1.0, None, None, None, 5.0, "long"),
    Profile(4, "f", "whole", L1, 4.0, None, None, None, 0.0, "long"),
    Profile(5, "f", "oversized", L2, 8.0, None, None, None, 0.0, "long"),
    Profile(6, "f", "once", L2, None, None, None, None, 0.0, "long", False),
    Profile(7, "f", "model", L2, None, None, None, None, 0.0, "short", library=Library("model", 1, None, 1)),
    Profile(8, "f", "other", L2, None, None, None, None, 0.0, "long", library=Library("other", None, MEMORY / 2, 0.5)),
    Profile(9, "f", "part", L2, None, None, None, 0.4, 0.0, "short"),
    Profile(10, "f", "model", L1, None, None, None, None, 0.0, "long", gpu_memory=600.0),
)
GOOD = [profile for profile in PROFILES if profile.number != 5]
RAISED = failure.raised(ValueError("not this time"), ())
SECONDS = {"short": 0.005, "long": 1.0}
TUNED = {
    "temp-replica-count": [1, 2, 3],
    "transfer-replica-per-cycle": [1, 10],
    "transfer-temps-recovery": [0, 1],
    "clean-redundant-replicas": [0, 1],
    "immediate-recovery": [0, 1],
    "worker-source-max-transfers": [1, 2, 10],
    "file-source-max-transfers": [1, 2],
    "shift-disk-load": [0, 1],
    "proportional-resources": [0, 1],
    "proportional-whole-tasks": [0, 1],
    "resource-submit-multiplier": [1, 1.5, 3],
    "default-transfer-rate": [1, 1e9],
    "executor.prefetch": [0, 0.02],
    "executor.weight-transfer": [0, 1],
    "executor.weight-wait": [0, 1, 1000],
}


def file_use(name: str) -> FileUse:
    return FileUse(name.rstrip("0123456789"), name, name)


class Work:
    """A task that was sent to a node, and the values that were sent with it."""

    def __init__(self, task: Task, run: Run) -> None:
        self.invocation = task.invocation
        self.profile = task.profile
        self.run = run

    def follows(self, file: str) -> bool:
        """Whether it was sent to the node where one of its inputs is being made."""
        return file not in self.run.sources and FileUse("value", file, file) in self.invocation.inputs


class ModelNode:
    """What a node holds and does, from its own point of view."""

    def __init__(self) -> None:
        self.running: dict[int, Work] = {}
        self.killed: dict[int, Work] = {}
        self.files: set[str] = set()
        self.vanished: set[str] = set()
        """The files that the node believes to have."""
        self.recent: set[str] = set()
        self.inputs: list[tuple[str, InputCopy | None]] = []
        self.fetches: list[tuple[str, Replica]] = []
        self.released = False


class SchedulerMachine(RuleBasedStateMachine):
    """Rules are possible events. Invariants hold after each rule; the scheduler checks its own after each event."""

    details = False
    """Whether the scheduler returns details for the record of the run."""

    @initialize(
        max_retries=st.sampled_from([None, 0, 1, 2]),
        uniform=st.booleans(),
        wait_for_nodes=st.sampled_from([0, 0, 2]),
        peers=st.sampled_from([True, True, False]),
        disk=st.sampled_from([1000.0, 1000.0, 3 * SIZE / (1 << 20)]),
    )
    def begin(self, max_retries: int | None, uniform: bool, wait_for_nodes: int, peers: bool, disk: float) -> None:
        self.core = core.Scheduler(
            Settings(
                max_retries=max_retries,
                uniform=uniform,
                wait_for_nodes=wait_for_nodes,
                peer_transfers=peers,
                details=self.details,
            ),
            check=True,
        )
        self.uniform = uniform
        self.wait_for_nodes = wait_for_nodes
        self.peers = peers
        self.disk = disk
        self.nodes: dict[str, ModelNode] = {}
        self.joined = 0
        self.numbers = itertools.count()
        self.submitted: dict[int, Invocation] = {}
        self.finished: Counter[int] = Counter()
        self.succeeded: set[int] = set()
        self.cancelled: set[int] = set()
        self.promised: list[str] = []
        self.forgotten: set[str] = set()
        self.inline: set[str] = set()
        self.relay: set[str] = set()
        self.relays: list[tuple[str, Replica]] = []
        self.copied: set[str] = set()
        """Files that the manager has copied without being told so yet."""
        self.discarded: set[str] = set()
        self.asked: dict[int, str] = {}
        self.answered: set[int] = set()
        self.told_full: list[str] = []
        self.limits = {
            "worker-source-max-transfers": 10,
            "file-source-max-transfers": 1,
            "resource-submit-multiplier": 1,
        }
        self.handle(Submitted(PROFILES, []))

    # --- the shell ---

    def handle(self, event: Event) -> None:
        for instruction in self.core.handle(event):
            getattr(self, "do_" + type(instruction).__name__.lower())(instruction)

    def do_run(self, run: Run) -> None:
        node = self.nodes[run.node]
        assert not node.released, "a node that was let go is given work"
        assert not self.core.nodes[run.node].draining, "a draining node is given work"
        for source in run.sources.values():
            self.see_source(run.node, source)
        for path, copy in run.copies.items():
            assert self.peers
            assert copy.node in self.nodes
            assert copy.node != run.node
            assert path == copy.name
        for task in run.tasks:
            number = task.invocation.number
            assert not any(number in other.running for other in self.nodes.values()), f"{number} is given out twice"
            assert number not in self.cancelled
            assert not self.finished[number]
            assert task.invocation.arguments not in self.discarded, f"the arguments of {number} are gone"
            node.running[number] = Work(task, run)
            for use in task.invocation.inputs:
                if use.kind == "local":
                    node.inputs.append((use.source, run.copies.get(use.source)))

    def see_source(self, target: str, source: Replica) -> None:
        assert source.node != target, "a node is to copy from itself"
        if self.peers:
            assert source.node in self.nodes, "a node is to copy from one that has gone"
        else:
            assert source.node == RELAY

    def do_finish(self, finish: Finish) -> None:
        for completion in finish.completions:
            assert completion.number in self.submitted
            assert completion.number not in self.cancelled, "word of a call that was cancelled"
            self.finished[completion.number] += 1
            assert self.finished[completion.number] == 1, f"{completion.number} finishes twice"
            if completion.outcome == failure.RETURNED:
                self.succeeded.add(completion.number)

    def do_runagain(self, again: RunAgain) -> None:
        for number in again.numbers:
            assert number in self.succeeded, f"{number} never returned"

    def do_fetch(self, fetch: Fetch) -> None:
        assert not self.core.nodes[fetch.node].draining, "a node that goes is to take a copy"
        self.see_source(fetch.node, fetch.source)
        self.nodes[fetch.node].fetches.append((fetch.file, fetch.source))

    def do_relay(self, relay: Relay) -> None:
        assert not self.peers
        assert relay.source.node in self.nodes
        assert relay.file not in [file for file, _ in self.relays]
        self.relays.append((relay.file, relay.source))

    def do_drop(self, drop: Drop) -> None:
        if drop.node == RELAY:
            self.relay -= set(drop.files)
        else:
            self.nodes[drop.node].files -= set(drop.files)

    def do_full(self, full: Full) -> None:
        assert full.node in self.nodes
        self.told_full.append(full.node)

    def do_kill(self, kill: Kill) -> None:
        node = self.nodes[kill.node]
        for number in kill.numbers:
            if number in node.running:  # otherwise it has just ended
                node.killed[number] = node.running.pop(number)

    def do_discard(self, discard: Discard) -> None:
        for path in discard.paths:
            assert path not in self.discarded, f"{path} is discarded twice"
            self.discarded.add(path)
            number = int(path.rpartition("/")[2])
            assert self.finished[number] or number in self.cancelled or number not in self.core.tasks

    def do_answer(self, answer: Answer) -> None:
        assert answer.request not in self.answered, "a request is answered twice"
        assert self.asked[answer.request] == answer.file
        self.answered.add(answer.request)
        assert (answer.where is None) == bool(answer.record)
        if isinstance(answer.where, Replica) and answer.where.node != RELAY:
            assert answer.where.node in self.nodes

    def do_release(self, release: Release) -> None:
        node = self.nodes[release.node]
        assert not node.running, "a node that runs something is let go"
        assert not node.released, "a node is let go twice"
        node.released = True
        staying = [name for name in self.nodes if not self.core.nodes[name].draining]
        for file in self.core.files:
            if not file.is_needed or release.node not in file.holders or file.relayed is not None:
                continue
            elsewhere = any(not self.nodes[name].released for name in file.holders)
            refused = all(name in file.refused for name in staying)
            assert elsewhere or refused, f"{file.name} goes with {release.node}"

    # --- what may happen ---

    @rule(profile=st.sampled_from(GOOD), data=st.data(), count=st.integers(1, 6), kept=st.booleans())
    def submit(self, profile: Profile, data: Any, count: int, kept: bool) -> None:
        invocations = []
        for _ in range(count):
            number = next(self.numbers)
            inputs: tuple[FileUse, ...] = ()
            outputs: tuple[FileUse, ...] = ()
            if count <= 3:  # in a large batch, the tasks have no files
                wanted = data.draw(st.sets(st.sampled_from(self.promised), max_size=2)) if self.promised else set()
                inputs = tuple(file_use(name) for name in sorted(wanted))
                if path := data.draw(st.sampled_from(["", "", "", "", "/user/x", "/user/y"])):
                    inputs = (*inputs, FileUse("local", "x", path))
                for kind in data.draw(st.sampled_from([[], ["value"], ["temp"], ["temp", "value"], ["temp", "temp"]])):
                    name = f"{kind}{number}" if len(outputs) == 0 else f"{kind}{number}00000"
                    self.promised.append(name)
                    replicas = data.draw(st.sampled_from([0, 0, 2])) if kind == "temp" else 0
                    outputs = (*outputs, file_use(name)._replace(replicas=replicas))
            arguments: bytes | str = f"/arguments/{number}" if kept else b""
            invocation = Invocation(number, profile.number, arguments, inputs, outputs)
            self.submitted[number] = invocation
            invocations.append(invocation)
        self.handle(Submitted((), invocations))

    @rule()
    def submit_oversized(self) -> None:
        number = next(self.numbers)
        self.submitted[number] = Invocation(number, 5, b"")
        self.handle(Submitted((), [self.submitted[number]]))
        if self.uniform and self.nodes:
            assert self.finished[number] == 1

    @precondition(lambda self: any(self.over_without(name) for name in self.promised))
    @rule(data=st.data())
    def submit_maker_again(self, data: Any) -> None:
        self.try_again(data.draw(st.sampled_from([name for name in self.promised if self.over_without(name)])))

    def try_again(self, name: str) -> None:
        number = next(self.numbers)
        self.submitted[number] = Invocation(number, 0, b"", (), (file_use(name),))
        self.handle(Submitted((), [self.submitted[number]]))

    def over_without(self, name: str) -> bool:
        """Whether all tasks that make a file have ended without success: then Parsl may retry one."""
        makers = [item for item in self.submitted.values() if any(use.source == name for use in item.outputs)]
        over = all(self.finished[item.number] or item.number in self.cancelled for item in makers)
        return over and not any(item.number in self.succeeded for item in makers) and name not in self.forgotten

    @precondition(lambda self: len(self.nodes) < 5)
    @rule(slots=st.sampled_from([None, None, 2]))
    def join(self, slots: int | None) -> None:
        name = f"n{self.joined}"
        self.joined += 1
        self.nodes[name] = ModelNode()
        info = NodeInfo(name, CORES, MEMORY, self.disk, 1, None if self.uniform else slots, "", 0, "/", (1000.0,))
        self.handle(NodeJoined(info))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), told=st.booleans())
    def leave(self, data: Any, told: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        del self.nodes[name]
        self.handle(NodeLeft(name, "its connection ended", told))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def drain(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        self.handle(NodeDraining(name))

    def draw_node(self, data: Any, attribute: str) -> str:
        names = [name for name, node in sorted(self.nodes.items()) if getattr(node, attribute)]
        return str(data.draw(st.sampled_from(names)))

    @precondition(lambda self: any(node.running for node in self.nodes.values()))
    @rule(data=st.data(), good=st.sampled_from([True, True, True, False]), large=st.booleans(), count=st.integers(1, 4))
    def complete(self, data: Any, good: bool, large: bool, count: int) -> None:
        name = self.draw_node(data, "running")
        self.complete_on(name, list(self.nodes[name].running)[:count], good=good, large=large)

    def complete_on(self, name: str, numbers: list[int], *, good: bool = True, large: bool = True) -> None:
        node = self.nodes[name]
        completions: list[Completion] = []
        while node.inputs:
            self.input_on(name)
        for number in numbers:
            if number not in node.running:
                continue
            missing = self.stage_in(name, node.running[number])
            if number not in node.running:
                continue  # the lost files had it cancelled
            work = node.running[number]
            if missing is not None and work.follows(missing) and missing not in node.vanished:
                # The task that makes it has not made it here, so the node gives the task back.
                if completions:
                    done, completions = completions, []
                    self.handle(Completed(name, done))
                if node.running.pop(number, None) is not None:
                    self.handle(Returned(name, (number,)))
                continue
            completions.append(self.end_of(name, work, missing, good=good, large=large))
            del node.running[number]
        self.handle(Completed(name, completions))

    def end_of(self, name: str, work: Work, missing: str | None, *, good: bool, large: bool) -> Completion:
        node, invocation = self.nodes[name], work.invocation
        made: list[tuple[str, int, int]] = []
        outcome, body = (failure.RETURNED, b"small") if good else (failure.RAISED, RAISED)
        if missing is not None:
            outcome, body = failure.LOST, failure.lost("file-lost", "no replica could be read", name=missing)
        elif good:
            for use in invocation.outputs:
                if use.kind == "temp" or large:
                    node.files.add(use.source)
                    made.append((use.source, self.size_on(name), 1))
                else:
                    node.recent.add(use.source)
        where: bytes | str = "elsewhere" if large and good and missing is None else body
        seconds = SECONDS[work.profile.category]
        return Completion(invocation.number, outcome, where, name, 1.0, 1.0, seconds, tuple(made))

    def size_on(self, name: str) -> int:
        """A task that runs again makes a file of another size."""
        return SIZE + int(name[1:]) % 3

    def stage_in(self, name: str, work: Work) -> str | None:
        """Bring the inputs of a task to its node; return the missing ones."""
        node, run = self.nodes[name], work.run
        for use in work.invocation.inputs:
            file = use.source
            if use.kind == "local" or file in node.files or file in run.values or file in node.recent:
                continue
            replica = run.sources.get(file)
            if replica is None or not self.is_at(replica.node, file):
                return file
            node.files.add(file)
            self.handle(FileCached(name, file, SIZE, None, 1, source=replica.node))
        return None

    def is_at(self, place: str, file: str) -> bool:
        if place == RELAY:
            return file in self.relay
        return place in self.nodes and file in self.nodes[place].files

    @precondition(lambda self: any(node.inputs for node in self.nodes.values()))
    @rule(data=st.data(), good=st.sampled_from([True, True, True, False]))
    def input_comes(self, data: Any, good: bool) -> None:
        self.input_on(self.draw_node(data, "inputs"), good=good)

    def input_on(self, name: str, *, good: bool = True) -> None:
        path, _ = self.nodes[name].inputs.pop(0)
        self.handle(InputCached(name, path, SIZE if good else 0, path if good else "", (1,) if good else ()))

    @precondition(lambda self: any(node.running for node in self.nodes.values()))
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        name = self.draw_node(data, "running")
        numbers = list(self.nodes[name].running)[1:]
        for number in numbers:
            del self.nodes[name].running[number]
        self.handle(Returned(name, tuple(numbers)))

    @precondition(lambda self: any(node.killed for node in self.nodes.values()))
    @rule(data=st.data(), heard=st.booleans())
    def killed(self, data: Any, heard: bool) -> None:
        name = self.draw_node(data, "killed")
        number, work = self.nodes[name].killed.popitem()
        if heard:  # it ran; it may even have ended well before the message came
            made = tuple((use.source, self.size_on(name), 1) for use in work.invocation.outputs)
            self.nodes[name].files.update(file for file, _, _ in made)
            self.handle(Completed(name, [Completion(number, failure.RETURNED, b"", name, 1.0, 1.0, 1.0, made)]))

    @precondition(lambda self: any(node.fetches for node in self.nodes.values()))
    @rule(data=st.data(), room=st.sampled_from([True, True, True, False]))
    def cached(self, data: Any, room: bool) -> None:
        self.fetch_on(self.draw_node(data, "fetches"), room=room)

    def fetch_on(self, name: str, *, room: bool = True) -> None:
        node = self.nodes[name]
        file, source = node.fetches.pop(0)
        problem, spoiled = None, False
        if file not in node.files:
            if not room:
                problem = "No space left on device"
            elif not self.is_at(source.node, file):
                problem, spoiled = "No such file or directory", True
            else:
                node.files.add(file)
        event = FileCached(name, file, 0 if problem else SIZE, problem, 1, spoiled=spoiled, source=source.node)
        self.handle(event)

    @precondition(lambda self: self.relays)
    @rule()
    def copied_for_the_manager(self) -> None:
        file, source = self.relays[0]
        if self.is_at(source.node, file):
            self.copied.add(file)

    @precondition(lambda self: self.relays)
    @rule(room=st.sampled_from([True, True, True, False]))
    def relayed(self, room: bool) -> None:
        self.relay_now(room=room)

    def relay_now(self, *, room: bool = True) -> None:
        file, source = self.relays.pop(0)
        good = file in self.copied or (self.is_at(source.node, file) and room)
        self.copied.discard(file)
        if good:
            self.relay.add(file)
        self.handle(Relayed(file, 1, None if good else "it could not be read"))

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        numbers = data.draw(st.sets(st.sampled_from(sorted(self.submitted)), min_size=1, max_size=3))
        self.cancel_now(numbers)

    def cancel_now(self, numbers: set[int]) -> None:
        self.cancelled.update(number for number in numbers if not self.finished[number])
        self.handle(Cancelled(tuple(sorted(numbers))))

    @precondition(lambda self: self.promised)
    @rule(data=st.data())
    def forget(self, data: Any) -> None:
        self.forget_now(data.draw(st.sampled_from(self.promised)))

    def forget_now(self, name: str) -> None:
        self.forgotten.add(name)
        self.promised.remove(name)
        self.handle(Forgotten((name,)))

    @precondition(lambda self: any(node.files for node in self.nodes.values()))
    @rule(data=st.data())
    def file_vanishes(self, data: Any) -> None:
        name = self.draw_node(data, "files")
        file = data.draw(st.sampled_from(sorted(self.nodes[name].files)))
        self.nodes[name].files.discard(file)
        self.nodes[name].vanished.add(file)

    @precondition(lambda self: any(node.files for node in self.nodes.values()))
    @rule(data=st.data())
    def file_is_spoiled(self, data: Any) -> None:
        name = self.draw_node(data, "files")
        file = data.draw(st.sampled_from(sorted(self.nodes[name].files)))
        self.nodes[name].files.discard(file)
        self.handle(FileSpoiled(name, file, 1))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), size=st.sampled_from([1, SIZE, 5 * SIZE]))
    def crowded(self, data: Any, size: int) -> None:
        busy = sorted(name for name in self.nodes if name in self.core.nodes and self.core.nodes[name].assigned)
        assume(busy)
        name = data.draw(st.sampled_from(busy))
        node = self.core.nodes[name]
        number = data.draw(st.sampled_from(sorted(node.assigned)))
        before = len(node.files)
        self.told_full = []
        kept = {file.name for file in self.core.files if file.holders and (file.asked or not file.recoverable)}
        self.handle(Crowded(name, number, size))
        others = set(node.assigned) - set(node.crowded)
        assert len(node.files) < before or self.told_full == [name] or others, "it waits for ever"
        assert all(file.holders or file.name not in kept for file in self.core.files)

    @precondition(lambda self: self.made())
    @rule(data=st.data())
    def ask(self, data: Any) -> None:
        request = len(self.asked)
        self.asked[request] = data.draw(st.sampled_from(self.made()))
        self.handle(Asked(request, self.asked[request]))

    def made(self) -> list[str]:
        """Files that the user knows to exist: Parsl waits for that before it asks for them."""
        made = {use.source for number in self.succeeded for use in self.submitted[number].outputs}
        return [name for name in self.promised if name in made]

    @rule(name=st.sampled_from(sorted(TUNED)), data=st.data())
    def tune(self, name: str, data: Any) -> None:
        number = data.draw(st.sampled_from(TUNED[name]))
        if name in self.limits:  # tasks that began under a higher limit go on
            self.limits[name] = max(self.limits[name], number)
        self.handle(Tuned({name: float(number)}))

    # --- what must hold ---

    @invariant()
    def views_agree(self) -> None:
        assert set(self.core.nodes) == set(self.nodes)
        for name, node in self.core.nodes.items():
            assert set(node.assigned) == set(self.nodes[name].running)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        alive = {number for number in self.submitted if not self.finished[number] and number not in self.cancelled}
        tasks = self.core.tasks
        assert {number for number in tasks if number >= 0} == alive
        own = Counter(task.state for task in tasks.values() if task.origin is None)
        ready = sum(task.state is State.READY for task in tasks.values())
        assert (self.core.waiting, self.core.ready) == (own[State.WAITING], ready)

    @invariant()
    def long_calls_fit(self) -> None:
        for node in self.core.nodes.values():
            long = [task.profile for task in node.assigned.values() if task.profile.category == "long"]
            assert sum(profile.cores or 1.0 for profile in long) <= CORES * self.limits["resource-submit-multiplier"]
            assert sum(profile.memory or 0.0 for profile in long) <= MEMORY * self.limits["resource-submit-multiplier"]

    @invariant()
    def nothing_runs_before_enough_nodes_have_joined(self) -> None:
        if self.joined < self.wait_for_nodes:
            assert not any(node.assigned for node in self.core.nodes.values())

    @invariant()
    def views_of_replicas_agree(self) -> None:
        stats = self.core.stats()
        assert stats["bytes_stored"] == sum(node.used for node in self.core.nodes.values())
        assert set(stats["replicas"]) == {file.name for file in self.core.files if file.holders}

    @invariant()
    def what_is_forgotten_is_not_wanted(self) -> None:
        assert not [file.name for file in self.core.files if file.name in self.forgotten and file.wanted]

    @invariant()
    def transfers_are_within_their_limits(self) -> None:
        for known in self.core.parts.storage.inputs.by_path.values():
            reading = sum(source == RELAY for source in known.coming.values())
            assert reading <= self.limits["file-source-max-transfers"]
        assert sorted(self.core.parts.storage.transfers.relays) == sorted(file for file, _ in self.relays)
        sending = [node.sending for node in self.core.nodes.values()]
        assert max([*sending, self.core.parts.storage.transfers.relaying]) <= self.limits["worker-source-max-transfers"]

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        self.uniform = True
        for _ in range(max(1, self.wait_for_nodes - self.joined)):
            if len(self.nodes) < 8:
                self.join(None)
        self.work_until_quiet()
        # No task will make the files that these wait for, so the user's process cancels them.
        stuck = {number for number, task in self.core.tasks.items() if task.state is State.WAITING and number >= 0}
        never = {number for number, task in self.core.tasks.items() if task.profile.number == 5}
        self.cancel_now(stuck | never)
        self.work_until_quiet()
        assert not self.core.tasks, self.core.tasks[next(iter(self.core.tasks))].state
        for number in self.submitted:
            assert self.finished[number] == (number not in self.cancelled)
        for request, name in self.asked.items():
            assert request in self.answered, f"{name} was asked for, and nobody answers"
        for name in list(self.promised):
            self.forget_now(name)
        self.work_until_quiet()
        self.all_is_gone()

    def all_is_gone(self) -> None:
        """Check that nothing is left after everything has been forgotten and no task runs."""
        assert not self.core.tasks
        assert not [file.name for file in self.core.files]
        assert not self.relay
        assert self.core.ready == self.core.waiting == 0
        for name, node in self.core.nodes.items():
            assert not any((node.assigned, node.shapes, node.fetching, node.sending, node.reads)), name
            assert not any((node.files, node.used)), name
            assert not self.nodes[name].files or self.nodes[name].killed
        graph = self.core.parts.tables.graph
        assert not any((graph.size, graph.lacking, graph.available, graph.ranks))
        kept = {item.arguments for item in self.submitted.values() if isinstance(item.arguments, str)}
        assert kept == self.discarded

    def work_until_quiet(self) -> None:
        busy = True
        rounds = 0
        while busy:
            rounds += 1
            assert rounds < 200, "it never comes to rest"
            busy = False
            while self.relays:
                busy = True
                self.relay_now()
            for name, node in list(self.nodes.items()):
                while node.fetches:
                    busy = True
                    self.fetch_on(name)
                while node.inputs:
                    busy = True
                    self.input_on(name)
                if node.running:
                    busy = True
                    self.complete_on(name, list(node.running))
                if node.released:
                    del self.nodes[name]
                    self.handle(NodeLeft(name, "it was let go", told=True))
                    busy = True
            self.views_agree()
            self.nothing_is_forgotten()


SchedulerMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestScheduler = SchedulerMachine.TestCase
