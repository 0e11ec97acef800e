"""Direct connections of supervisors. The test acts as supervisors, over real sockets."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.vine import access
from taskvine_manager.vine.manager import direct
from taskvine_manager.vine.manager.direct import DirectLinks
from taskvine_manager.vine.manager.events import Launch, Staged
from taskvine_manager.vine.parcels import ANSWER, HELLO, PARCEL, Answer, Parcel
from taskvine_manager.wire import messages
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import Completion
from tests.conftest import eventually
from tests.unit.taskvine_manager.vine.manager.play import Play, X, invocation


class Net:
    """A listening socket, the descriptors that are watched, and supervisors that connect."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "manager.sock")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen()
        self.watched: dict[int, Callable[[], None]] = {}
        self.ends: list[Channel] = []

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.watched[descriptor] = callback

    def unwatch(self, descriptor: int) -> None:
        self.watched.pop(descriptor, None)

    def turn(self) -> None:
        """Call back for all descriptors: reading from one without data does nothing."""
        for callback in list(self.watched.values()):
            callback()

    def connect(self, *hello: Any) -> Channel:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.connect(self.path)
        self.ends.append(Channel(end))
        self.tell(self.ends[-1], *(hello or (HELLO, "b0-1")))
        return self.ends[-1]

    def tell(self, end: Channel, *message: Any) -> None:
        end.send(*message)
        self.turn()  # accepts
        self.turn()

    def answer(self, end: Channel, number: int, answer: Answer) -> None:
        self.tell(end, ANSWER, number, pickle.dumps(tuple(answer)))

    def close(self) -> None:
        for end in self.ends:
            end.close()
        self.listener.close()


def received(end: Channel) -> Parcel | None:
    """Return the next parcel of a supervisor."""
    message = end.next() or (end.read() and end.next())
    if not message:
        return None
    kind, data = message
    assert kind == PARCEL
    return Parcel(*pickle.loads(data))


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    made = Net(tmp_path)
    yield made
    made.close()


class Direct(DirectLinks):
    def __init__(self, net: Net) -> None:
        self.answers: list[tuple[int, str, Answer]] = []
        self.lost: list[tuple[int, str]] = []
        super().__init__(
            net.listener,
            net.watch,
            net.unwatch,
            lambda *answer: self.answers.append(answer),
            lambda *parcel: self.lost.append(parcel),
        )


@pytest.fixture
def links(net: Net) -> Iterator[Direct]:
    made = Direct(net)
    yield made
    made.close()


RUN = Parcel("run", 7, brief=True)


def test_parcel_travels_and_its_answer_returns(net: Net, links: Direct) -> None:
    assert not links.takes(Launch(RUN, feature="b0-1"))
    end = net.connect()
    assert links.takes(Launch(RUN, feature="b0-1"))
    links.send("b0-1", RUN)
    assert received(end) == RUN._replace(brief=False)
    answer = Answer("b0-1", (tuple(Completion(1, failure.RETURNED, bytes(5000), "b0-1", 1.0, 1.0, 1.0)),))
    net.answer(end, 7, answer)
    assert links.answers == [(7, "b0-1", answer)]
    end.close()
    net.turn()
    assert links.lost == [], "it was answered before"


@pytest.mark.parametrize(
    "said",
    [
        Launch(RUN),
        Launch(RUN, feature="b0-2"),
        Launch(RUN, inputs=(Staged("temp", "x", "i0"),), feature="b0-1"),
        Launch(RUN, outputs=(Staged("temp", "x", "o0"),), feature="b0-1"),
        Launch(Parcel("cancel", 7), feature="b0-1"),
        Launch(Parcel("hello", 7), feature="b0-1"),
        Launch(Parcel("read", 7), feature="b0-1"),
    ],
)
def test_other_parcels_are_for_taskvine(net: Net, links: Direct, said: Launch) -> None:
    net.connect()
    assert not links.takes(said)


def test_parcels_of_an_ended_connection_are_reported(net: Net, links: Direct) -> None:
    end = net.connect()
    for number in (1, 2, 3):
        links.send("b0-1", RUN._replace(number=number))
    links.withdraw(2)
    net.answer(end, 3, Answer("b0-1"))
    end.close()
    net.turn()
    assert links.lost == [(1, "b0-1")]
    assert not links.takes(Launch(RUN, feature="b0-1"))
    assert list(net.watched) == [net.listener.fileno()]


