"""How short calls are put together, and how many tasks TaskVine is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_manager.vine.batching import AHEAD, MOST, OVERHEAD, SHORT, TARGET, Backlog, Estimates, Window, cost, size

_sequence = count()


@dataclass
class Call:
    category: str = "short"
    priority: float = 0.0
    cores: float = 1.0
    alone: bool = False
    over: bool = False
    sequence: int = field(default_factory=lambda: next(_sequence))


def backlog(*calls: Call, enabled: bool = True) -> Backlog:
    estimates = Estimates()
    estimates.learn("short", 0.0001, 10)
    estimates.learn("long", 2.0, 10)
    made = Backlog(estimates, lambda call: call.over, enabled=enabled)
    for call in calls:
        made.push(call)
    return made


def two_cores(nodes: int = 1) -> Window:
    return Window(nodes, 2.0 * nodes, 2 * nodes)


def test_lone_call_goes_at_once() -> None:
    call = Call()
    assert backlog(call).take(two_cores()) == [[call]]


def test_short_calls_share_the_tasks_that_there_is_room_for() -> None:
    calls = [Call() for _ in range(10)]
    assert backlog(*calls).take(two_cores()) == [calls[:5], calls[5:]]


def test_no_more_batches_than_nodes_can_take_ahead() -> None:
    made = backlog(*(Call() for _ in range(100_000)))
    window = two_cores(nodes=3)
    taken = made.take(window)
    assert len(taken) == window.batches == 3 * AHEAD
    assert made.take(window) == []
    window.batches -= 1
    assert len(made.take(window)) == 1


def test_batch_is_worth_its_target_and_no_more() -> None:
    taken = backlog(*(Call() for _ in range(100_000))).take(two_cores())
    assert len(taken[0]) * (0.0001 + OVERHEAD) / 2 == pytest.approx(TARGET, rel=0.01)


def test_unknown_and_long_calls_travel_alone_and_no_more_than_fit() -> None:
    made = backlog(Call("unknown"), Call("long"), Call("unknown"))
    assert [[call.category for call in task] for task in made.take(two_cores())] == [["unknown"], ["long"]]
    assert len(made) == 1


def test_what_is_larger_than_all_nodes_goes_when_nothing_else_runs() -> None:
    made = backlog(Call("long", cores=64))
    assert made.take(Window(1, 2.0, 2, busy=1.0)) == []
    assert len(made.take(two_cores())) == 1


def test_calls_that_must_be_alone_are_never_put_together() -> None:
    assert all(len(task) == 1 for task in backlog(*(Call(alone=True) for _ in range(20))).take(two_cores()))


def test_switched_off_every_call_travels_alone() -> None:
    assert all(len(task) == 1 for task in backlog(*(Call() for _ in range(20)), enabled=False).take(two_cores()))


def test_priorities_are_not_mixed_and_higher_goes_first() -> None:
    low, high = [Call() for _ in range(3)], [Call(priority=1.0) for _ in range(3)]
    taken = backlog(*low, *high).take(Window(4, 8.0, 8))
    assert [call for task in taken for call in task] == [*high, *low]
    assert all(len({call.priority for call in task}) == 1 for task in taken)


def test_cancelled_calls_are_left_out() -> None:
    calls = [Call(), Call(over=True), Call()]
    assert [call for task in backlog(*calls).take(two_cores()) for call in task] == [calls[0], calls[2]]


def test_one_long_run_outweighs_many_short_ones() -> None:
    estimates = Estimates()
    for _ in range(100):
        estimates.learn("app", 0.001, 1)
    estimates.learn("app", 1.0, 1)
    assert (estimates.seconds("app") or 0) > SHORT


def test_largest_result_is_remembered() -> None:
    estimates = Estimates()
    assert estimates.largest("app") is None
    for length in (5, 50_000, 7):
        estimates.learn("app", 0.1, length)
    assert estimates.largest("app") == 50_000


@pytest.mark.parametrize(("seconds", "expected"), [(None, 4.0), (1.0, 4.0), (0.010, 2.0), (0.0, 1.0)])
def test_short_calls_alone_count_for_less(seconds: float | None, expected: float) -> None:
    assert cost(4.0, seconds) == expected


@given(
    seconds=st.floats(0, SHORT),
    waiting=st.integers(1, 200_000),
    nodes=st.integers(1, 500),
    slots=st.integers(1, 64),
    batches=st.integers(0, 1000),
)
def test_size_is_within_bounds(seconds: float, waiting: int, nodes: int, slots: int, batches: int) -> None:
    assert 1 <= size(seconds, waiting, Window(nodes, slots * nodes, slots * nodes, batches=batches)) <= MOST


@given(st.lists(st.tuples(st.sampled_from(["short", "long", "unknown"]), st.integers(-2, 2), st.booleans())))
def test_every_call_is_taken_once(kinds: list[tuple[str, int, bool]]) -> None:
    calls = [Call(category, float(priority), alone=alone) for category, priority, alone in kinds]
    made = backlog(*calls)
    taken = []
    while made:
        tasks = made.take(two_cores())  # whatever was under way has ended
        assert tasks
        taken += [call for task in tasks for call in task]
    assert sorted(call.sequence for call in taken) == sorted(call.sequence for call in calls)
    assert [call.priority for call in taken] == sorted((call.priority for call in calls), reverse=True)
