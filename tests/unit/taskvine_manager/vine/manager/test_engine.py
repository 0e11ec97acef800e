"""The requests that the engine answers, and the ends of tasks."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.checking import VARIABLE, InvariantBroken
from taskvine_manager.vine.manager import engine, events, invariants
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import L2, Completion, Invocation, Profile
from tests.unit.taskvine_manager.vine.manager.play import Play, X, invocation


def nothing_is_wrong(_: object) -> Iterator[str]:
    """An invariant that is always broken."""
    yield "something is"


@pytest.mark.parametrize("value", ["0", "1"])
def test_environment_makes_the_core_check_itself(
    make: Callable[..., Play], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    play = make()
    monkeypatch.setattr(invariants, "INVARIANTS", (nothing_is_wrong,))
    if value == "0":
        play.submit(invocation(1))
    else:
        with pytest.raises(InvariantBroken, match=r"nothing_is_wrong, after event \d+ \(Submitted\)"):
            play.submit(invocation(1))


def test_task_goes_to_the_node_and_its_result_home(make: Callable[..., Play]) -> None:
    play = make()
    play.submit(invocation(1))
    assert play.work == []
    play.join()
    (task,) = play.work
    assert task.features == ["b0-1"]
    play.finish(task, body=b"result")
    assert play.outlet.completions[1].body == b"result"
    assert play.outlet.joined[0]["directory"] == "/dir"
    assert all(not file.declared for file in task.outputs.values())


def test_short_tasks_travel_together_once_they_are_known(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(*(invocation(number) for number in range(40)))
    first = play.work
    assert [len(task.parcel.invocations) for task in first] == [1, 1]
    for task in first:
        play.finish(task, seconds=0.0001)
    assert sorted(len(task.parcel.invocations) for task in play.work) == [19, 19]


def test_missing_answers_of_a_batch_are_collected(make: Callable[..., Play]) -> None:
    play = make()
    play.join("b0-1")
    play.join("b1-2")
    play.submit(invocation(1))
    (task,) = play.work
    number = task.parcel.number
    play.end(task, Answer("node", (), open=True))
    (collecting,) = play.work
    assert (collecting.parcel.kind, collecting.parcel.number) == ("collect", number)
    assert collecting.features == task.features
    done = (tuple(Completion(1, failure.RETURNED, b"late", "node", 1.0, 1.0, 1.0)),)
    play.end(collecting, Answer("node", done))
    assert play.outlet.completions[1].body == b"late"


def test_node_that_forgot_a_task_gets_it_again(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(invocation(1))
    play.end(play.work[0], Answer("node", ()))
    assert [task.parcel.invocations[0][0] for task in play.work] == [1]


@pytest.mark.parametrize("result", ["forsaken", "missing library", "library exit"])
def test_faults_of_the_system_are_retried(make: Callable[..., Play], result: str) -> None:
    play = make(max_retries=2)
    play.join()
    play.submit(invocation(1))
    for _ in range(3):
        (task,) = play.work
        play.end(task, None, result)
    assert play.outlet.completions[1].outcome == failure.LOST
    (library,) = play.manager.libraries.values()
    assert task.library == library.name


def test_missing_input_is_no_fault_of_the_system(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(invocation(1))
    play.end(play.work[0], None, "input missing")
    assert pickle.loads(play.outlet.completions[1].body)["kind"] == "file-missing"  # type: ignore[arg-type]


@pytest.mark.parametrize("before", [True, False])
def test_request_that_no_node_can_hold_fails(make: Callable[..., Play], before: bool) -> None:
    play = make()
    if before:
        play.join()
    play.submit(invocation(1), cores=64.0)
    play.submit(invocation(2))
    if not before:
        play.join()
    record = pickle.loads(play.outlet.completions[1].body)  # type: ignore[arg-type]
    assert (record["kind"], record["requested"]) == ("unsatisfiable", {"cores": 64.0})
    assert [task.parcel.invocations[0][0] for task in play.work] == [2]


def test_cancelled_tasks_are_dropped_or_killed(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(*(invocation(number) for number in range(4)))
    running = {task.parcel.invocations[0][0] for task in play.work}
    play.engine.cancel((0, 1, 2, 3))
    play.tick()
    (told,) = [task for task in play.work if task.parcel.kind == "cancel"]
    assert set(told.parcel.numbers) == running
    for task in play.work:
        if task.parcel.kind == "run":
            play.finish(task)
    assert play.outlet.completions == {}


def test_function_submitted_again_soon_keeps_its_file(
    make: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RETIREMENT", 1e9)
    play = make()
    play.join()

    def run(number: int) -> str:
        """Run a call of a large function and forget its profile; return the path of the function's file."""
        profile = Profile(number, "g", "app", L2, None, None, None, None, 0.0, "app", True)
        play.engine.submit([("g", b"function" * 1000)], [profile], [Invocation(number, number, b"")])
        play.tick()
        (task,) = play.work
        play.finish(task)
        play.engine.retire((number,))
        del profile
        play.tick()
        return str(dict(task.parcel.functions)["g"])

    paths = {run(number) for number in range(1, 5)}
    (path,) = paths  # nodes know the function by this path
    assert os.path.exists(path)
    monkeypatch.setattr(engine, "RETIREMENT", 0.0)
    play.manager.running.clear()
    gc.collect()
    play.tick()
    assert not os.path.exists(path)
    assert [task.parcel.kind for task in play.work] == ["retire"]


def test_snapshot_has_tasks_and_files(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(*(invocation(number) for number in range(3)), cores=2.0)
    play.submit(invocation(3, outputs=(X,)), invocation(4, inputs=(X,)))
    said = {number: (state, node) for number, state, node, _ in play.engine.snapshot()["tasks"]}
    assert said[0] == ("assigned", "b0-1")
    assert said[1] == said[2] == said[3] == ("ready", "")
    assert said[4] == ("waiting", "")
    assert play.engine.waiting == 1


def test_retry_is_reported(make: Callable[..., Play]) -> None:
    play = make()
    address = play.join()
    play.submit(invocation(1))
    play.manager.leave(address)
    play.tick()
    assert play.outlet.tried == [1]
    assert play.engine.stats()["tasks_retried"] == 1


def test_engine_stops_once(make: Callable[..., Play], tmp_path: Path) -> None:
    play = make()
    assert (tmp_path / "vine.address").read_text() == "9123"
    play.engine.stop()
    play.engine.stop()
    assert play.engine.stopped
    assert play.manager.closed
    assert not (tmp_path / "vine.address").exists()


def test_every_instruction_has_a_handler(make: Callable[..., Play]) -> None:
    assert make().engine.instructions.keys() == set(events.Instruction.__subclasses__())