def test_withdrawn_parcels_and_those_of_others_are_not_answered(net: Net, links: Direct) -> None:
    end, other = net.connect(), net.connect(HELLO, "b0-2")
    links.send("b0-1", RUN)
    net.answer(other, 7, Answer("b0-2"))
    links.withdraw(7)
    net.answer(end, 7, Answer("b0-1"))
    assert links.answers == []


def test_next_supervisor_of_a_worker_replaces_the_last(net: Net, links: Direct) -> None:
    first = net.connect()
    links.send("b0-1", RUN)
    second = net.connect()
    links.send("b0-1", RUN._replace(number=8))
    first.close()
    net.turn()
    assert links.lost == [(7, "b0-1")]
    received_by_second = received(second)
    assert received_by_second is not None
    assert received_by_second.number == 8
    assert links.takes(Launch(RUN, feature="b0-1"))


@pytest.mark.parametrize(
    "message",
    [
        (HELLO, "b0-1"),
        (HELLO,),
        (ANSWER, 7),
        (ANSWER, 7, b"no pickle"),
        (ANSWER, 7, pickle.dumps(("b0-1", (), False, 1, 2, 3, 4, 5, 6, 7, 8))),
        ("nonsense", 1),
    ],
)
def test_malformed_message_ends_the_connection(net: Net, links: Direct, message: tuple[Any, ...]) -> None:
    end = net.connect()
    links.send("b0-1", RUN)
    net.tell(end, *message)
    assert links.lost == [(7, "b0-1")]
    assert links.answers == []


@pytest.mark.parametrize("message", [(HELLO, 5), (HELLO, ""), (ANSWER, 7, b""), (PARCEL, b"")])
def test_connection_without_a_node_is_closed(net: Net, links: Direct, message: tuple[Any, ...]) -> None:
    end = net.connect(*message)
    end.read()
    assert end.ended


def test_failure_of_the_engine_is_not_taken_for_a_malformed_message(net: Net, links: Direct) -> None:
    end = net.connect()
    links.send("b0-1", RUN)
    links._answered = lambda *_: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        net.answer(end, 7, Answer("b0-1"))


def test_bytes_that_are_no_message_end_the_connection(net: Net, links: Direct) -> None:
    end = net.connect()
    end.queue_encoded(b"\xc1" * 10)
    end.push()
    net.turn()
    end.read()
    assert end.ended


def test_what_a_socket_does_not_take_is_sent_later(net: Net, links: Direct) -> None:
    end = net.connect()
    links.send("b0-1", RUN._replace(values={"x": bytes(1 << 22)}))
    assert links.push() == direct.PUSH_SECONDS
    found: list[Parcel] = []

    def come() -> bool:
        parcel = received(end)
        if parcel is not None:
            found.append(parcel)
        return links.push() is None and bool(found)

    eventually(come)
    assert found[0].values == {"x": bytes(1 << 22)}


def test_connection_is_taken_over_from_another_process(net: Net, links: Direct) -> None:
    giver, taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with giver:
        links.take_from(taken)
        supervisor, end = socket.socketpair()
        with end:
            socket.send_fds(giver, [access.DIRECT], [end.fileno()])
        net.ends.append(Channel(supervisor))
        net.tell(net.ends[-1], HELLO, "b0-7")
        assert links.takes(Launch(RUN, feature="b0-7"))
    net.turn()
    assert taken.fileno() == -1, "the process has ended"
    assert links.takes(Launch(RUN, feature="b0-7"))


# --- the engine ---


@pytest.fixture
def play(net: Net, tmp_path: Path) -> Iterator[Play]:
    made = Play(tmp_path, net=net)
    made.join()
    yield made
    made.engine.stop()


def finish(play: Play, net: Net, end: Channel, parcel: Parcel, **answer: Any) -> None:
    done = tuple(
        tuple(Completion(item[0], failure.RETURNED, b"result", "b0-1", 1.0, 1.0, 0.5)) for item in parcel.invocations
    )
    net.answer(end, parcel.number, Answer("b0-1", done, **answer))
    play.tick()


def test_task_bypasses_taskvine(play: Play, net: Net) -> None:
    end = net.connect()
    play.manager.wait = None  # type: ignore[method-assign]
    play.engine.submit([("f", b"function")], [profile()], [invocation(1)])
    play.engine.tick()
    parcel = received(end)
    assert parcel is not None
    assert play.work == []
    assert play.engine.snapshot()["tasks"] == [(1, "assigned", "b0-1", 0)]
    finish(play, net, end, parcel, radio=(b"said",))
    assert play.outlet.completions[1].body == b"result"
    assert play.outlet.said == [b"said"]
    assert play.engine.tasks == 0


