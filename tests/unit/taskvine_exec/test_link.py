"""The user's end of the link: which thread sends which messages, and when."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from taskvine_exec.link import HANDFUL, MESSAGE_BYTES, ManagerLink
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import Invocation, Profile
from tests.conftest import eventually


class Manager:
    """The other end, and the process that stands for the manager."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        self.channel = Channel(theirs)
        self.socket = theirs
        self.said: list[tuple[Any, ...]] = []
        self.gone: Future[int] = Future()
        self.turns: queue.Queue[int | None] = queue.Queue()
        self.pause: float | None = None
        self.link = ManagerLink(
            ours,
            self.process,
            lambda *message: self.said.append(message),
            self.gone.set_result,
            on_turn=self.turn,
        )

    def turn(self) -> float | None:
        self.turns.put(threading.current_thread().native_id)
        return self.pause

    def heard(self, *, seconds: float = 10.0) -> tuple[Any, ...] | None:
        """The next message; None if none comes."""
        while (message := self.channel.next()) is None:
            self.socket.settimeout(seconds)
            try:
                self.channel.read()
            except TimeoutError:
                return None
            if self.channel.ended:
                return None
        return message

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager()
    yield manager
    manager.end()
    with contextlib.suppress(RuntimeError):  # the test has started it
        manager.link.start()
    manager.link.close()
    manager.channel.close()


def in_thread(action: Any) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


def numbers(message: tuple[Any, ...] | None) -> list[int]:
    assert message is not None
    assert message[0] == "submit"
    return [item[0] for item in message[3]]


@pytest.mark.parametrize("pause", [None, 0.001])
def test_there_is_a_turn_when_one_is_asked_for(manager: Manager, pause: float | None) -> None:
    manager.pause = pause
    manager.link.start()
    turns = {manager.turns.get(timeout=10)}
    if pause is None:
        with pytest.raises(queue.Empty):
            manager.turns.get(timeout=0.05)
        manager.link.say("ping")
    for _ in range(1 if pause is None else 10):
        turns.add(manager.turns.get(timeout=10))
    assert len(turns) == 1, "two threads have looked"
    assert threading.get_native_id() not in turns


def test_other_threads_send_urgent_messages_directly(manager: Manager) -> None:
    link = manager.link  # its own thread does not run here
    link.define([("key", b"function")], [])
    in_thread(lambda: link.submit(Invocation(1, 0, b"a"), at_once=True))
    message = manager.heard()
    assert numbers(message) == [1]
    assert message is not None
    assert message[1] == (("key", b"function"),)


def test_main_thread_leaves_sending_to_the_link(manager: Manager) -> None:
    manager.link.submit(Invocation(1, 0, b"a"), at_once=True)
    assert manager.heard(seconds=0.05) is None
    manager.link.start()
    assert numbers(manager.heard()) == [1]


def test_waiting_messages_are_sent_before_urgent_ones(manager: Manager) -> None:
    manager.link.submit(Invocation(1, 0, b"a"))
    in_thread(lambda: manager.link.submit(Invocation(2, 0, b"b"), at_once=True))
    manager.link.start()
    heard: list[int] = []
    while len(heard) < 2:
        heard += numbers(manager.heard())
    assert heard == [1, 2]


def test_unsent_bytes_follow_later(manager: Manager) -> None:
    def submit() -> None:
        for number in range(20):
            manager.link.submit(Invocation(number, 0, b"\0" * 60_000), at_once=True)

    in_thread(submit)
    manager.link.start()
    heard: list[int] = []
    while len(heard) < 20:
        heard += numbers(manager.heard())
    assert heard == list(range(20))


@pytest.mark.parametrize("at_once", [False, True])
def test_failed_send_ends_the_manager(manager: Manager, at_once: bool) -> None:
    manager.link.start()
    unknown: Any = object()
    in_thread(lambda: manager.link.submit(Invocation(1, 0, unknown), at_once=at_once))
    assert manager.gone.result(10) == -signal.SIGKILL


def test_last_messages_are_read_before_the_end_is_reported(manager: Manager) -> None:
    manager.link.start()
    manager.channel.send("broken", "why")
    manager.end()
    assert manager.gone.result(10) == 0
    assert manager.said == [("broken", "why")]


def test_request_fails_when_the_manager_has_ended(manager: Manager) -> None:
    manager.link.start()
    answer = manager.link.ask("stats")
    manager.end()
    with pytest.raises(ConnectionError):
        answer.result(10)


