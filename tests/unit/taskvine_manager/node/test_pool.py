"""The pool of slots: which slot runs which task, and the tasks of slots that die."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from taskvine_manager.node.calls import Call, Grant, Need, Resources
from taskvine_manager.node.devices import Devices, Gpus
from taskvine_manager.node.pinning import Cpus
from taskvine_manager.node.pool import IDLE_SLOTS, STUCK_SECONDS, TRIES, Fork, Pool, Refusal, Slot
from taskvine_manager.wire.messages import L2, Invocation, Profile

ONE_CORE = Need(1.0, 0.0)
NOW = 1000.0


def profile(function: str = "f", number: int = 1) -> Profile:
    return Profile(number, function, function, L2, None, None, None, None, 0.0, function)


class Node:
    """A node's pool, with the actions of a node."""

    def __init__(self, cores: float = 2, memory: float = 1000, gpus: int = 0) -> None:
        self.resources = Resources(cores, memory, Devices(str(number) for number in range(gpus)))
        self.pool: Pool[Slot] = Pool(self.resources)
        self.now = NOW
        self.refused: list[Refusal] = []
        self.forks: list[Fork] = []
        self._profiles: dict[str, Profile] = {}
        self._numbers = itertools.count()

    def add(self, function: str = "f", need: Need = ONE_CORE, count: int = 1) -> list[Call]:
        same = self._profiles.setdefault(function, profile(function))
        calls = [Call(Invocation(next(self._numbers), 1, b""), same, need) for _ in range(count)]
        for call in calls:
            self.pool.add(call)
        return calls

    def pump(self, most: int = 1000) -> None:
        """Hand out pending tasks; a slot's socket accepts ``most`` at a time."""
        while self.pool.pending:
            choice = self.pool.choose(self.now)
            if choice is None:
                return
            if isinstance(choice, Refusal):
                self.refused.append(choice)
            elif isinstance(choice, Fork):
                for slot in self.pool.displaced_by(choice):
                    self.pool.remove(slot)
                self.pool.admit(Slot(len(self.forks), choice.need, choice.grant))
                self.forks.append(choice)
            else:
                calls = self.pool.occupy(choice, self.now)
                choice.functions.add(calls[0].profile.function)
                self.pool.handed(choice, min(most, len(calls)), 0.0)
                if not choice.calls:
                    self.pool.free(choice)
                    return

    def end(self, slot: Slot, seconds: float = 1.0, returned: bool = True) -> Call:
        """Have a slot end its first task."""
        call = self.pool.ended(slot, returned, seconds)
        if not slot.calls:
            self.pool.free(slot)
        return call

    def run(self, **task: Any) -> Slot:
        """Hand out a task that has just been added; return its slot."""
        (call,) = self.add(**task)
        self.pump()
        return self.slot_of(call)

    def slot_of(self, call: Call) -> Slot:
        (slot,) = [slot for slot in self.pool.slots.values() if call in slot.calls]
        return slot

    def know(self, seconds: float, function: str = "f") -> None:
        """Teach the pool how long tasks take; the slot that ran them is idle afterwards."""
        self.end(self.run(function=function), seconds)

    @property
    def free(self) -> tuple[float, float, int]:
        return self.resources.cores, self.resources.memory, len(self.resources.devices.free)


# --- which slot gets a task ---


def test_slots_are_forked_while_resources_are_free() -> None:
    node = Node(cores=2)
    first, second, third = node.add(count=3)
    node.pump()
    assert node.free == (0, 1000, 0)
    assert list(node.pool.pending) == [third]
    slot = node.slot_of(first)
    assert node.end(slot) is first
    node.pump()
    assert node.slot_of(third) is slot
    assert len(node.forks) == 2
    assert node.end(node.slot_of(second)) is second
    assert node.free == (1, 1000, 0)


def test_task_that_does_not_fit_delays_later_tasks() -> None:
    node = Node(cores=2)
    node.run()
    node.add(need=Need(2.0, 0.0))
    node.add()
    node.pump()
    assert len(node.pool.pending) == 2


