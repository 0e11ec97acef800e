"""Statistics of categories, waits, and what losses cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from taskvine_exec.insight import statistics
from taskvine_exec.insight.history import HistoryFold
from taskvine_exec.insight.paths import parents
from taskvine_exec.insight.statistics import NodeLoss, Span
from taskvine_manager.record import VERSION, events
from taskvine_manager.record.events import encoded
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import FileUse, Profile

RETURNED, RAISED = failure.RETURNED, failure.RAISED
PROFILES = [
    Profile(0, "key", "f", "L2", None, None, None, None, 0.0, "fast"),
    Profile(1, "key", "g", "L2", None, None, None, None, 0.0, "parsl-default"),
]
VALUE = FileUse("value", "", "v0")


def node(name: str, slots: int = 1) -> events.NodeStarted:
    return events.NodeStarted(name, float(slots), 100.0, 100.0, 0, slots, "0", 7, f"/nodes/{name}")


def folded(*entries: tuple[Any, ...]) -> HistoryFold:
    fold = HistoryFold()
    fold.take(("run", VERSION, 0.0, {"engine": "embedded", "details": True}))
    fold.take(("profiles", PROFILES))
    for entry in entries:
        fold.take(entry)
    return fold


def happened(time: float, *these: events.Event) -> tuple[Any, ...]:
    return ("events", time, encoded(these))


def submitted(time: float, number: int, profile: int = 0, inputs: Any = (), outputs: Any = ()) -> tuple[Any, ...]:
    return ("submitted", time, [(number, profile, 5, inputs, outputs)])


def done(number: int, began: float, seconds: float, outcome: int = RETURNED, where: str = "n1") -> tuple[Any, ...]:
    return ("done", began + seconds, [(number, outcome, where, began - 0.5, began, seconds, 7, (), "")])


def spans(fold: HistoryFold) -> list[Span]:
    return statistics.spans(fold.state, statistics.categories(fold.state))


def test_category_is_the_functions_name_if_there_is_none() -> None:
    fold = folded(submitted(1.0, 0), submitted(1.0, 1, profile=1), submitted(1.0, 2, profile=9))
    assert statistics.categories(fold.state) == {0: "fast", 1: "g", 2: "unknown"}


def test_statistics_of_a_category() -> None:
    tasks = [submitted(1.0, number) for number in range(21)]
    ends = [done(number, 2.0 + number, 1.0 + number) for number in range(20)]
    fold = folded(*tasks, *ends, ("cancelled", 50.0, [20]))
    ran = spans(fold)
    (fast,) = statistics.by_category(fold.state, dict.fromkeys(fold.state.tasks, "fast"), ran, {0: (1.0, 4.0)})
    assert fast.outcomes == Counter(returned=20, cancelled=1)
    assert (fast.tasks, fast.failed, fast.total, fast.longest) == (21, 0, 210.0, 20.0)
    assert fast.median == pytest.approx(10.5)
    assert fast.p95 == pytest.approx(19.05)
    assert (fast.wait, fast.result_bytes) == (3.0, 140)


def test_failed_tasks_are_counted() -> None:
    fold = folded(submitted(1.0, 0), done(0, 2.0, 1.0, RAISED))
    (fast,) = statistics.by_category(fold.state, {0: "fast"}, spans(fold), {})
    assert (fast.failed, fast.median, fast.wait) == (1, 1.0, None)


def test_wait_is_from_the_last_input_until_it_runs() -> None:
    fold = folded(
        submitted(1.0, 0, outputs=[VALUE]),
        submitted(2.0, 1, inputs=[VALUE]),
        submitted(2.0, 2, inputs=[VALUE]),
        done(0, 3.0, 4.0),
        happened(7.0, events.Made("v0", events.MANAGER, 5)),
        done(1, 9.0, 1.0),
        happened(12.0),
    )
    waits = statistics.waits(fold.state, parents(fold.state), spans(fold))
    assert waits == {0: (1.0, 3.0), 1: (7.0, 9.0), 2: (7.0, 12.0)}


def test_task_behind_a_failed_one_does_not_wait() -> None:
    tasks = [submitted(1.0, 0, outputs=[VALUE]), submitted(2.0, 1, inputs=[VALUE])]
    fold = folded(*tasks, done(0, 3.0, 4.0, RAISED), ("cancelled", 8.0, [1]))
    assert set(statistics.waits(fold.state, parents(fold.state), spans(fold))) == {0}


@pytest.mark.parametrize("began", [float("nan"), float("inf")])
def test_impossible_times_are_left_out(began: float) -> None:
    fold = folded(submitted(1.0, 0), ("done", 2.0, [(0, RETURNED, "n1", 1.0, began, 1.0, 7, (), "")]))
    assert spans(fold) == []


def test_negative_run_time_is_none() -> None:
    fold = folded(submitted(1.0, 0), done(0, 3.0, -2.0))
    assert spans(fold) == [Span(0, "fast", "n1", 3.0, 3.0)]


def test_cost_of_a_lost_node() -> None:
    fold = folded(
        happened(1.0, node("n1", slots=2), node("n2")),
        *(submitted(1.0, number, outputs=[FileUse("temp", f"x{number}", f"x{number}")]) for number in range(5)),
        happened(1.0, events.Placed("n1", [0, 1, 2, 3], "spread")),
        done(0, 2.0, 3.0),
        happened(5.0, events.Made("x0", "n1", 900)),
        # One slot has run task 1 since 1.0 at the earliest, the other one task 2 since 5.0. Task 3 had no slot.
        happened(
            8.0,
            events.NodeEnded("n1", "its connection ended", False),
            events.Lost("x0", "n1"),
            *(events.Requeued(number, "node-lost", 1) for number in (1, 2, 3)),
            events.Recovery(-1, 0, [("x0", "n1")]),
            events.Placed("n2", [-1], "spread"),
        ),
        happened(12.0, events.RecoveryEnded(-1)),
        happened(13.0, events.NodeEnded("n2", "its connection ended", True)),
    )
    (loss,) = statistics.losses(fold.state, fold.history, spans(fold))
    assert loss == NodeLoss("n1", fold.history.nodes[0], 3, 7.0 + 3.0, 1, 900, 1, 4.0)
    assert loss.seconds == 14.0


def test_file_that_was_dropped_and_is_needed_again() -> None:
    fold = folded(
        happened(1.0, node("n1")),
        submitted(1.0, 0, outputs=[VALUE]),
        done(0, 2.0, 1.0),
        happened(4.0, events.Recovery(-1, 0, [("v0", "")]), events.Placed("n1", [-1], "spread")),
        happened(6.0, events.RecoveryEnded(-1)),
    )
    assert statistics.losses(fold.state, fold.history, spans(fold)) == [
        NodeLoss("", None, recovered=1, recovered_seconds=2.0)
    ]


def test_node_that_was_told_to_leave_costs_nothing() -> None:
    fold = folded(happened(1.0, node("n1")), happened(2.0, events.NodeEnded("n1", "", True)))
    assert statistics.losses(fold.state, fold.history, []) == []


def test_totals() -> None:
    fold = folded(
        happened(2.0, node("n1", slots=3), node("n2")),
        submitted(2.0, 0),
        submitted(2.0, 1),
        done(0, 3.0, 4.0),
        happened(8.0, events.NodeEnded("n2", "", False), events.Made("x", "n1", 50)),
        ("end", 10.0),
    )
    totals = statistics.totals(fold.state, fold.history, spans(fold))
    assert (totals.start, totals.end, totals.seconds) == (0.0, 10.0, 10.0)
    assert totals.outcomes == Counter(returned=1, ready=1)
    assert (totals.busy, totals.available) == (4.0, 3 * 8.0 + 6.0)
    assert totals.stored == 50