def test_submitting_to_a_closed_link_is_no_error(manager: Manager) -> None:
    manager.link.start()
    manager.end()
    manager.link.close()
    in_thread(lambda: manager.link.submit(Invocation(1, 0, b"a"), at_once=True))
    manager.link.submit(Invocation(2, 0, b"b"))


def messages_until(manager: Manager, kind: str) -> list[tuple[Any, ...]]:
    heard = []
    while not heard or heard[-1][0] != kind:
        message = manager.heard()
        assert message is not None
        heard.append(message)
    return heard


def test_messages_keep_their_order_after_submissions(manager: Manager) -> None:
    for number in range(5000):
        manager.link.submit(Invocation(number, 0, b"a"))
    manager.link.retire([0], 1)
    manager.link.start()
    *submitted, said = messages_until(manager, "retire")
    assert said == ("retire", (0,))
    assert [number for message in submitted for number in numbers(message)] == list(range(5000))


def test_profile_is_sent_before_its_retirement(manager: Manager) -> None:
    profile = Profile(7, "key", "f", "L2", None, None, None, None, 0.0, "f")
    manager.link.define([("key", b"function")], [profile])
    manager.link.retire([7], 1)  # as if its arguments could not be pickled
    manager.link.start()
    first, _ = messages_until(manager, "retire")
    assert (first[1], first[2]) == ((("key", b"function"),), (tuple(profile),))


def test_functions_are_sent_in_parts_before_their_calls(manager: Manager) -> None:
    for number in range(100):
        manager.link.define([(str(number), b"\0" * 30_000)], [])
        manager.link.submit(Invocation(number, number, b"a"))
    manager.link.say("end")
    manager.link.start()
    known: set[str] = set()
    called: list[int] = []
    for message in messages_until(manager, "end")[:-1]:
        assert sum(len(body) for _, body in message[1]) <= MESSAGE_BYTES + 30_000
        known.update(key for key, _ in message[1])
        called += numbers(message)
        assert known >= set(map(str, called))
    assert called == list(range(100))


@pytest.mark.parametrize("word", ["\ud800", 2**70, object()], ids=["surrogate", "number", "object"])
def test_unencodable_message_is_refused_at_once(manager: Manager, word: Any) -> None:
    manager.link.start()
    for say in (manager.link.say, manager.link.ask):
        with pytest.raises((ValueError, OverflowError, TypeError)):
            say("forget", [word])
    manager.link.say("forget", ["file"])
    assert manager.heard() == ("forget", ("file",))
    assert not manager.gone.done()
    assert manager.link.open_requests == 0


# --- answers ---


@pytest.mark.parametrize("kind", ["located", "stats", "graph"])
def test_answer_reaches_the_one_who_asked(manager: Manager, kind: str) -> None:
    manager.link.start()
    first, second = manager.link.ask("question"), manager.link.ask("question")
    assert manager.link.open_requests == 2
    manager.channel.send(kind, 1, "second")
    manager.channel.send(kind, 0, "first")
    assert (first.result(10), second.result(10)) == ("first", "second")
    assert manager.link.open_requests == 0
    assert manager.said == []


def test_answer_that_nobody_waits_for_is_dropped(manager: Manager) -> None:
    manager.link.start()
    manager.channel.send("stats", 7, {})
    manager.channel.send("pong")
    manager.channel.send("notice", "after it")
    manager.end()
    assert manager.gone.result(10) == 0
    assert manager.said == [("notice", "after it")]


def test_request_to_a_lost_manager_fails_at_once(manager: Manager) -> None:
    manager.link.start()
    manager.end()
    manager.link.close()
    with pytest.raises(ConnectionError, match="the manager is gone"):
        manager.link.ask("stats").result(0)


def test_callback_gets_its_answer_and_later_messages_wait(manager: Manager) -> None:
    """A callback runs in the link's thread, which alone receives."""
    answers: list[Any] = []

    def on_message(*message: Any) -> None:
        manager.said.append(message)
        if message == ("notice", "first"):
            answers.append(manager.link.ask("stats", timeout=10).result(0))

    manager.link.on_message = on_message
    manager.link.start()
    manager.channel.send("notice", "first")
    assert manager.heard() == ("stats", 0)
    manager.channel.send("notice", "second")
    manager.channel.send("stats", 0, "answer")
    manager.end()
    assert manager.gone.result(10) == 0
    assert answers == ["answer"]
    assert manager.said == [("notice", "first"), ("notice", "second")]


