"""The engine's own logic, over a fake TaskVine whose workers the test plays."""

from __future__ import annotations

import gc
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.node.cache import Source, check
from taskvine_manager.runtime import claims, failure
from taskvine_manager.vine.manager import engine
from taskvine_manager.vine.manager.batching import MOST
from taskvine_manager.vine.manager.core import PIECE
from taskvine_manager.vine.manager.engine import VineConfig, VineEngine
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import L2, Completion, FileUse, Invocation, Profile
from tests.unit.taskvine_manager.node.test_config import config as node_config
from tests.unit.taskvine_manager.vine.manager import fake


class Outlet:
    def __init__(self) -> None:
        self.completions: dict[int, Completion] = {}
        self.joined: list[dict[str, Any]] = []
        self.gone: list[str] = []
        self.said: list[bytes] = []
        self.tried: list[int] = []
        self.answers: dict[int, Any] = {}

    def done(self, completions: list[Completion]) -> None:
        self.completions.update((completion.number, completion) for completion in completions)

    def again(self, numbers: list[int], reason: str) -> None:
        self.tried += numbers

    def located(self, request: int, answer: Any) -> None:
        self.answers[request] = answer

    def radio(self, said: list[bytes]) -> None:
        self.said += said

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        self.joined = nodes

    def drained(self, block: str) -> None:
        self.gone.append(block)


class Play:
    """An engine, its outlet, and the fake manager below it."""

    def __init__(self, base: Path, **config: Any) -> None:
        for name in ("spool", "nodes"):
            (base / name).mkdir()
        self.outlet = Outlet()
        settings = {
            "nodes": node_config(slots=None),
            "python": "python3",
            "log": str(base),
            "slots": 2,
            **config,
        }
        self.engine = VineEngine(
            str(base), VineConfig(**settings), self.outlet, lambda *_: None, lambda *_: None, vine=fake.module()
        )
        self.manager: fake.Manager = self.engine._vine.manager
        self._profiles: dict[tuple[Any, ...], int] = {}

    def tick(self) -> None:
        self.engine._looked = 0.0
        self.engine._look_due = True
        for _ in range(50):
            if self.engine.tick() != 0.0:
                return
        raise AssertionError("it never comes to rest")

    def join(self, name: str = "b0-1", **node: Any) -> str:
        address = self.manager.join(name, **node)
        self.tick()
        self.greet()
        return address

    def greet(self) -> None:
        for task in [task for task in self.manager.running if task.parcel.kind == "hello"]:
            self.manager.end(task, Answer("node", info=("node", 1.0, 1.0, 1.0, 0, None, "", 7, "/dir")))
        self.engine._event()
        self.tick()

    def submit(self, *invocations: Invocation, **profile: Any) -> None:
        settings = {
            "category": "app",
            "cores": None,
            "memory": None,
            "gpus": None,
            "priority": 0.0,
            "recoverable": True,
            "running_time_min": None,
        }
        settings |= profile
        key = tuple(sorted(settings.items()))
        number = self._profiles.setdefault(key, len(self._profiles))
        made = Profile(
            number,
            "f",
            "app",
            L2,
            settings["cores"],
            settings["memory"],
            None,
            settings["gpus"],
            settings["priority"],
            settings["category"],
            settings["recoverable"],
            settings["running_time_min"],
        )
        self.engine.submit([("f", b"function")], [made], [each._replace(profile=number) for each in invocations])
        self.tick()

    @property
    def work(self) -> list[fake.Task]:
        return [task for task in self.manager.running if task.parcel.kind != "hello"]

    def finish(self, task: fake.Task, *, seconds: float = 0.5, body: bytes = b"N.", open_: bool = False) -> None:
        done = tuple(
            tuple(Completion(item[0], failure.RETURNED, body, "node", 1.0, 1.0, seconds))
            for item in task.parcel.invocations
        )
        self.manager.end(task, Answer("node", done, open_))
        self.engine._event()
        self.tick()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Play]:
    return lambda **config: Play(tmp_path, **config)