def test_idle_slot_that_has_the_function_comes_first() -> None:
    node = Node(cores=2)
    slots = [node.run(function=function) for function in "ab"]
    for slot in slots:
        node.end(slot)
    assert node.run(function="b") is slots[1]
    assert node.run(function="c") is slots[0]


@pytest.mark.parametrize("need", [Need(2.0, 0.0), Need(1.0, 100.0), Need(1.0, 0.0, Gpus(1.0))])
def test_slot_made_for_other_needs_is_not_used(need: Need) -> None:
    node = Node(cores=2, gpus=1)
    node.end(node.run())
    node.run(need=need)
    assert [fork.need for fork in node.forks] == [ONE_CORE, need]


def test_only_busy_slots_hold_gpus() -> None:
    node = Node(cores=3, gpus=2)
    slots = [node.run(need=Need(1.0, 0.0, Gpus(1.0))) for _ in range(2)]
    assert [slot.grant.devices for slot in slots] == [("0",), ("1",)]
    assert node.free == (1, 1000, 0)
    for slot in slots:
        node.end(slot)
    node.resources.take(Need(0, 0, Gpus(1.0)), Grant(("0",)))  # as an L1 task does
    assert node.run(need=Need(1.0, 0.0, Gpus(1.0))) is slots[1]


def test_idle_slot_ends_before_another_one_sees_its_gpus() -> None:
    node = Node(gpus=2)
    small = node.run(need=Need(1.0, 0.0, Gpus(1.0)))
    node.end(small)
    other = node.run()
    large = node.run(need=Need(1.0, 0.0, Gpus(2.0)))
    assert large.grant.devices == ("0", "1")
    assert list(node.pool.slots.values()) == [other, large]


def test_idle_slots_stay_beside_parts_of_their_gpu() -> None:
    node = Node(cores=4, gpus=1)
    quarter, half = (node.run(need=Need(1.0, 0.0, Gpus(amount))) for amount in (0.25, 0.5))
    assert quarter.grant == half.grant == Grant(("0",))
    node.end(quarter)
    node.end(half)
    third = node.run(need=Need(1.0, 0.0, Gpus(0.3)))
    assert list(node.pool.slots.values()) == [half, third], "what was idle longest ended"
    node.end(third)
    whole = node.run(need=Need(1.0, 0.0, Gpus(1.0)))
    assert list(node.pool.slots.values()) == [whole]


def test_parts_share_a_gpu_only_as_long_as_it_has_room() -> None:
    node = Node(cores=8, gpus=2)
    calls = node.add(need=Need(1.0, 0.0, Gpus(0.5)), count=5)
    node.pump()
    assert list(node.pool.pending) == calls[4:]
    assert [slot.grant.devices for slot in node.pool.slots.values()] == [("0",), ("0",), ("1",), ("1",)]


def test_idle_slot_is_not_used_while_its_cpus_are_and_others_are_not() -> None:
    node = Node(cores=4)
    node.pool = Pool(Resources(4, 1000, cpus=Cpus([(0,), (1,)])))
    first, second = node.run(), node.run()
    assert (first.grant.groups, second.grant.groups) == ((0,), (1,))
    node.end(second)
    wide = node.run(need=Need(1.0, 100.0))
    assert wide.grant.groups == (1,)
    node.end(first)
    assert node.run() is first
    assert node.run() is second, "both groups have a task"


def test_slot_that_is_idle_longest_ends_when_there_are_too_many() -> None:
    node = Node(cores=1)
    slots = []
    for megabytes in range(IDLE_SLOTS):
        slots.append(node.run(need=Need(1.0, float(megabytes))))
        node.end(slots[-1])
    node.end(node.run(need=Need(1.0, 0.0)))  # the oldest is used again
    node.run(need=Need(1.0, 999.0))
    assert slots[0] in node.pool.slots.values()
    assert slots[1] not in node.pool.slots.values()
    assert len(node.pool.slots) == IDLE_SLOTS


# --- several tasks at once ---