@pytest.mark.parametrize("ends", [True, False])
def test_callback_does_not_wait_forever_for_an_answer(manager: Manager, ends: bool) -> None:
    raised: Future[BaseException | None] = Future()

    def on_message(*message: Any) -> None:
        answer = manager.link.ask("stats", timeout=None if ends else 0.01)
        raised.set_result(answer.exception(0) if answer.done() else None)

    manager.link.on_message = on_message
    manager.link.start()
    manager.channel.send("notice", "first")
    assert manager.heard() == ("stats", 0)
    if ends:
        manager.end()
    assert isinstance(raised.result(10), ConnectionError) is ends


def test_tasks_of_callbacks_are_sent_between_handfuls(manager: Manager) -> None:
    heard: list[int] = []

    def on_message(*message: Any) -> Iterator[None]:
        for step in range(2 * HANDFUL):
            if step == 0:
                manager.link.submit(Invocation(1, 0, b"a"))
            if step == HANDFUL:
                heard.extend(numbers(manager.heard()))
            yield

    manager.link.on_message = on_message
    manager.link.start()
    manager.channel.send("done")
    manager.end()
    assert manager.gone.result(10) == 0
    assert heard == [1]


def test_error_of_a_handler_ends_the_manager(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    def on_message(*message: Any) -> None:
        raise RuntimeError("a fault of ours")

    manager.link.on_message = on_message
    manager.link.start()
    manager.channel.send("done")
    assert manager.gone.result(10) == -signal.SIGKILL
    assert "the link to the manager broke" in caplog.text


# --- the end ---


def test_manager_that_is_told_to_stop_is_not_lost(manager: Manager) -> None:
    manager.link.start()
    assert not manager.link.stop(0.01)
    assert manager.heard() == ("stop",)
    manager.end()
    assert manager.link.stop(10)
    manager.link.close()
    assert not manager.gone.done()


def test_callback_may_stop_the_manager(manager: Manager) -> None:
    stopped: Future[bool] = Future()

    def on_message(*message: Any) -> None:
        stopped.set_result(manager.link.stop(10))
        manager.link.close()

    manager.link.on_message = on_message
    manager.link.start()
    manager.channel.send("notice", "stop it")
    assert manager.heard() == ("stop",)
    manager.end()
    assert stopped.result(10)


def test_end_of_the_manager_is_seen_without_descriptors_of_processes(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError("the kernel is too old")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    manager.link.start()
    manager.end()
    assert manager.gone.result(10) == 0


# --- silence ---


@pytest.mark.parametrize("stopped", [False, True])
def test_manager_that_does_not_answer_is_killed(manager: Manager, stopped: bool) -> None:
    manager.link.patience.tune({"keepalive-interval": 0.1, "keepalive-timeout": 0.1})
    manager.link.responsive = not stopped
    manager.link.start()
    manager.link.ask("stats")
    if stopped:
        manager.process.send_signal(signal.SIGSTOP)
    assert manager.gone.result(30) == -signal.SIGKILL
    assert manager.link.silent.startswith("it did not answer for 0.1 s")
    assert ("SIGSTOP" in manager.link.silent) is stopped
    assert messages_until(manager, "ping")[0] == ("stats", 0)


def test_manager_that_may_be_busy_is_not_killed(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    manager.link.patience.tune({"keepalive-interval": 0.1, "keepalive-timeout": 0.1})
    manager.link.responsive = False
    manager.link.start()
    answer = manager.link.ask("stats")
    eventually(lambda: "it may be busy with a large file" in caplog.text)
    manager.channel.send("stats", 0, "answer")
    assert answer.result(10) == "answer"
    assert not manager.gone.done()


def test_silent_manager_is_asked_during_a_callback_too(manager: Manager) -> None:
    def on_message(*message: Any) -> None:
        manager.said.append(manager.link.ask("stats", timeout=60).result(0))

    manager.link.patience.tune({"keepalive-interval": 0.1, "keepalive-timeout": 60})
    manager.link.on_message = on_message
    manager.link.start()
    manager.channel.send("notice", "first")
    for _ in range(2):  # it is asked again, because it has answered
        messages_until(manager, "ping")
        manager.channel.send("pong")
    manager.channel.send("stats", 0, "answer")
    eventually(lambda: manager.said == ["answer"])
    assert not manager.gone.done()
