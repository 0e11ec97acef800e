"""TaskVine's cycles and connections."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from taskvine_manager.vine.manager.batching import MOST
from taskvine_manager.vine.manager.cycles import Cycles
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.manager.shell import Shell
from tests.unit.taskvine_manager.vine.manager.play import Play, invocation


def test_number_of_submitted_tasks_is_limited(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(*(invocation(number) for number in range(5000)))
    assert len(play.manager.ready) + len(play.manager.running) <= 2


def test_engine_and_user_parameters_are_set(make: Callable[..., Play]) -> None:
    play = make(tune={"temp-replica-count": 2, "transient-error-interval": 5})
    tuned = play.manager.tuned
    assert (tuned["temp-replica-count"], tuned["transient-error-interval"], tuned["perf-log-interval"]) == (2, 5, 1e6)


def test_engine_limits_batches(make: Callable[..., Play]) -> None:
    play = make(tune={"executor.batch": 7})
    assert "executor.batch" not in play.manager.tuned
    assert play.engine._core.workload.backlog.most == 7
    play.engine.tune({"executor.batch": 0})
    assert play.engine._core.workload.backlog.most == MOST


class Port:
    """TaskVine's port, reduced to the list of sockets."""

    sockets = VinePort.sockets

    def __init__(self, number: int) -> None:
        self.port = number


def test_reused_descriptor_is_watched() -> None:
    watched: list[tuple[str, int]] = []

    def watch(descriptor: int, callback: Callable[[], None]) -> None:
        watched.append(("watch", descriptor))

    def unwatch(descriptor: int) -> None:
        watched.append(("unwatch", descriptor))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: Any = Port(listener.getsockname()[1])
        unused: Any = None
        core: Any = SimpleNamespace(workload=unused)
        shell = Shell(core, unused, port, unused, unused, unused)
        cycles = Cycles(shell, unused, unused, watch, unwatch)

        def connection() -> tuple[socket.socket, socket.socket]:
            worker = socket.create_connection(listener.getsockname())
            return worker, listener.accept()[0]

        worker, accepted = connection()
        cycles.watch_connections()
        number = accepted.fileno()
        assert set(watched) == {("watch", listener.fileno()), ("watch", number)}
        other, successor = connection()
        with worker, other, successor:
            os.dup2(successor.fileno(), number)  # as if it had been given that number
            watched.clear()
            cycles.watch_connections()
            accepted.close()
        assert ("unwatch", number) in watched
        assert watched.index(("unwatch", number)) < watched.index(("watch", number))
