"""What a state forgets: levels over time, transfers, losses and lost attempts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from taskvine_exec.insight.history import HOSTLESS, Flow, HistoryFold, Loss
from taskvine_manager.record import VERSION, events
from taskvine_manager.record.events import encoded
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import FileUse, Profile
from tests.unit.taskvine_exec.insight import synthetic

PROFILE = Profile(0, "key", "f", "L2", None, None, None, None, 0.0, "f")
FILE = FileUse("temp", "x", "x")


def node(name: str, slots: int = 1) -> events.NodeStarted:
    return events.NodeStarted(name, float(slots), 100.0, 100.0, 0, slots, "0", 7, f"/nodes/{name}")


def folded(*happened: tuple[float, list[events.Event]], tasks: int = 3) -> HistoryFold:
    fold = HistoryFold()
    fold.take(("run", VERSION, 1.0, {"engine": "embedded", "details": True}))
    fold.take(("profiles", [PROFILE]))
    fold.take(("submitted", 1.0, [(number, 0, 5, [], [FILE]) for number in range(tasks)]))
    for time, these in happened:
        fold.take(("events", time, encoded(these)))
    return fold


NAMES = st.sampled_from(["a", "b"])
NODES = st.sampled_from(["n1", "n2"])
CHANGES = st.one_of(
    st.builds(events.Made, NAMES, NODES | st.sampled_from(HOSTLESS), st.integers(0, 99)),
    st.builds(events.Dropped, NAMES, NODES | st.just("") | st.sampled_from(HOSTLESS), st.just("unneeded")),
    st.builds(events.Lost, NAMES, NODES),
    st.builds(events.Evicted, NODES, st.just(5), st.lists(NAMES)),
    st.builds(events.Forgotten, st.lists(NAMES)),
    st.builds(events.InputEnded, st.just("/data"), NODES, st.integers(0, 99), st.booleans()),
    st.builds(events.NodeEnded, NODES, st.just("gone"), st.booleans()),
    NODES.map(node),
)


@given(st.lists(CHANGES, max_size=40))
def test_levels_are_those_of_the_state(changes: list[events.Event]) -> None:
    fold = folded((1.5, [node("n1"), node("n2")]))
    for number, change in enumerate(changes):
        fold.take(("events", 2.0 + number, encoded([change])))
        files = [file for file in fold.state.files.values() if file.holders]
        replicas = [(place, size) for file in files for place, size in file.holders.items()]
        there = fold.history.stored[-1] if fold.history.stored else (0,) * 7
        assert tuple(there)[1:] == (
            sum(size for place, size in replicas if place not in HOSTLESS),
            sum(size for place, size in replicas if place in HOSTLESS),
            sum(file.size for file in files),
            sum(sum(copies.values()) for copies in fold.state.inputs.values()),
            len(files),
            len(replicas),
        )


def test_levels_of_a_whole_run() -> None:
    fold = HistoryFold()
    for entry in synthetic.run(2000, 5, 4):
        fold.take(entry)
    files = [file for file in fold.state.files.values() if file.holders]
    last = fold.history.stored[-1]
    assert (last.nodes, last.files) == (sum(sum(file.holders.values()) for file in files), len(files))
    assert last.replicas > last.files


def test_flows_have_source_and_target() -> None:
    start = events.TransferStarted("x", "n2", "n1", True)
    fold = folded(
        (2.0, [node("n1"), node("n2"), start]),
        (3.0, [events.TransferEnded("x", "n2", 40, 0.5), start._replace(for_task=False)]),
        (4.0, [events.TransferEnded("x", "n2", 60, 1.5), start]),
        (5.0, [events.TransferEnded("x", "n2", problem="connection lost")]),
        (6.0, [events.InputStarted("/data", "n1", events.FILES)]),
        (8.0, [events.InputEnded("/data", "n1", 7, True)]),
    )
    assert fold.history.flows == {
        ("n1", "n2"): Flow(2, 100, 2.0, failed=1, further=1),
        ("files", "n1"): Flow(1, 7, 2.0),
    }


def test_lost_attempts_and_files() -> None:
    fold = folded(
        (2.0, [node("n1"), events.Placed("n1", [0, 1], "spread"), events.Made("x", "n1", 9)]),
        (5.0, [events.NodeEnded("n1", "gone", False), events.Lost("x", "n1"), events.Requeued(1, "node-lost", 1)]),
        (5.0, [events.Recovery(-1, 2, [("x", "n1")])]),
    )
    assert [tuple(attempt) for attempt in fold.history.attempts] == [(1, "n1", 2.0, 5.0, "node-lost")]
    assert fold.history.losses == {"n1": Loss(1, 9)}
    assert [*fold.history.causes[-1]] == [("x", "n1")]
    fold.take(("done", 6.0, [(0, failure.LOST, "n1", 0.0, 0.0, 0.0, 5, (), "node-lost")]))
    assert fold.history.attempts[-1].number == 0
    assert fold.history.kinds == {0: "node-lost"}


def test_cancelled_attempt() -> None:
    fold = folded((2.0, [node("n1"), events.Placed("n1", [0], "spread")]))
    fold.take(("cancelled", 4.0, [0, 1]))
    assert [tuple(attempt) for attempt in fold.history.attempts] == [(0, "n1", 2.0, 4.0, "cancelled")]


def test_nodes_of_one_name_are_two() -> None:
    fold = folded((2.0, [node("n1")]), (3.0, [events.NodeEnded("n1", "gone", False)]), (4.0, [node("n1")]))
    assert [each.left for each in fold.history.nodes] == [3.0, None]


def test_changed_parameters() -> None:
    fold = folded()
    entry: tuple[Any, ...] = ("tuned", 3.0, {"temp-replica-count": 2})
    fold.take(entry)
    assert fold.history.tuned == [(3.0, {"temp-replica-count": 2})]