def test_tasks_of_unknown_or_long_duration_are_handed_out_one_by_one() -> None:
    node = Node(cores=1)
    node.add(count=10)
    node.pump()
    (slot,) = node.pool.slots.values()
    assert len(slot.calls) == 1
    node.end(slot, 1.0)
    node.pump()
    assert len(slot.calls) == 1


def test_short_tasks_are_handed_out_together_and_shared_among_slots() -> None:
    node = Node(cores=2)
    node.know(1e-4)  # 20 of them are enough for a slot
    calls = node.add(count=50)
    node.pump()
    assert [len(slot.calls) for slot in node.pool.slots.values()] == [20, 20]
    assert [call for slot in node.pool.slots.values() for call in slot.calls] + list(node.pool.pending) == calls
    node.pool.most_calls = 5
    for slot in node.pool.slots.values():
        while slot.calls:
            node.end(slot, 1e-4)
    node.pump()
    assert [len(slot.calls) for slot in node.pool.slots.values()] == [5, 5]


def test_only_tasks_of_one_profile_go_together() -> None:
    node = Node(cores=1)
    for function in "ab":
        node.know(1e-5, function)
    calls = [call for function in "aab" for call in node.add(function)]
    node.pump()
    (slot,) = node.pool.slots.values()
    assert list(slot.calls) == calls  # the last one went to this slot, because it has its function


def test_estimate_rises_faster_than_it_falls() -> None:
    node = Node(cores=1)
    node.know(1e-4)
    node.know(1e-3)  # about 0.55 ms now, so 3 tasks are enough
    node.add(count=10)
    node.pump()
    (slot,) = node.pool.slots.values()
    assert len(slot.calls) == 3
    node.pool.withdraw()
    while slot.calls:
        node.end(slot, 1e-4)
    node.add(count=10)
    node.pump()
    assert len(slot.calls) == 4


def test_failed_tasks_do_not_change_the_estimate() -> None:
    node = Node(cores=1)
    node.end(node.run(), 1e-5, returned=False)
    node.add(count=10)
    node.pump()
    (slot,) = node.pool.slots.values()
    assert len(slot.calls) == 1


def test_silent_slot_loses_its_pending_tasks() -> None:
    node = Node(cores=1)
    node.know(1e-4)
    first, second, third = node.add(count=3)
    node.pump()
    (slot,) = node.pool.slots.values()
    assert node.pool.stuck(node.now) == ([], True)
    node.now += STUCK_SECONDS * 1.5
    assert node.pool.stuck(node.now) == ([slot], True)
    assert node.pool.stuck(node.now) == ([], True)  # once each time
    assert node.pool.taken_back(slot, {second.invocation.number, third.invocation.number}) == [second, third]
    assert list(node.pool.pending) == [second, third]
    assert node.pool.stuck(node.now) == ([], False)
    node.now += STUCK_SECONDS * 1.5
    node.pump()
    assert list(slot.calls) == [first]


def test_tasks_that_a_full_socket_refuses_stay_pending() -> None:
    node = Node(cores=1)
    node.know(1e-4)
    calls = node.add(count=3)
    node.pump(most=0)
    assert list(node.pool.pending) == calls
    assert node.free == (1, 1000, 0)
    (slot,) = node.pool.slots.values()
    slot.heard = 0.0  # otherwise the slot would get the others afterwards
    node.now += 1
    node.pump(most=2)
    assert list(slot.calls) == calls


def test_function_that_was_taken_back_is_sent_again() -> None:
    node = Node(cores=1)
    slot = node.run()
    (call,) = slot.calls
    node.pool.function_missing(slot)
    assert slot.functions == set()
    assert list(node.pool.pending) == [call]


# --- memory limits ---


LIMITED = Need(1.0, 100.0)


def test_task_avoids_a_slot_that_holds_too_much_memory() -> None:
    node = Node()
    slot = node.run(need=LIMITED)
    (call,) = slot.calls
    assert node.pool.outgrown(slot, 150.0, False) is None
    node.pool.remove(slot)
    node.pump()
    assert node.slot_of(call) is not slot
    assert node.refused == []


