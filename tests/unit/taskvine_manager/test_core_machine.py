"""The scheduler driven by random events, beside a model of nodes that do what they are told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskvine_manager.embedded import core
from taskvine_manager.messages import L1, L2, Completion, FileUse, Invocation, NodeInfo, Profile
from taskvine_manager.runtime import failure

CORES, MEMORY = 4.0, 100.0
PROFILES = (
    Profile(0, "f", "plain", L2, None, None, None, None, 0.0, "short"),
    Profile(1, "f", "two", L2, 2.0, 30.0, None, None, 0.0, "long"),
    Profile(2, "f", "task", L1, 1.0, None, None, None, 0.0, "long"),
    Profile(3, "f", "urgent", L2, 1.0, None, None, None, 5.0, "long"),
    Profile(4, "f", "whole", L1, 4.0, None, None, None, 0.0, "long"),
    Profile(5, "f", "hopeless", L2, 8.0, None, None, None, 0.0, "long"),
)
SECONDS = {"short": 0.005, "long": 1.0}


def file_use(name: str) -> FileUse:
    return FileUse(name.rstrip("0123456789"), name, name)


class ModelNode:
    """What a node holds and does, from its own point of view."""

    def __init__(self) -> None:
        self.running: dict[int, tuple[Invocation, Profile, core.Run]] = {}
        self.killed: dict[int, Invocation] = {}
        self.files: set[str] = set()
        self.fetches: list[tuple[str, str]] = []
        self.released = False


class SchedulerMachine(RuleBasedStateMachine):
    """Rules are what may happen; invariants are what must hold after it."""

    @initialize(
        max_retries=st.sampled_from([None, 0, 1, 2]),
        uniform=st.booleans(),
        wait_for_nodes=st.sampled_from([0, 0, 2]),
        replicas=st.sampled_from([1, 2, 3]),
    )
    def begin(self, max_retries: int | None, uniform: bool, wait_for_nodes: int, replicas: int) -> None:
        self.core = core.Scheduler(max_retries=max_retries, uniform=uniform, wait_for_nodes=wait_for_nodes)
        self.uniform = uniform
        self.wait_for_nodes = wait_for_nodes
        self.nodes: dict[str, ModelNode] = {}
        self.joined = 0
        self.submitted: dict[int, Invocation] = {}
        self.finished: Counter[int] = Counter()
        self.cancelled: set[int] = set()
        self.promised: list[str] = []
        self.forgotten: set[str] = set()
        self.inline: set[str] = set()
        self.handle(core.Submitted(PROFILES, []))
        self.handle(core.Tuned({"temp-replica-count": float(replicas)}))

    # --- the shell ---

    def handle(self, event: core.Event) -> None:
        for instruction in self.core.handle(event):
            getattr(self, "do_" + type(instruction).__name__.lower())(instruction)

    def do_run(self, run: core.Run) -> None:
        node = self.nodes[run.node]
        assert not node.released, "a node that was let go is given work"
        assert not self.core.nodes[run.node].draining, "a draining node is given work"
        for task in run.tasks:
            number = task.invocation.number
            assert not any(number in other.running for other in self.nodes.values()), f"{number} is given out twice"
            assert number not in self.cancelled
            assert not self.finished[number]
            node.running[number] = (task.invocation, task.profile, run)

    def do_finish(self, finish: core.Finish) -> None:
        for completion in finish.completions:
            assert completion.number in self.submitted
            assert completion.number not in self.cancelled, "word of a call that was cancelled"
            self.finished[completion.number] += 1
            assert self.finished[completion.number] == 1, f"{completion.number} finishes twice"

    def do_fetch(self, fetch: core.Fetch) -> None:
        assert fetch.node != fetch.source
        self.nodes[fetch.node].fetches.append((fetch.file, fetch.source))

    def do_drop(self, drop: core.Drop) -> None:
        self.nodes[drop.node].files -= set(drop.files)

    def do_kill(self, kill: core.Kill) -> None:
        node = self.nodes[kill.node]
        for number in kill.numbers:
            node.killed[number] = node.running.pop(number)[0]

    def do_release(self, release: core.Release) -> None:
        node = self.nodes[release.node]
        assert not node.running, "a node that runs something is let go"
        assert not node.released, "a node is let go twice"
        node.released = True
        staying = [name for name in self.nodes if not self.core.nodes[name].draining]
        for file in node.files & set(self.core.stats()["replicas"]):
            elsewhere = any(file in other.files for other in self.core.nodes.values() if not other.released)
            refused = all(file in self.core.nodes[name].refused for name in staying)
            assert elsewhere or refused, f"{file} goes with {release.node}"

    # --- what may happen ---

    @rule(profile=st.sampled_from(PROFILES[:5]), data=st.data(), count=st.integers(1, 6))
    def submit(self, profile: Profile, data: Any, count: int) -> None:
        invocations = []
        for _ in range(count):
            number = len(self.submitted)
            inputs: tuple[FileUse, ...] = ()
            outputs: tuple[FileUse, ...] = ()
            if count <= 2:  # many at once are plain ones
                wanted = data.draw(st.sets(st.sampled_from(self.promised), max_size=2)) if self.promised else set()
                inputs = tuple(file_use(name) for name in sorted(wanted))
                if data.draw(st.booleans()):
                    name = data.draw(st.sampled_from(["temp", "temp", "value"])) + str(number)
                    self.promised.append(name)
                    outputs = (file_use(name),)
            invocation = Invocation(number, profile.number, b"", inputs, outputs)
            self.submitted[number] = invocation
            invocations.append(invocation)
        self.handle(core.Submitted((), invocations))

    @rule()
    def submit_hopeless(self) -> None:
        number = len(self.submitted)
        self.submitted[number] = Invocation(number, 5, b"")
        self.handle(core.Submitted((), [self.submitted[number]]))
        if self.uniform and self.nodes:
            assert self.finished[number] == 1

    @precondition(lambda self: any(self.over_without(name) for name in self.promised))
    @rule(data=st.data())
    def submit_maker_again(self, data: Any) -> None:
        name = data.draw(st.sampled_from([name for name in self.promised if self.over_without(name)]))
        number = len(self.submitted)
        self.submitted[number] = Invocation(number, 0, b"", (), (file_use(name),))
        self.handle(core.Submitted((), [self.submitted[number]]))

    def over_without(self, name: str) -> bool:
        makers = [item for item in self.submitted.values() if any(use.source == name for use in item.outputs)]
        over = all(self.finished[item.number] or item.number in self.cancelled for item in makers)
        there = name in self.inline or any(name in node.files for node in self.nodes.values())
        return over and not there and name not in self.forgotten

    @precondition(lambda self: len(self.nodes) < 5)
    @rule(slots=st.sampled_from([None, None, 2]))
    def join(self, slots: int | None) -> None:
        name = f"n{self.joined}"
        self.joined += 1
        self.nodes[name] = ModelNode()
        info = NodeInfo(name, CORES, MEMORY, 1000.0, 0, None if self.uniform else slots, "", 0, "/")
        self.handle(core.NodeJoined(info))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), told=st.booleans())
    def leave(self, data: Any, told: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        del self.nodes[name]
        self.handle(core.NodeLeft(name, "its connection ended", told))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def drain(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        self.handle(core.NodeDraining(name))

    @precondition(lambda self: any(node.running for node in self.nodes.values()))
    @rule(data=st.data(), good=st.sampled_from([True, True, True, False]), large=st.booleans(), count=st.integers(1, 4))
    def complete(self, data: Any, good: bool, large: bool, count: int) -> None:
        name = data.draw(st.sampled_from([name for name, node in sorted(self.nodes.items()) if node.running]))
        self.complete_on(name, list(self.nodes[name].running)[:count], good=good, large=large)

    def complete_on(self, name: str, numbers: list[int], *, good: bool = True, large: bool = True) -> None:
        node = self.nodes[name]
        completions = []
        for number in numbers:
            invocation, profile, run = node.running[number]
            missing = self.stage_in(name, invocation, run)
            if number not in node.running:
                continue  # what was said of its files had it cancelled
            del node.running[number]
            made: tuple[tuple[str, int], ...] = ()
            outcome, body = (failure.RETURNED, b"") if good else (failure.RAISED, b"")
            if missing is not None:
                outcome, body = failure.LOST, failure.lost("file-lost", "no replica could be read", name=missing)
            elif good:
                made = tuple((use.source, 10) for use in invocation.outputs if use.kind == "temp" or large)
                node.files.update(file for file, _ in made)
                self.inline.update(use.source for use in invocation.outputs if use.kind == "value" and not large)
            seconds = SECONDS[profile.category]
            completions.append(Completion(number, outcome, body, name, 1.0, 1.0, seconds, made))
        self.handle(core.Completed(name, completions))

    def stage_in(self, name: str, invocation: Invocation, run: core.Run) -> str | None:
        node = self.nodes[name]
        for use in invocation.inputs:
            if use.source in node.files or use.source in run.values:
                continue
            source = self.nodes.get(run.sources.get(use.source, ""))
            if source is None or use.source not in source.files:
                return use.source
            node.files.add(use.source)
            self.handle(core.FileCached(name, use.source, 10, None))
        return None

    @precondition(lambda self: any(node.running for node in self.nodes.values()))
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        name = data.draw(st.sampled_from([name for name, node in sorted(self.nodes.items()) if node.running]))
        numbers = list(self.nodes[name].running)[1:]
        for number in numbers:
            del self.nodes[name].running[number]
        self.handle(core.Returned(name, tuple(numbers)))

    @precondition(lambda self: any(node.killed for node in self.nodes.values()))
    @rule(data=st.data(), heard=st.booleans())
    def killed(self, data: Any, heard: bool) -> None:
        name = data.draw(st.sampled_from([name for name, node in sorted(self.nodes.items()) if node.killed]))
        number, invocation = self.nodes[name].killed.popitem()
        if heard:  # it ran; it may even have ended well before the word came
            made = tuple((use.source, 10) for use in invocation.outputs)
            self.nodes[name].files.update(file for file, _ in made)
            self.handle(core.Completed(name, [Completion(number, failure.RETURNED, b"", name, 1.0, 1.0, 1.0, made)]))

    @precondition(lambda self: any(node.fetches for node in self.nodes.values()))
    @rule(data=st.data(), room=st.sampled_from([True, True, True, False]))
    def cached(self, data: Any, room: bool) -> None:
        name = data.draw(st.sampled_from([name for name, node in sorted(self.nodes.items()) if node.fetches]))
        self.fetch_on(name, room=room)

    def fetch_on(self, name: str, *, room: bool = True) -> None:
        node = self.nodes[name]
        file, origin = node.fetches.pop(0)
        source = self.nodes.get(origin)
        problem = None
        if file not in node.files:
            if not room:
                problem = "No space left on device"
            elif source is None or file not in source.files:
                problem = "No such file or directory"
            else:
                node.files.add(file)
        self.handle(core.FileCached(name, file, 0 if problem else 10, problem))

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        numbers = data.draw(st.sets(st.sampled_from(sorted(self.submitted)), min_size=1, max_size=3))
        self.cancel_now(numbers)

    def cancel_now(self, numbers: set[int]) -> None:
        self.cancelled.update(number for number in numbers if not self.finished[number])
        self.handle(core.Cancelled(tuple(sorted(numbers))))

    @precondition(lambda self: self.promised)
    @rule(data=st.data())
    def forget(self, data: Any) -> None:
        name = data.draw(st.sampled_from(self.promised))
        self.forgotten.add(name)
        self.promised.remove(name)
        self.handle(core.Forgotten((name,)))

    @precondition(lambda self: any(node.files for node in self.nodes.values()))
    @rule(data=st.data())
    def file_vanishes(self, data: Any) -> None:
        name = data.draw(st.sampled_from([name for name, node in sorted(self.nodes.items()) if node.files]))
        self.nodes[name].files.discard(data.draw(st.sampled_from(sorted(self.nodes[name].files))))

    @rule(count=st.integers(1, 3))
    def tune(self, count: int) -> None:
        self.handle(core.Tuned({"temp-replica-count": float(count)}))

    # --- what must hold ---

    @invariant()
    def views_agree(self) -> None:
        for name, node in self.core.nodes.items():
            assert set(node.assigned) == set(self.nodes[name].running)
            for number, task in node.assigned.items():
                assert task.invocation.number == number
                assert task.node == name
                assert task.state is core.State.ASSIGNED
            assert not any(count <= 0 for count in node.shapes.values())
            assert sum(node.shapes.values()) == len(node.assigned)
        assert set(self.core.nodes) == set(self.nodes)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        alive = {number for number in self.submitted if not self.finished[number] and number not in self.cancelled}
        assert set(self.core._tasks) == alive
        counted = Counter(task.state for task in self.core._tasks.values())
        for state in (core.State.WAITING, core.State.READY, core.State.ASSIGNED):
            assert self.core._count[state] == counted[state]
        assert self.core.waiting == counted[core.State.WAITING]
        queued = [task for queue in self.core._queues.values() for _, task in queue._heap]
        ready = [task for task in queued if task.state is core.State.READY]
        assert len(ready) == len(set(map(id, ready))) == self.core.ready

    @invariant()
    def long_calls_fit(self) -> None:
        for node in self.core.nodes.values():
            long = [task.profile for task in node.assigned.values() if task.profile.category == "long"]
            assert sum(profile.cores or 1.0 for profile in long) <= CORES
            assert sum(profile.memory or 0.0 for profile in long) <= MEMORY

    @invariant()
    def the_first_in_line_never_waits_for_room_that_is_there(self) -> None:
        if self.joined < self.wait_for_nodes:
            return
        ready = [task for task in self.core._tasks.values() if task.state is core.State.READY]
        possible = [
            task
            for task in ready
            if any(
                node.capacity(self.core._shape(task), others=False)
                for node in self.core.nodes.values()
                if not node.draining
            )
        ]
        if possible:
            first = min(possible, key=lambda task: task.order)
            for node in self.core.nodes.values():
                shape = self.core._shape(first)
                assert node.draining or node.capacity(shape, others=True) <= node.shapes[shape]

    @invariant()
    def forgotten_files_are_dropped(self) -> None:
        for file, holders in self.core.stats()["replicas"].items():
            assert holders
            assert file not in self.forgotten
            for name in holders:
                assert file in self.core.nodes[name].files
        assert not self.core._values.keys() & self.forgotten

    @invariant()
    def there_is_one_suspect_a_node(self) -> None:
        for node in self.core.nodes.values():
            assert sum(task.suspect for task in node.assigned.values()) <= 1

    @invariant()
    def replicas_are_made(self) -> None:
        wanted = self.core._replica_count
        staying = [node for node in self.core.nodes.values() if not node.draining]
        for file in self.core._replicas:
            there = sum(file in node.files or file in node.fetching for node in staying)
            able = sum(file not in node.refused or file in node.files for node in staying)
            assert there >= min(wanted, able) or wanted == 1

    @invariant()
    def draining_nodes_are_waited_for_only_if_there_is_reason(self) -> None:
        for name, node in self.core.nodes.items():
            if node.draining and not node.released:
                fetched = any(name in other.fetching.values() for other in self.core.nodes.values())
                assert node.assigned or fetched

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        self.uniform = True
        for _ in range(max(1, self.wait_for_nodes - self.joined)):
            if len(self.nodes) < 8:
                self.join(None)
        self.work_until_quiet()
        # Nobody will make what these wait for: the user's process cancels them.
        stuck = {task.invocation.number for task in self.core._tasks.values() if task.state is core.State.WAITING}
        never = {number for number, task in self.core._tasks.items() if task.profile.number == 5}
        self.cancel_now(stuck | never)
        self.work_until_quiet()
        assert not self.core._tasks
        for number in self.submitted:
            assert self.finished[number] == (number not in self.cancelled)
        assert self.core.ready == self.core.waiting == 0
        assert not any(node.assigned or node.shapes or node.fetching for node in self.core.nodes.values())
        assert self.core._graph._graph is None or not len(self.core._graph._graph)

    def work_until_quiet(self) -> None:
        busy = True
        rounds = 0
        while busy:
            rounds += 1
            assert rounds < 200, "it never comes to rest"
            busy = False
            for name, node in list(self.nodes.items()):
                while node.fetches:
                    busy = True
                    self.fetch_on(name)
                if node.running:
                    busy = True
                    self.complete_on(name, list(node.running))
                if node.released:
                    del self.nodes[name]
                    self.handle(core.NodeLeft(name, "it was let go"))
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
