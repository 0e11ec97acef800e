"""How short calls are put together, and how many tasks TaskVine gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_manager.vine.manager.batching import (
    AHEAD,
    MOST,
    OVERHEAD,
    SHORT,
    TARGET,
    Backlog,
    Estimates,
    Room,
    cost,
    size,
)
from taskvine_manager.vine.manager.tasks import Need, State
from taskvine_manager.wire.messages import Library

_sequence = count()


@dataclass
class Call:
    category: str = "short"
    priority: float = 0.0
    need: Need = field(default_factory=lambda: Need(1.0))
    alone: bool = False
    over: bool = False
    near: str = "-"
    sequence: int = field(default_factory=lambda: next(_sequence))

    @property
    def profile(self) -> Call:  # it has what the backlog reads of a profile
        return self

    @property
    def state(self) -> State:
        return State.DONE if self.over else State.READY


def backlog(*calls: Call, enabled: bool = True) -> Backlog:
    estimates = Estimates()
    estimates.learn("short", 0.0001, 10)
    estimates.learn("long", 2.0, 10)
    made = Backlog(estimates, lambda call, room: float(call.near == room.key), enabled=enabled)
    for call in calls:
        made.push(call)
    return made


def two_cores(nodes: int = 1) -> list[Room]:
    return [Room(Need(2.0, 4000.0, 100.0), 2, key=f"n{number}") for number in range(nodes)]


def calls_of(tasks: list[Any]) -> list[list[Call]]:
    return [calls for _, _, calls in tasks]


def test_single_call_is_sent_at_once() -> None:
    call = Call()
    assert calls_of(backlog(call).take(two_cores())) == [[call]]


def test_short_calls_share_the_tasks_that_fit() -> None:
    calls = [Call() for _ in range(10)]
    assert calls_of(backlog(*calls).take(two_cores())) == [calls[:5], calls[5:]]


def test_no_more_batches_than_nodes_can_take_ahead() -> None:
    made = backlog(*(Call() for _ in range(100_000)))
    rooms = two_cores(nodes=3)
    assert len(made.take(rooms)) == 3 * AHEAD
    assert [room.batches for room in rooms] == [AHEAD] * 3
    assert made.take(rooms) == []
    rooms[1].batches -= 1
    assert [room.key for room, _, _ in made.take(rooms)] == ["n1"]


def test_batch_lasts_its_target_at_most() -> None:
    taken = calls_of(backlog(*(Call() for _ in range(100_000))).take(two_cores()))
    assert len(taken[0]) * (0.0001 + OVERHEAD) / 2 == pytest.approx(TARGET, rel=0.01)


@pytest.mark.parametrize("most", [2, 7])
def test_size_of_a_batch_is_limited(most: int) -> None:
    made = backlog(*(Call() for _ in range(1000)))
    made.most = most
    assert [len(calls) for calls in calls_of(made.take(two_cores()))] == [most] * AHEAD


def test_batches_may_be_limited_to_one_call() -> None:
    made = backlog(*(Call() for _ in range(1000)))
    made.most = 1
    assert all(taken is not None and len(calls) == 1 for _, taken, calls in made.take(two_cores()))


def test_unknown_and_long_calls_travel_alone() -> None:
    made = backlog(Call("unknown"), Call("long"), Call("unknown"))
    assert [[call.category for call in task] for task in calls_of(made.take(two_cores()))] == [["unknown"], ["long"]]
    assert len(made) == 1


def test_long_calls_are_spread() -> None:
    taken = backlog(*(Call("long") for _ in range(4))).take(two_cores(nodes=2))
    assert sorted(room.key for room, _, _ in taken) == ["n0", "n0", "n1", "n1"]
    assert [room.key for room, _, _ in taken[:2]] != ["n0", "n0"]


def test_calls_go_to_their_inputs_while_they_fit() -> None:
    taken = backlog(*(Call("long", near="n1") for _ in range(3))).take(two_cores(nodes=2))
    assert [room.key for room, _, _ in taken] == ["n1", "n1", "n0"]


@pytest.mark.parametrize("need", [Need(2.0), Need(1.0, 3000.0), Need(0.5, 0.0, 60.0)])
def test_resources_are_counted(need: Need) -> None:
    rooms = two_cores()
    made = backlog(*(Call("long", need=need) for _ in range(2)))
    ((room, taken, _),) = made.take(rooms)
    assert made.take(rooms) == []
    assert taken is not None
    room.give(taken)
    assert len(made.take(rooms)) == 1


@pytest.mark.parametrize(
    ("need", "could"),
    [
        (Need(2.0, 4000.0, 100.0), True),
        (Need(3.0), False),
        (Need(1.0, 5000.0), False),
        (Need(1.0, 0.0, 101.0), False),
        (Need(0.0, gpus=1.0), False),
    ],
)
def test_impossible_calls_are_refused(need: Need, could: bool) -> None:
    assert two_cores()[0].could(need) is could


@pytest.mark.parametrize(
    ("kinds", "sent"),
    [
        ([Need(1.0, gpus=0.5)] * 3, 2),
        ([Need(1.0, gpus=0.6)] * 3, 1),
        ([Need(1.0, gpus=0.5), Need(1.0, gpus=1.0), Need(1.0, gpus=0.25)], 2),
        ([Need(1.0, gpu_memory=500.0), Need(1.0, gpu_memory=200.0), Need(1.0, gpu_memory=200.0)], 2),
    ],
)
def test_calls_share_a_gpu(kinds: list[Need], sent: int) -> None:
    room = Room(Need(8.0, 4000.0, 100.0, 1.0), 8, gpu_memory=(800.0,))
    taken = backlog(*(Call("long", need=need) for need in kinds)).take([room])
    assert len(taken) == sent
    for _, need, _ in taken:
        assert need is not None
        room.give(need)
    assert (room.busy.gpus, room.sharing) == (pytest.approx(0.0), {})
    assert room.fits(Need(1.0, gpus=1.0))


@pytest.mark.parametrize(
    ("memories", "fits", "could"),
    [(None, False, True), ((), False, False), ((800.0,), True, True), ((300.0,), False, False)],
)
@pytest.mark.parametrize("is_library", [False, True])
def test_gpu_memory_is_known_once_the_node_has_said_it(
    memories: tuple[float, ...] | None, fits: bool, could: bool, is_library: bool
) -> None:
    library = Library("model", 1, None, 0, 500.0) if is_library else None
    need = Need(1.0, library=library, gpu_memory=0.0 if is_library else 500.0)
    room = Room(Need(8.0, 4000.0, 100.0, 1.0), 8, gpu_memory=memories)
    assert (room.fits(need), room.could(need)) == (fits, could)


def test_exclusive_calls_are_never_put_together() -> None:
    taken = calls_of(backlog(*(Call(alone=True) for _ in range(20))).take(two_cores()))
    assert taken
    assert all(len(task) == 1 for task in taken)


def test_without_batching_every_call_travels_alone() -> None:
    taken = calls_of(backlog(*(Call() for _ in range(20)), enabled=False).take(two_cores()))
    assert taken
    assert all(len(task) == 1 for task in taken)


def test_waiting_call_delays_no_others() -> None:
    wide, narrow = Call("long", need=Need(2.0)), Call("long")
    rooms = two_cores()
    rooms[0].take(Need(1.0))
    assert calls_of(backlog(wide, narrow).take(rooms)) == [[narrow]]


def test_batches_avoid_nodes_that_are_full() -> None:
    rooms = two_cores(nodes=2)
    rooms[0].take(Need(2.0))
    assert backlog(Call()).take(rooms)[0][0] is rooms[1]


def test_priorities_are_not_mixed_and_higher_goes_first() -> None:
    low, high = [Call() for _ in range(3)], [Call(priority=1.0) for _ in range(3)]
    taken = calls_of(backlog(*low, *high).take(two_cores(nodes=4)))
    assert [call for task in taken for call in task] == [*high, *low]
    assert all(len({call.priority for call in task}) == 1 for task in taken)


def test_cancelled_calls_are_left_out() -> None:
    calls = [Call(), Call(over=True), Call()]
    taken = calls_of(backlog(*calls).take(two_cores()))
    assert [call for task in taken for call in task] == [calls[0], calls[2]]


def test_one_long_run_outweighs_many_short_ones() -> None:
    estimates = Estimates()
    for _ in range(100):
        estimates.learn("app", 0.001, 1)
    estimates.learn("app", 1.0, 1)
    assert (estimates.seconds.get("app") or 0) > SHORT


def test_largest_result_is_remembered() -> None:
    estimates = Estimates()
    assert estimates.largest.get("app") is None
    for length in (5, 50_000, 7):
        estimates.learn("app", 0.1, length)
    assert estimates.largest.get("app") == 50_000


@pytest.mark.parametrize(("seconds", "expected"), [(None, 4.0), (1.0, 4.0), (0.010, 2.0), (0.0, 1.0)])
def test_short_calls_alone_count_for_less(seconds: float | None, expected: float) -> None:
    assert cost(Need(4.0, 100.0), seconds) == Need(expected, 100.0)


@given(st.floats(0, SHORT), st.integers(1, 64), st.integers(1, 200_000), st.integers(0, 1000))
def test_size_is_within_bounds(seconds: float, slots: int, waiting: int, places: int) -> None:
    assert 1 <= size(seconds, slots, waiting, places) <= MOST


@given(st.lists(st.tuples(st.sampled_from(["short", "long", "unknown"]), st.integers(-2, 2), st.booleans())))
def test_every_call_is_taken_once(kinds: list[tuple[str, int, bool]]) -> None:
    calls = [Call(category, float(priority), alone=alone) for category, priority, alone in kinds]
    made = backlog(*calls)
    taken = []
    while made:
        tasks = made.take(two_cores())  # all earlier tasks have ended
        assert tasks
        taken += [call for task in calls_of(tasks) for call in task]
    assert sorted(call.sequence for call in taken) == sorted(call.sequence for call in calls)
    assert [call.priority for call in taken] == sorted((call.priority for call in calls), reverse=True)


# --- named libraries ---


MODEL, OTHER = Library("model", 2, None, 1), Library("other", None, 3000.0, 1)


def one_gpu(key: str = "n") -> Room:
    return Room(Need(8.0, 4000.0, 100.0, 1.0), 8, key=key)


def of(library: Library | None, category: str = "long", **need: float) -> Call:
    return Call(category, need=Need(1.0, **need, library=library))


def test_library_takes_its_gpus_once_and_has_its_slots() -> None:
    calls = [of(MODEL) for _ in range(3)]
    made, room = backlog(*calls), one_gpu()
    assert calls_of(made.take([room])) == [[call] for call in calls[:2]]
    assert room.libraries == {MODEL: 2}
    room.give(calls[0].need)
    assert calls_of(made.take([room])) == [[calls[2]]]


@pytest.mark.parametrize(("library", "gpus"), [(OTHER, 0.0), (None, 1.0)])
def test_others_wait_for_a_librarys_gpu(library: Library | None, gpus: float) -> None:
    model, other, plain = of(MODEL), of(library, gpus=gpus), of(None)
    made, room = backlog(model, other, plain), one_gpu()
    assert calls_of(made.take([room])) == [[model], [plain]]
    room.give(model.need)
    assert room.libraries == {}
    assert calls_of(made.take([room])) == [[other]]


def test_library_takes_its_memory_once() -> None:
    made, room = backlog(*(of(OTHER) for _ in range(3)), of(None, memory=1001.0), of(None, memory=1000.0)), one_gpu()
    assert [call.need.memory for (call,) in calls_of(made.take([room]))] == [0.0, 0.0, 0.0, 1000.0]


def test_batch_of_a_library_takes_its_gpus() -> None:
    made, room = backlog(*(of(MODEL, "short") for _ in range(10)), of(OTHER, "short")), one_gpu()
    batches = calls_of(made.take([room]))
    assert sum(map(len, batches)) == 10
    assert room.libraries == {MODEL: 2}
    for _ in batches:
        room.batches -= 1
        room.leave(MODEL)
    assert len(calls_of(made.take([room]))) == 1


@pytest.mark.parametrize("category", ["short", "long"])
def test_calls_go_where_their_library_runs(category: str) -> None:
    rooms = [one_gpu(key) for key in "abc"]
    rooms[1].warm = ("model",)
    ((room, _, _),) = backlog(of(MODEL, category)).take(rooms)
    assert room is rooms[1]


@pytest.mark.parametrize(
    ("library", "could"), [(MODEL, True), (Library("m", 1, None, 2), False), (Library("m", 1, 5000.0, 0), False)]
)
def test_library_that_can_never_fit(library: Library, could: bool) -> None:
    assert one_gpu().could(of(library).need) is could
