"""Lost files, and those that are recreated in vain."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import Completion, FileUse
from tests.unit.taskvine_manager.vine.manager import fake
from tests.unit.taskvine_manager.vine.manager.play import Play, X, invocation


def test_unrecoverable_file_is_not_recreated(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)), recoverable=False)
    play.make_temp(play.work[0], "x@1")
    play.manager.temps[0].replicas = 0
    play.engine.locate(7, "x@1")
    play.submit(invocation(2, inputs=(X,)))
    for record in (play.outlet.answers[7][0], play.outlet.completions[2].body):
        assert failure.lost_file(record) == "x@1"
    assert play.manager.running == []


def chain(play: Play, *, forget: bool = False) -> tuple[fake.Task, fake.Task, fake.Task]:
    """Submit two calls that make a file each, the second from the file of the first, and one that waits for the second
    file, which is lost. The first file is pruned with its task if no other task reads it.
    """
    play.join()
    play.submit(invocation(1, outputs=(X,)))
    first = play.work[0]
    play.make_temp(first, "x@1")
    play.submit(invocation(2, inputs=(X,), outputs=(FileUse("temp", "y", "y@2"),)))
    second = play.work[0]
    play.make_temp(second, "y@2")
    if forget:
        play.engine.forget(("x@1",))
    for temp in play.manager.temps:
        temp.replicas = 0
    play.manager.hold = True  # tasks that read the file are not sent
    play.submit(invocation(3, inputs=(FileUse("temp", "y", "y@2"),)))
    return first, second, play.manager.ready[-1]


@pytest.mark.parametrize("failing", [0, 1])
def test_file_whose_task_fails_when_it_runs_again_is_lost(make: Callable[..., Play], failing: int) -> None:
    """TaskVine would run the task for ever without a message; but the second answer comes from the same node."""
    play = make()
    tasks = chain(play)
    assert play.outlet.completions.keys() == {1, 2}
    record = failure.lost("memory", "it held too much")
    number = tasks[failing].parcel.invocations[0][0]
    tasks[failing].answer(Answer("b0-1", (tuple(Completion(number, failure.LOST, record, "b0-1", 1.0, 1.0, 1.0)),)))
    play.tick()
    body = pickle.loads(play.outlet.completions[3].body)  # type: ignore[arg-type]
    assert (body["kind"], body["name"]) == ("file-lost", "y@2")
    assert body["reason"] == "y@2 was lost with node b0-1, and making it again failed: it held too much"
    assert tasks[2] not in play.manager.ready


def test_file_recreated_in_vain_is_lost(make: Callable[..., Play]) -> None:
    play = make()
    waiting = chain(play)[2]
    play.engine.locate(7, "y@2")
    play.tick()
    assert play.outlet.completions.keys() == {1, 2}
    play.manager.stats.tasks_recovery = 1000
    play.tick()
    assert failure.lost_file(play.outlet.completions[3].body) == "y@2"
    assert failure.lost_file(play.outlet.answers[7][0]) == "y@2"
    assert play.engine.waiting == 0
    assert waiting not in play.manager.ready


def test_input_can_be_recreated_as_long_as_its_outputs_exist(make: Callable[..., Play]) -> None:
    play = make()
    first, second, waiting = chain(play, forget=True)
    x, y = play.manager.temps
    assert x.declared
    assert first.outputs["out"].declared
    play.manager.hold = False
    x.replicas = y.replicas = 1
    play.hear()
    play.tick()
    play.finish(waiting)
    play.engine.forget(("y@2",))
    assert not any(file.declared for file in (x, y, first.outputs["out"], second.outputs["out"]))