def profile() -> messages.Profile:
    return messages.Profile(0, "f", "app", messages.L2, None, None, None, None, 0.0, "app")


def test_tasks_beyond_the_node_follow_the_answers(play: Play, net: Net) -> None:
    end = net.connect()
    play.submit(*(invocation(number) for number in range(1, 4)))
    first, second, third = received(end), received(end), received(end)
    assert first is not None
    assert second is not None
    assert third is None, "the node has two cores"
    finish(play, net, end, first)
    third = received(end)
    assert third is not None
    finish(play, net, end, second)
    finish(play, net, end, third)
    assert sorted(play.outlet.completions) == [1, 2, 3]


def test_task_with_files_goes_by_taskvine(play: Play, net: Net) -> None:
    end = net.connect()
    play.submit(invocation(1, outputs=(X,)))
    assert received(end) is None
    (task,) = play.work
    play.make_temp(task, "x@1")
    assert 1 in play.outlet.completions


def test_results_of_an_ended_connection_are_collected(play: Play, net: Net) -> None:
    end = net.connect()
    play.submit(invocation(1))
    parcel = received(end)
    assert parcel is not None
    end.close()
    net.turn()
    play.tick()
    (collecting,) = play.work
    assert (collecting.parcel.kind, collecting.parcel.number) == ("collect", parcel.number)
    play.end(collecting, Answer("b0-1", ()))  # a new supervisor has no record of it
    (again,) = play.work
    assert (again.parcel.kind, again.parcel.invocations[0][0]) == ("run", 1)
    play.finish(again)
    assert 1 in play.outlet.completions


def test_missing_results_are_collected_directly(play: Play, net: Net) -> None:
    end = net.connect()
    play.submit(invocation(1))
    parcel = received(end)
    assert parcel is not None
    net.answer(end, parcel.number, Answer("b0-1", open=True))
    play.tick()
    collecting = received(end)
    assert collecting is not None
    assert (collecting.kind, collecting.number) == ("collect", parcel.number)
    finish(play, net, end, parcel)
    assert 1 in play.outlet.completions


@pytest.mark.parametrize("first", ["worker", "connection"])
def test_task_of_a_lost_worker_is_charged_and_retried(play: Play, net: Net, first: str) -> None:
    end = net.connect()
    play.submit(invocation(1))
    (address,) = play.manager.workers
    steps = {"worker": lambda: play.manager.leave(address), "connection": end.close}
    steps.pop(first)()
    net.turn()
    play.tick()
    (step,) = steps.values()
    step()
    net.turn()
    play.tick()
    assert play.engine.snapshot()["tasks"] == [(1, "ready", "", 1)]
    play.join("b0-9")
    (task,) = play.work
    play.finish(task)
    assert 1 in play.outlet.completions


def test_cancelled_task_is_cancelled_by_taskvine(play: Play, net: Net) -> None:
    end = net.connect()
    play.submit(invocation(1))
    parcel = received(end)
    play.engine.cancel((1,))
    play.tick()
    (cancelling,) = play.work
    assert (cancelling.parcel.kind, cancelling.parcel.numbers) == ("cancel", (1,))
    assert parcel is not None
    finish(play, net, end, parcel)
    assert play.outlet.completions == {}
    assert play.engine.tasks == 0


def test_node_with_a_direct_task_is_not_idle(play: Play, net: Net) -> None:
    net.connect()
    play.submit(invocation(1))
    assert play.engine._core._sent.working() == set(play.manager.workers)


@pytest.mark.parametrize("settings", [{"name": "project"}, {"factory_command": ("true",)}])
def test_no_direct_connections_if_others_count_taskvines_tasks(
    net: Net, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """``vine_factory`` and the catalog server see only the tasks that TaskVine has."""
    play = Play(tmp_path, net=net, factory_scratch=str(tmp_path), **settings)
    assert net.listener.fileno() == -1
    assert net.watched == {}
    play.engine.stop()
    play.engine.kill()


def test_connections_end_with_the_engine(play: Play, net: Net) -> None:
    end = net.connect()
    play.engine.stop()
    end.read()
    assert end.ended
    assert net.watched.keys() == set()
