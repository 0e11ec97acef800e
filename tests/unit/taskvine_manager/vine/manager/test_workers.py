"""Workers that join, leave and are waited for."""

from __future__ import annotations

import pickle
from collections.abc import Callable

from taskvine_manager.runtime import failure
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import Completion, FileUse
from tests.unit.taskvine_manager.vine.manager.play import Play, X, invocation


def test_suspect_of_a_lost_node_runs_alone(make: Callable[..., Play]) -> None:
    play = make(max_retries=1)
    first = play.join("b0-1")
    play.submit(invocation(1), invocation(2))
    assert len(play.work) == 2
    second = play.join("b1-2")
    play.manager.leave(first)
    play.tick()
    (again,) = play.work  # one of the two, because either may have caused it
    play.manager.leave(second)
    play.join("b2-3")
    number = again.parcel.invocations[0][0]
    record = pickle.loads(play.outlet.completions[number].body)  # type: ignore[arg-type]
    assert record["kind"] == "node-lost"
    assert "attempt 2" in record["reason"]
    (other,) = play.work
    play.finish(other)
    assert play.outlet.completions[3 - number].outcome == failure.RETURNED


def test_request_for_a_larger_node_waits_where_nodes_differ(make: Callable[..., Play]) -> None:
    play = make(uniform=False)
    play.join()
    play.submit(invocation(1), cores=4.0)
    assert play.work == []
    play.join("b9-9", cores=8)
    assert [task.features for task in play.work] == [["b9-9"]]


def test_draining_node_gets_no_tasks_and_is_released(make: Callable[..., Play]) -> None:
    play = make()
    play.join("b0-1")
    play.submit(invocation(1))
    (task,) = play.work
    play.engine.drain("0")
    play.join("b1-2")
    play.submit(invocation(2))
    assert [other.features for other in play.work if other is not task] == [["b1-2"]]
    assert play.outlet.gone == []
    play.finish(task)
    assert play.outlet.gone == ["0"]


def test_draining_node_goes_once_another_has_its_files(make: Callable[..., Play]) -> None:
    play = make()
    play.join("b0-1")
    play.submit(invocation(1, outputs=(X,)))
    done = (tuple(Completion(1, failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.manager.end(play.work[0], Answer("b0-1", done))
    play.hear()
    play.engine.drain("0")
    play.tick()
    assert play.outlet.gone == []  # the last node with data stays
    play.manager.join("b1-2")
    play.tick()
    play.greet()  # this carries out the copy, too
    play.tick()
    assert play.outlet.gone == ["0"]


def test_files_have_the_configured_number_of_replicas(make: Callable[..., Play]) -> None:
    play = make()
    for number in range(2):
        play.join(f"b{number}-{number}")
    play.submit(invocation(1, outputs=(FileUse("temp", "x", "x@1", 3),)), cores=2.0)
    task = play.work[0]
    maker = task.features[0]
    temp = play.manager.temps[0]
    done = (tuple(Completion(1, failure.RETURNED, b"N.", maker, 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.end(task, Answer(maker, done))
    (copying,) = play.manager.running
    assert (copying.parcel.kind, copying.inputs["i0"]) == ("hello", temp)
    assert copying.features == [f"b{1 - int(maker[1])}-{1 - int(maker[1])}"]
    play.greet()
    assert play.manager.running == []
    address = play.manager.join("b2-2")
    play.tick()
    assert [task.addrport for task in play.manager.running if temp in task.inputs.values()] == [address]


def test_tasks_wait_for_workers(make: Callable[..., Play]) -> None:
    play = make(wait_for_nodes=2)
    play.join("b0-1")
    play.submit(invocation(1))
    assert play.work == []
    play.join("b1-2")
    assert len(play.work) == 1


def test_workers_are_waited_for_by_the_engine(make: Callable[..., Play]) -> None:
    play = make(tune={"wait-for-workers": 2})
    play.join("b0-1")
    play.submit(invocation(1))
    assert play.work == []
    assert "wait-for-workers" not in play.manager.tuned
    play.join("b1-2")
    assert len(play.work) == 1