def test_functions_that_need_too_much_memory_are_refused() -> None:
    node = Node()
    slot = node.run(need=LIMITED)
    (call,) = slot.calls
    (other,) = node.add(need=LIMITED)
    (enough,) = node.add(need=Need(1.0, 200.0))
    assert node.pool.outgrown(slot, 150.0, True) is None
    node.pool.remove(slot)
    node.pump()
    assert node.refused == [Refusal(call, 150.0), Refusal(other, 150.0)]
    assert node.slot_of(enough).need == enough.need
    node.pool.forget({"f"})
    assert node.run(need=LIMITED).calls


def test_cancelled_task_does_not_run_in_another_slot() -> None:
    node = Node()
    slot = node.run(need=LIMITED)
    (call,) = slot.calls
    call.kill_record = b"cancelled"
    assert node.pool.outgrown(slot, 150.0, True) is call
    assert not node.pool.pending


# --- deaths ---


def test_dead_slot_frees_its_resources() -> None:
    node = Node(gpus=1)
    slot = node.run(need=Need(1.0, 10.0, Gpus(1.0)))
    (call,) = slot.calls
    assert node.pool.slot_died(slot, []) is call
    assert node.free == (2, 1000, 1)
    assert node.pool.slots == {}


def test_task_behind_a_killed_one_runs_again() -> None:
    node = Node(cores=1)
    node.know(1e-4)
    first, second = node.add(count=2)
    node.pump()
    (slot,) = node.pool.slots.values()
    first.kill_record = b"cancelled"
    node.end(slot)
    assert node.pool.slot_died(slot, []) is None
    node.pump()
    again = node.slot_of(second)
    again.killed_late = True
    assert node.pool.slot_died(again, []) is second, "once is enough"


def test_task_is_lost_if_its_slots_die_repeatedly() -> None:
    node = Node(cores=1)
    (call,) = node.add()
    for death in range(TRIES + 1):
        node.pump()
        slot = node.slot_of(call)
        untouched = node.pool.taken_back(slot, {call.invocation.number})
        assert node.pool.slot_died(slot, untouched) is (call if death == TRIES else None)
    assert not node.pool.pending


def test_announced_end_of_a_slot_does_not_count_against_tasks() -> None:
    node = Node(cores=1)
    (call,) = node.add()
    for _ in range(TRIES + 2):
        node.pump()
        slot = node.slot_of(call)
        slot.is_ending = True
        assert node.pool.slot_died(slot, node.pool.taken_back(slot, {call.invocation.number})) is None


def test_tasks_of_a_library_that_died_run_once_more() -> None:
    node = Node(cores=1)
    node.know(1e-4)
    first, second, third = node.add(count=3)
    for lost in ([], [first], [], [second], [], [third]):
        node.pump()
        (slot,) = node.pool.slots.values()
        assert node.pool.library_died(slot) == lost
        assert node.pool.slots == {}
        assert node.free == (1, 1000, 0)
    assert not node.pool.pending


def test_deaths_of_slots_before_it_do_not_count_against_the_task_of_a_library_that_died() -> None:
    node = Node(cores=1)
    (call,) = node.add()
    node.pump()
    slot = node.slot_of(call)
    assert node.pool.slot_died(slot, node.pool.taken_back(slot, {call.invocation.number})) is None
    node.pump()
    assert node.pool.library_died(node.slot_of(call)) == []
    node.pump()
    assert node.pool.library_died(node.slot_of(call)) == [call]


def test_cancelled_task_of_a_library_that_died_is_lost() -> None:
    node = Node(cores=1)
    slot = node.run()
    slot.calls[0].kill_record = b"cancelled"
    assert node.pool.library_died(slot) == [*slot.calls]


# --- what is no longer wanted ---


def test_pending_tasks_can_be_withdrawn() -> None:
    node = Node()
    first, second, third = node.add(count=3)
    assert node.pool.withdraw({second.invocation.number, 99}) == [second]
    assert node.pool.withdraw() == [first, third]
    assert node.pool.withdraw() == []


