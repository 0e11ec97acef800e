"""Tasks: their states, and the order of queues."""

from __future__ import annotations

import itertools
import re

import pytest

from taskvine_manager.scheduling import tasks
from taskvine_manager.scheduling.checking import IllegalTransition
from taskvine_manager.scheduling.tasks import Queue, Shape, State, Task
from taskvine_manager.wire.messages import L2, Invocation, Profile
from tests.unit.taskvine_manager.scheduling.world import World

PLAIN = Shape(L2, None, None, None, None)


def task(number: int, *, priority: float = 0.0, path: int = 1, depth: int = 0) -> Task:
    profile = Profile(0, "f", "name", L2, None, None, None, None, priority, "c")
    made = Task(Invocation(number, 0, b""), profile, PLAIN, number)
    made.path, made.depth = path, depth
    made.move(State.READY)
    return made


# --- states -----------------------------------------------------------------------------------------------------------


ALLOWED = {
    (State.WAITING, State.READY),
    (State.WAITING, State.ASSIGNED),
    (State.WAITING, State.DONE),
    (State.READY, State.ASSIGNED),
    (State.READY, State.WAITING),
    (State.READY, State.DONE),
    (State.ASSIGNED, State.READY),
    (State.ASSIGNED, State.WAITING),
    (State.ASSIGNED, State.DONE),
}


@pytest.mark.parametrize(("start", "end"), list(itertools.product(State, State)), ids=lambda state: state.name)
def test_every_transition_is_allowed_or_raises_with_the_story(start: State, end: State) -> None:
    world = World()
    invocation = world.invocation()
    profile = next(iter(world.profiles.values()))
    task = Task(invocation, profile, Shape(*profile[3:8]), 0)
    task.state, task.node, task.attempts = start, "n7", 3
    if (start, end) in ALLOWED:
        task.move(end)
        assert task.state is end
    else:
        with pytest.raises(IllegalTransition, match=rf"task 0 \(name\): {start.name} -> {end.name}, node n7.*3"):
            task.move(end)
        assert task.state is start


def test_documentation_lists_the_transitions() -> None:
    listed = re.findall(r"^    ([A-Z]+) +-> ([A-Z]+) +[a-z]", str(tasks.__doc__), re.M)
    assert len(listed) == len(ALLOWED)
    assert {(State[start], State[end]) for start, end in listed} == ALLOWED


# --- queues -----------------------------------------------------------------------------------------------------------


def test_order_is_priority_path_depth_arrival() -> None:
    queue = Queue()
    expected = [
        task(6, priority=1.0),
        task(5, path=3),
        task(4, path=2, depth=1),
        task(2, path=2),
        task(3, path=2),
        task(0),
        task(1),
    ]
    for each in sorted(expected, key=lambda each: each.sequence):
        queue.push(each)
    found = []
    while queue.head() is not None:
        found.append(queue.pop())
        found[-1].move(State.ASSIGNED)
    assert [each.invocation.number for each in found] == [each.invocation.number for each in expected]


def test_reordered_task_is_taken_once() -> None:
    queue = Queue()
    first, second = task(0), task(1)
    queue.push(first)
    queue.push(second)
    second.path = 9
    queue.push(second)
    assert queue.head() is second
    queue.pop().move(State.ASSIGNED)
    assert queue.head() is first
    queue.pop().move(State.ASSIGNED)
    assert queue.head() is None