def call(number: int, **settings: Any) -> Invocation:
    return Invocation(number, 0, b"arguments", **settings)


def test_call_goes_to_the_node_and_its_result_home(make: Callable[..., Play]) -> None:
    play = make()
    play.submit(call(1))
    assert play.work == []
    play.join()
    (task,) = play.work
    assert task.features == ["b0-1"]
    play.finish(task, body=b"result")
    assert play.outlet.completions[1].body == b"result"
    assert play.outlet.joined[0]["directory"] == "/dir"
    assert all(not file.declared for file in task.outputs.values())


def test_short_calls_travel_together_once_they_are_known(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(*(call(number) for number in range(40)))
    first = play.work
    assert [len(task.parcel.invocations) for task in first] == [1, 1]
    for task in first:
        play.finish(task, seconds=0.0001)
    assert sorted(len(task.parcel.invocations) for task in play.work) == [19, 19]


def test_window_is_bounded(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(*(call(number) for number in range(5000)))
    assert len(play.manager.ready) + len(play.manager.running) <= 2


def test_what_a_batch_leaves_open_is_collected_from_its_node(make: Callable[..., Play]) -> None:
    play = make()
    play.join("b0-1")
    play.join("b1-2")
    play.submit(call(1))
    (task,) = play.work
    number = task.parcel.number
    play.manager.end(task, Answer("node", (), open=True))
    play.engine._event()
    play.tick()
    (collecting,) = play.work
    assert (collecting.parcel.kind, collecting.parcel.number) == ("collect", number)
    assert collecting.features == task.features
    done = (tuple(Completion(1, failure.RETURNED, b"late", "node", 1.0, 1.0, 1.0)),)
    play.manager.end(collecting, Answer("node", done))
    play.engine._event()
    play.tick()
    assert play.outlet.completions[1].body == b"late"


def test_node_that_forgot_a_call_gets_it_again(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(call(1))
    play.manager.end(play.work[0], Answer("node", ()))
    play.engine._event()
    play.tick()
    assert [task.parcel.invocations[0][0] for task in play.work] == [1]


def test_lost_node_is_charged_and_the_suspect_tried_alone(make: Callable[..., Play]) -> None:
    play = make(max_retries=1)
    first = play.join("b0-1")
    play.submit(call(1), call(2))
    assert len(play.work) == 2
    second = play.join("b1-2")
    play.manager.leave(first)
    play.tick()
    (again,) = play.work  # one of the two, for either may have done it
    play.manager.leave(second)
    play.join("b2-3")
    number = again.parcel.invocations[0][0]
    record = pickle.loads(play.outlet.completions[number].body)  # type: ignore[arg-type]
    assert record["kind"] == "node-lost"
    assert "attempt 2" in record["reason"]
    (other,) = play.work
    play.finish(other)
    assert play.outlet.completions[3 - number].outcome == failure.RETURNED


@pytest.mark.parametrize("result", ["forsaken", "missing library", "library exit"])
def test_faults_of_the_system_are_tried_again(make: Callable[..., Play], result: str) -> None:
    play = make(max_retries=2)
    play.join()
    play.submit(call(1))
    for _ in range(3):
        (task,) = play.work
        play.manager.end(task, None, result)
        play.engine._event()
        play.tick()
    assert play.outlet.completions[1].outcome == failure.LOST
    (library,) = play.manager.libraries.values()
    assert task.library == library.name


def test_missing_input_is_no_fault_of_the_system(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(call(1))
    play.manager.end(play.work[0], None, "input missing")
    play.engine._event()
    play.tick()
    assert pickle.loads(play.outlet.completions[1].body)["kind"] == "file-missing"  # type: ignore[arg-type]


@pytest.mark.parametrize("before", [True, False])
def test_request_that_no_node_can_hold_fails(make: Callable[..., Play], before: bool) -> None:
    play = make()
    if before:
        play.join()
    play.submit(call(1), cores=64.0)
    play.submit(call(2))
    if not before:
        play.join()
    record = pickle.loads(play.outlet.completions[1].body)  # type: ignore[arg-type]
    assert (record["kind"], record["requested"]) == ("unsatisfiable", {"cores": 64.0})
    assert [task.parcel.invocations[0][0] for task in play.work] == [2]


def test_request_for_a_larger_node_waits_where_nodes_differ(make: Callable[..., Play]) -> None:
    play = make(uniform=False)
    play.join()
    play.submit(call(1), cores=4.0)
    assert play.work == []
    play.join("b9-9", cores=8)
    assert [task.features for task in play.work] == [["b9-9"]]


def test_temp_file_is_an_edge_and_goes_with_its_last_reader(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)), call(2, inputs=(FileUse("temp", "x", "x@1"),)))
    assert play.engine.waiting == 1
    (producer,) = play.work
    (temp,) = play.manager.temps
    assert temp in producer.outputs.values()
    done = (tuple(Completion(1, failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.manager.end(producer, Answer("b0-1", done, files={"x@1": (1, 2, 5)}))
    play.engine._event()
    play.tick()
    (consumer,) = play.work
    assert temp in consumer.inputs.values()
    play.engine.forget(("x@1",))
    assert temp.declared
    assert producer.outputs["out"].declared  # TaskVine may have to run it again
    play.finish(consumer)
    assert not temp.declared
    assert not producer.outputs["out"].declared


def test_result_that_others_read_stays_until_it_is_known_to_be_small(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("value", "", "r1"),)))
    (task,) = play.work
    assert play.manager.temps[0] in task.outputs.values()
    play.finish(task, body=b"small")
    assert not play.manager.temps[0].declared
    play.submit(call(2, inputs=(FileUse("value", "", "r1"),), outputs=(FileUse("value", "", "r2"),)))
    (reader,) = play.work
    assert reader.parcel.values == {"r1": b"small"}
    assert len(play.manager.temps) == 1


def test_cancelled_calls_are_dropped_or_killed(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(*(call(number) for number in range(4)))
    running = {task.parcel.invocations[0][0] for task in play.work}
    play.engine.cancel((0, 1, 2, 3))
    play.tick()
    (told,) = [task for task in play.work if task.parcel.kind == "cancel"]
    assert set(told.parcel.numbers) == running
    for task in play.work:
        if task.parcel.kind == "run":
            play.finish(task)
    assert play.outlet.completions == {}


def test_draining_node_gets_nothing_new_and_is_let_go(make: Callable[..., Play]) -> None:
    play = make()
    play.join("b0-1")
    play.submit(call(1))
    (task,) = play.work
    play.engine.drain("0")
    play.join("b1-2")
    play.submit(call(2))
    assert [other.features for other in play.work if other is not task] == [["b1-2"]]
    assert play.outlet.gone == []
    play.finish(task)
    assert play.outlet.gone == ["0"]


def test_what_makes_temp_files_is_tied_to_its_node_only_after_it_was_submitted(
    make: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TaskVine copies a task as it is submitted, to make its files again: the node may be gone then."""
    copies: list[list[str]] = []
    submit = fake.Manager.submit
    monkeypatch.setattr(
        fake.Manager, "submit", lambda self, task: copies.append(list(task.features)) or submit(self, task)
    )
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    assert copies[-1] == []
    assert play.work[0].features == ["b0-1"]


def test_draining_node_goes_once_another_has_its_files(make: Callable[..., Play]) -> None:
    play = make()
    play.join("b0-1")
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    done = (tuple(Completion(1, failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.manager.end(play.work[0], Answer("b0-1", done))
    play.engine._event()
    play.engine.drain("0")
    play.tick()
    assert play.outlet.gone == []  # the last node with data stays
    play.manager.join("b1-2")
    play.tick()
    play.greet()  # this brings the copy, too
    play.tick()
    assert play.outlet.gone == ["0"]


def test_lost_file_is_made_again_before_it_is_fetched(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    done = (tuple(Completion(1, failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.manager.end(play.work[0], Answer("b0-1", done))
    play.engine._event()
    play.tick()
    play.manager.temps[0].replicas = 0
    play.engine.locate(7, "x@1")
    assert play.outlet.answers == {}
    assert play.engine.waiting == -1  # something is to run: there may be no node left to do so
    play.tick()
    for asked, piece in (((0, PIECE), b"ag"), ((2, PIECE), b"ain")):
        (reading,) = play.work
        assert (reading.parcel.kind, reading.parcel.numbers) == ("read", asked)
        assert play.manager.temps[0] in reading.inputs.values()
        play.manager.end(reading, Answer("node", piece=(5, piece)))
        play.engine._event()
        play.tick()
    node, path, size, stamp = play.outlet.answers[7]
    assert (node, Path(path).read_bytes()) == ("manager", b"again")
    check(Source(path, size, stamp))
    assert play.engine.waiting == 0
    play.engine.forget(("x@1",))
    assert not os.path.exists(path)


def test_piece_that_does_not_come_is_asked_for_again(
    make: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is the whole file, if it is another one now."""
    monkeypatch.setattr(engine, "FETCH_PAUSE", 0.0)
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    make_temp(play, play.work[0], "x@1")
    for request in (7, 8):
        play.engine.locate(request, "x@1")
    play.tick()
    for offset, piece in ((0, None), (0, (5, b"ab")), (2, (4, b"cd")), (0, (4, b"abcd"))):
        (reading,) = play.work
        assert reading.parcel.numbers[0] == offset
        play.manager.end(reading, Answer("node", piece=piece))
        play.engine._event()
        play.tick()
        play.tick()  # the pause is over
    assert play.outlet.answers[7] == play.outlet.answers[8]
    assert Path(play.outlet.answers[7][1]).read_bytes() == b"abcd"


def test_file_that_never_comes_is_lost(
    make: Callable[..., Play], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(engine, "FETCH_PAUSE", 0.0)
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    make_temp(play, play.work[0], "x@1")
    play.engine.locate(7, "x@1")
    play.tick()
    for _ in range(engine.FETCH_TRIES + 1):
        play.manager.end(play.work[0], None, "output missing")
        play.engine._event()
        play.tick()
        play.tick()  # the pause is over
    assert failure.lost_file(play.outlet.answers[7][0]) == "x@1"
    assert play.work == []
    assert os.listdir(tmp_path / "spool") == []


def test_file_that_is_forgotten_while_it_comes_home_is_lost(make: Callable[..., Play], tmp_path: Path) -> None:
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    make_temp(play, play.work[0], "x@1")
    play.engine.locate(7, "x@1")
    play.tick()
    play.engine.forget(("x@1",))
    play.manager.end(play.work[0], Answer("node", piece=(9, b"abcd")))
    play.engine._event()
    play.tick()
    assert failure.lost_file(play.outlet.answers[7][0]) == "x@1"
    assert os.listdir(tmp_path / "spool") == []


def test_lost_file_that_is_not_recoverable_is_not_made_again(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)), recoverable=False)
    done = (tuple(Completion(1, failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.manager.end(play.work[0], Answer("b0-1", done))
    play.engine._event()
    play.tick()
    play.manager.temps[0].replicas = 0
    play.engine.locate(7, "x@1")
    play.submit(call(2, inputs=(FileUse("temp", "x", "x@1"),)))
    for record in (play.outlet.answers[7][0], play.outlet.completions[2].body):
        assert failure.lost_file(record) == "x@1"
    assert play.manager.running == []


def chain(play: Play, *, forget: bool = False) -> tuple[fake.Task, fake.Task, fake.Task]:
    """Two calls that make a file each, the second from the first's, and one that waits for the second's, which is lost.

    The middle one's file is pruned with its maker's, if nobody else is to read it.
    """
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    first = play.work[0]
    make_temp(play, first, "x@1")
    play.submit(call(2, inputs=(FileUse("temp", "x", "x@1"),), outputs=(FileUse("temp", "y", "y@2"),)))
    second = play.work[0]
    make_temp(play, second, "y@2")
    if forget:
        play.engine.forget(("x@1",))
    for temp in play.manager.temps:
        temp.replicas = 0
    play.manager.hold = True  # what reads them is not sent anywhere
    play.submit(call(3, inputs=(FileUse("temp", "y", "y@2"),)))
    return first, second, play.manager.ready[-1]


def make_temp(play: Play, task: fake.Task, name: str) -> None:
    number = task.parcel.invocations[0][0]
    done = (tuple(Completion(number, failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, ((name, 5, 0),))),)
    play.manager.end(task, Answer("b0-1", done))
    play.engine._event()
    play.tick()


@pytest.mark.parametrize("failing", [0, 1])
def test_file_whose_task_fails_when_it_runs_again_is_lost(make: Callable[..., Play], failing: int) -> None:
    """TaskVine would run it for ever, and says nothing of it; but the second answer is where the first was."""
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


def test_file_that_is_made_again_in_vain_is_lost(make: Callable[..., Play]) -> None:
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


def test_file_that_others_were_made_from_can_be_made_again_until_they_are_gone(make: Callable[..., Play]) -> None:
    play = make()
    first, second, waiting = chain(play, forget=True)
    x, y = play.manager.temps
    assert x.declared
    assert first.outputs["out"].declared
    play.manager.hold = False
    x.replicas = y.replicas = 1
    play.engine._event()
    play.tick()
    play.finish(waiting)
    play.engine.forget(("y@2",))
    assert not any(file.declared for file in (x, y, first.outputs["out"], second.outputs["out"]))


def test_as_many_nodes_have_a_file_as_the_user_wants(make: Callable[..., Play]) -> None:
    play = make()
    for number in range(2):
        play.join(f"b{number}-{number}")
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1", 3),)), cores=2.0)
    task = play.work[0]
    maker = task.features[0]
    temp = play.manager.temps[0]
    done = (tuple(Completion(1, failure.RETURNED, b"N.", maker, 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.manager.end(task, Answer(maker, done))
    play.engine._event()
    play.tick()
    (copying,) = play.manager.running
    assert (copying.parcel.kind, copying.inputs["i0"]) == ("hello", temp)
    assert copying.features == [f"b{1 - int(maker[1])}-{1 - int(maker[1])}"]
    play.greet()
    assert play.manager.running == []
    address = play.manager.join("b2-2")
    play.tick()
    assert [task.addrport for task in play.manager.running if temp in task.inputs.values()] == [address]


def test_file_is_forgotten_while_its_task_runs(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    play.engine.forget(("x@1",))
    (temp,) = play.manager.temps
    assert temp.declared
    make_temp(play, play.work[0], "x@1")
    assert play.outlet.completions[1].outcome == failure.RETURNED
    assert not temp.declared


def test_what_a_lost_try_was_to_make_is_let_go_with_the_next(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(call(1, outputs=(FileUse("temp", "x", "x@1"),)))
    lost = play.work[0]
    play.manager.end(lost, None, "forsaken")
    play.engine._event()
    play.tick()
    old, new = play.manager.temps
    assert (old.declared, new.declared) == (False, True)
    assert not lost.outputs["out"].declared


def test_small_result_is_told_as_it_is_and_what_is_nowhere_is_said_to_be(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.engine.locate(1, "r1")
    play.submit(call(1, outputs=(FileUse("value", "", "r1"),)))
    play.engine.locate(2, "r1")
    assert play.outlet.answers.keys() == {1}
    play.finish(play.work[0], body=b"small")
    assert failure.lost_file(play.outlet.answers[1][0]) == "r1"
    assert play.outlet.answers[2] == b"small"


@pytest.mark.parametrize("local", [True, False])
def test_large_arguments_go_with_their_call_or_with_what_it_has_made(
    make: Callable[..., Play], tmp_path: Path, local: bool
) -> None:
    play = make(local=local)
    play.join()
    files = [tmp_path / "spool" / f"value-{number}" for number in range(3)]
    for file in files:
        file.write_bytes(b"arguments")
    plain, failing, making = (call(number)._replace(arguments=str(file)) for number, file in enumerate(files))
    play.submit(plain)
    play.finish(play.work[0])
    play.submit(failing, cores=64.0)
    play.submit(making._replace(outputs=(FileUse("temp", "x", "x@1"),)))
    (task,) = play.work
    done = (tuple(Completion(2, failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.manager.end(task, Answer("b0-1", done))
    play.engine._event()
    play.tick()
    assert not any(file.exists() for file in files)
    (kept,) = (tmp_path / "spool").iterdir()
    if local:  # nothing travels
        assert task.parcel.staged == {str(files[2]): str(kept), ">x@1": "o1"}
    else:
        assert any(file.content == str(kept) for file in task.inputs.values())
    play.engine.forget(("x@1",))
    assert not kept.exists()


@pytest.mark.parametrize("local", [True, False])
def test_a_buffer_that_arguments_share_goes_with_the_last_who_may_need_it(
    make: Callable[..., Play], tmp_path: Path, local: bool
) -> None:
    play = make(local=local)
    play.join(cores=8)
    spool = tmp_path / "spool"
    (spool / "buffer").write_bytes(b"shared")
    claims.offer(str(spool / "buffer"))
    calls = []
    for number in range(3):
        path = spool / f"sharing1-{number}"
        path.write_bytes(b"arguments")
        claims.claim(str(spool / "buffer"), f"{path}.0")
        calls.append(call(number)._replace(arguments=str(path)))
    play.submit(*calls[:2], cores=1.0)
    play.submit(calls[2]._replace(outputs=(FileUse("temp", "x", "x@1"),)))
    tasks = list(play.work)
    files = {id(file): file for task in tasks for name, file in task.inputs.items() if name.endswith(".0")}
    assert [file.content for file in files.values()] == ([] if local else [str(spool / "buffer")])
    for task in list(tasks):
        done = []
        for item in task.parcel.invocations:
            made = (("x@1", 5, 0),) if item[0] == 2 else ()
            done.append(tuple(Completion(item[0], failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, made)))
        play.manager.end(task, Answer("b0-1", tuple(done)))
        play.engine._event()
        play.tick()
    assert not [call.arguments for call in calls if os.path.exists(str(call.arguments))]
    assert (spool / "buffer").exists()
    assert all(file.declared for file in files.values())
    play.engine.forget(("x@1",))
    assert not [path for folder in ("spool", "files") for path in (tmp_path / folder).iterdir()]
    assert not any(file.declared for file in files.values())


def test_a_function_that_is_submitted_again_soon_keeps_its_file(
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
    (path,) = paths  # nodes know the function by it
    assert os.path.exists(path)
    monkeypatch.setattr(engine, "RETIREMENT", 0.0)
    play.manager.running.clear()
    gc.collect()
    play.tick()
    assert not os.path.exists(path)
    assert [task.parcel.kind for task in play.work] == ["retire"]


@pytest.mark.parametrize(("said", "expected"), [(None, 0), (0.0, 0), (30.0, 30), (0.2, 1), (59.5, 60)])
def test_least_running_time_is_told_in_whole_seconds(
    make: Callable[..., Play], said: float | None, expected: int
) -> None:
    play = make()
    play.join()
    play.submit(call(0), running_time_min=said)
    (task,) = play.work
    assert task.time_min == expected


def test_snapshot(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(*(call(number) for number in range(3)), cores=2.0)
    play.submit(call(3, outputs=(FileUse("temp", "x", "x@1"),)), call(4, inputs=(FileUse("temp", "x", "x@1"),)))
    said = {number: (state, node) for number, state, node, _ in play.engine.snapshot()["tasks"]}
    assert said[0] == ("assigned", "b0-1")
    assert said[1] == said[2] == said[3] == ("ready", "")
    assert said[4] == ("waiting", "")
    assert play.engine.waiting == 1


def test_call_that_is_tried_again_is_told(make: Callable[..., Play]) -> None:
    play = make()
    address = play.join()
    play.submit(call(1))
    play.manager.leave(address)
    play.tick()
    assert play.outlet.tried == [1]
    assert play.engine.stats()["tasks_retried"] == 1


def test_waits_for_workers(make: Callable[..., Play]) -> None:
    play = make(wait_for_nodes=2)
    play.join("b0-1")
    play.submit(call(1))
    assert play.work == []
    play.join("b1-2")
    assert len(play.work) == 1


def test_parameters_that_the_engine_needs_and_those_of_the_user(make: Callable[..., Play]) -> None:
    play = make(tune={"temp-replica-count": 2, "transient-error-interval": 5})
    tuned = play.manager.tuned
    assert (tuned["temp-replica-count"], tuned["transient-error-interval"], tuned["perf-log-interval"]) == (2, 5, 1e6)


def test_batches_are_bounded_by_the_engine(make: Callable[..., Play]) -> None:
    play = make(tune={"executor.batch": 7})
    assert "executor.batch" not in play.manager.tuned
    assert play.engine._core._backlog.most == 7
    play.engine.tune({"executor.batch": 0})
    assert play.engine._core._backlog.most == MOST


def test_workers_are_waited_for_by_the_engine(make: Callable[..., Play]) -> None:
    play = make(tune={"wait-for-workers": 2})
    play.join("b0-1")
    play.submit(call(1))
    assert play.work == []
    assert "wait-for-workers" not in play.manager.tuned
    play.join("b1-2")
    assert len(play.work) == 1


@pytest.mark.parametrize("local", [True, False])
def test_packed_environment_travels_to_other_machines(make: Callable[..., Play], tmp_path: Path, local: bool) -> None:
    pack = tmp_path / "env.tar.gz"
    pack.write_text("packed")
    play = make(local=local, nodes=node_config(slots=None, env_pack=str(pack)))
    (library,) = play.manager.libraries.values()
    brought = {name: Path(file.content).read_text() for name, file in library.inputs.items() if file.kind == "file"}
    assert brought == ({} if local else {"env_pack": "packed"})


def test_end(make: Callable[..., Play], tmp_path: Path) -> None:
    play = make()
    assert (tmp_path / "vine.address").read_text() == "9123"
    play.engine.stop()
    play.engine.stop()
    assert play.engine.stopped
    assert play.manager.closed
    assert not (tmp_path / "vine.address").exists()


def test_a_connection_with_the_number_of_one_that_has_ended_is_watched(make: Callable[..., Play]) -> None:
    play = make()
    watched: list[tuple[str, int]] = []
    play.engine._watch = lambda descriptor, _: watched.append(("watch", descriptor))
    play.engine._unwatch = lambda descriptor: watched.append(("unwatch", descriptor))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        play.engine._vine._port = listener.getsockname()[1]

        def connection() -> tuple[socket.socket, socket.socket]:
            worker = socket.create_connection(listener.getsockname())
            return worker, listener.accept()[0]

        worker, accepted = connection()
        play.engine._rescan()
        number = accepted.fileno()
        assert set(watched) == {("watch", listener.fileno()), ("watch", number)}
        other, successor = connection()
        with worker, other, successor:
            os.dup2(successor.fileno(), number)  # as if it had been given that number
            watched.clear()
            play.engine._rescan()
            accepted.close()
        assert ("unwatch", number) in watched
        assert watched.index(("unwatch", number)) < watched.index(("watch", number))