def test_slots_forget_functions_once_they_are_told() -> None:
    node = Node()
    slots = [node.run(function=function) for function in "ab"]
    assert node.pool.forget({"a", "c"}) == [slots[0]]
    assert (slots[0].functions, slots[0].outdated) == (set(), {"a"})
    assert (slots[1].functions, slots[1].outdated) == ({"b"}, set())


# --- whatever happens ---


OF_GPUS = [Need(1.0, 0.0, Gpus(amount)) for amount in (0.25, 0.5, 1.0, 2.0)]


class PoolMachine(RuleBasedStateMachine):
    """Whatever happens to slots, no task is lost or runs twice at once, and resources are those left by busy slots."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(cores=3, gpus=2)
        self.live: set[Call] = set()

    def slot(self, number: int) -> Slot | None:
        slots = [slot for slot in self.node.pool.slots.values() if slot.calls]
        return slots[number % len(slots)] if slots else None

    @rule(
        function=st.sampled_from("ab"),
        need=st.sampled_from([ONE_CORE, Need(2.0, 0.0), LIMITED, *OF_GPUS]),
        count=st.integers(1, 5),
    )
    def add(self, function: str, need: Need, count: int) -> None:
        self.live.update(self.node.add(function, need, count))

    @rule(most=st.sampled_from([0, 1, 1000]))
    def pump(self, most: int) -> None:
        self.node.now += STUCK_SECONDS / 2
        self.node.pump(most)
        self.live -= {refusal.call for refusal in self.node.refused}

    @rule(number=st.integers(0, 9), seconds=st.sampled_from([1e-6, 1e-4, 1.0]))
    def end(self, number: int, seconds: float) -> None:
        if (slot := self.slot(number)) is not None:
            self.live.remove(self.node.end(slot, seconds))

    @rule(number=st.integers(0, 9), begun=st.booleans())
    def die(self, number: int, begun: bool) -> None:
        if (slot := self.slot(number)) is not None:
            untouched = {call.invocation.number for call in list(slot.calls)[begun:]}
            lost = self.node.pool.slot_died(slot, self.node.pool.taken_back(slot, untouched))
            self.live -= {lost}

    @rule()
    def lose_library(self) -> None:
        for slot in list(self.node.pool.slots.values()):
            self.live.difference_update(self.node.pool.library_died(slot))

    @rule(number=st.integers(0, 9), is_fresh=st.booleans())
    def outgrow(self, number: int, is_fresh: bool) -> None:
        slot = self.slot(number)
        if slot is not None and slot.need == LIMITED:
            self.node.pool.taken_back(slot, {call.invocation.number for call in slot.calls} - {first_of(slot)})
            assert self.node.pool.outgrown(slot, 150.0, is_fresh) is None
            self.node.pool.remove(slot)

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        pool = self.node.pool
        places = [*pool.pending, *(call for slot in pool.slots.values() for call in slot.calls)]
        assert len(places) == len(set(places))
        assert set(places) == self.live

    @invariant()
    def resources_are_those_that_busy_slots_leave(self) -> None:
        busy = [slot for slot in self.node.pool.slots.values() if slot.calls]
        used = {gpu for slot in busy for gpu in slot.grant.devices}
        assert sorted([*self.node.resources.devices.free, *used]) == ["0", "1"]
        for gpu in "01":
            seeing = [slot for slot in self.node.pool.slots.values() if gpu in slot.grant.devices]
            assert sum(min(1.0, slot.need.gpus.amount) for slot in seeing) <= 1.0, "idle slots count too"
        assert self.node.resources.cores == 3 - sum(slot.need[0] for slot in busy) >= 0
        assert self.node.resources.memory == 1000 - sum(slot.need[1] for slot in busy) >= 0


def first_of(slot: Slot) -> int:
    return slot.calls[0].invocation.number


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# --- surplus ---


def test_surplus_tasks_are_those_behind_one_for_each_core() -> None:
    node = Node(cores=2)
    wide, others = node.add("wide", count=5), node.add("other", count=3)
    assert node.pool.surplus({"unknown"}) == []
    assert node.pool.surplus({"wide"}) == wide[2:]
    assert list(node.pool.pending) == [*wide[:2], *others]
    assert node.pool.surplus({"wide"}) == []
