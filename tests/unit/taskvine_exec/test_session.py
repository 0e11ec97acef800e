"""The session of an executor with its manager."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from taskvine_exec.errors import ExecutorNotStarted, ExecutorShutDown, ManagerLost, TaskCancelled
from taskvine_exec.session import Session


class Link:
    """A manager that echoes requests, and has ended after ``broken``."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.broken: Callable[[], object] = lambda: None

    def say(self, *message: Any) -> None:
        self.said.append(message)

    def retire(self, profiles: list[int], size: int) -> None:
        self.said.append(("retire", profiles, size))

    def ask(self, kind: str, *rest: Any, timeout: float | None = None) -> Future[Any]:
        answer: Future[Any] = Future()
        if kind == "break":
            self.broken()
            answer.set_exception(ConnectionError("the manager is gone"))
        else:
            answer.set_result((kind, *rest))
        return answer


class Failed(Exception):
    pass


def session_of(link: Any) -> Session:
    session = Session("ex", lambda: Failed("no manager"))
    if link is not None:
        session.begin(link)
    return session


def test_unstarted_session_refuses_requests() -> None:
    session = session_of(None)
    session.say("forget", ["x"])
    session.retire([1], 10)
    assert not session.is_open
    with pytest.raises(ExecutorNotStarted):
        session.link()
    with pytest.raises(ExecutorNotStarted):
        session.ask("stats", timeout=1)


def test_open_session_answers() -> None:
    link = Link()
    session = session_of(link)
    assert session.is_open
    assert session.link() is link
    assert session.ask("locate", "x", timeout=1) == ("locate", "x")
    session.say("forget", ["x"])
    session.retire([1], 10)
    assert link.said == [("forget", ["x"]), ("retire", [1], 10)]


def test_failed_session_refuses_requests() -> None:
    session = session_of(Link())
    session.fail(ValueError())
    assert not session.is_open
    assert not session.is_over
    with pytest.raises(Failed):
        session.link()


def test_ended_session_refuses_requests() -> None:
    link = Link()
    session = session_of(link)
    assert session.end()
    assert not session.end()
    assert session.is_over
    assert not session.is_open
    session.say("forget", ["x"])
    session.retire([1], 10)
    assert not link.said
    with pytest.raises(ExecutorShutDown):
        session.link()


def test_end_takes_precedence_over_failure() -> None:
    session = session_of(Link())
    session.fail(ValueError())
    session.end()
    with pytest.raises(ExecutorShutDown):
        session.link()


@pytest.mark.parametrize("end", ["fail", "end"])
def test_request_explains_why_the_manager_has_gone(end: str) -> None:
    link = Link()
    session = session_of(link)
    link.broken = partial(session.fail, ValueError()) if end == "fail" else session.end
    with pytest.raises(Failed if end == "fail" else ExecutorShutDown):
        session.ask("break", timeout=1)


def test_request_to_a_manager_that_has_just_ended() -> None:
    with pytest.raises(ConnectionError):
        session_of(Link()).ask("break", timeout=1)


def test_only_one_thread_ends_the_session() -> None:
    session = session_of(Link())
    ended: list[bool] = []
    threads = [threading.Thread(target=lambda: ended.append(session.end())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended.count(True) == 1


def test_forked_child_does_not_use_the_session() -> None:
    session = session_of(Link())
    session.leave_to_parent()
    assert not session.end()
    with pytest.raises(ExecutorShutDown, match="this process was forked"):
        session.link()


def test_unfinished_tasks_fail_with_the_reason() -> None:
    session = session_of(Link())
    session.fail(ValueError())
    assert isinstance(session.error(7), Failed)
    lost = session_of(Link())
    lost.fail(ManagerLost(None, "it was killed"))
    error = lost.error(7)
    assert isinstance(error, ManagerLost)
    assert (error.task_id, error.reason) == (7, "it was killed")
    lost.end()
    assert isinstance(lost.error(7), TaskCancelled)
