"""The engine between the manager's loop and nodes. The test acts as both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager import cleanup
from taskvine_manager.engine_api import NodesFail
from taskvine_manager.node.cache import file_name
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import FileUse, Invocation
from tests.conftest import eventually
from tests.unit.taskvine_manager.embedded.shell import PROFILE, Node, Shell, completion

MAKE = Invocation(1, 0, b"make", (), (FileUse("temp", "out", "file"),))
READ = Invocation(2, 0, b"read", (FileUse("temp", "in", "file"),))
CALL = Invocation(3, 0, b"call")

MakeShell = Callable[..., Shell]
Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process in the place of a node's process."""
    made: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen(["sleep", "1000"]))
        return made[-1]

    yield begin
    for process in made:
        process.kill()
        process.wait()


def submit(shell: Shell, *calls: Invocation) -> None:
    shell.engine.submit([("key", b"function")], [PROFILE], list(calls))
    shell.turn()


def cached(node: Node, text: str, file: str = "file") -> os.stat_result:
    """Put a file into a node's cache, as a task does."""
    path = Path(node.shell.base, "nodes", node.called, "cache", file_name(file))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path.stat()


def end(node: Node, number: int, *, text: str | None = None) -> None:
    """End a task, which has made ``file`` if a text is given."""
    made: tuple[tuple[str, int, int], ...] = ()
    if text is not None:
        there = cached(node, text)
        made = (("file", there.st_size, there.st_ctime_ns),)
    node.say("done", [completion(number)._replace(node=node.called, made=made)])


# --- tasks ---


def test_task_is_sent_with_its_function_once(shell: Shell) -> None:
    node = shell.join("1")
    submit(shell, CALL)
    ((kind, functions, profiles, calls, _, _, _),) = node.told()
    assert (kind, functions, profiles) == ("run", (("key", b"function"),), (tuple(PROFILE),))
    assert [number for number, *_ in calls] == [3]
    end(node, 3)
    shell.engine.submit([], [], [CALL._replace(number=4)])
    ((_, functions, profiles, _, _, _, _),) = node.told()
    assert functions == profiles == ()


def test_tasks_wait_for_a_node(shell: Shell) -> None:
    submit(shell, MAKE, READ)
    assert (shell.engine.tasks, shell.engine.waiting) == (2, 1)
    node = shell.join("1")
    end(node, 1, text="text")
    end(node, 2)
    assert [each.number for each in shell.outlet.ended] == [1, 2]
    assert (shell.engine.tasks, shell.engine.waiting) == (0, 0)


def test_cancelled_task_is_not_sent(shell: Shell) -> None:
    submit(shell, CALL)
    shell.engine.cancel((3,))
    assert shell.join("1").told() == []
    assert shell.engine.tasks == 0


def test_running_task_is_cancelled_on_its_node(shell: Shell) -> None:
    node = shell.join("1")
    submit(shell, CALL)
    node.told()
    shell.engine.cancel((3,))
    assert node.told() == [("cancel", (3,))]


def test_tasks_of_a_node_that_leaves_run_elsewhere(shell: Shell) -> None:
    first = shell.join("1")
    submit(shell, CALL)
    second = shell.join("2")
    first.channel.close()
    shell.turn()
    assert shell.outlet.said == [("run_again", [3], "node 1 left: its connection ended")]
    assert [kind for kind, *_ in second.told()] == ["run"]
    assert shell.names() == ["2"]


def test_task_that_loses_too_many_nodes_fails(make_shell: MakeShell) -> None:
    shell = make_shell(max_retries=0)
    node = shell.join("1")
    submit(shell, CALL)
    node.channel.close()
    shell.turn()
    (ended,) = shell.outlet.ended
    assert (ended.number, ended.outcome) == (3, failure.LOST)
    assert shell.outlet.said == []


def test_functions_that_no_task_needs_are_forgotten(shell: Shell) -> None:
    node = shell.join("1")
    submit(shell, CALL)
    end(node, 3)
    node.told()
    shell.engine.retire((PROFILE.number,))
    shell.turn()
    assert node.told() == [("retire", ("key",), (PROFILE.number,))]


def test_tasks_wait_for_a_number_of_nodes(make_shell: MakeShell) -> None:
    shell = make_shell(wait_for_nodes=2)
    first = shell.join("1")
    submit(shell, CALL)
    assert first.told() == []
    second = shell.join("2")
    assert [kind for kind, *_ in [*first.told(), *second.told()]] == ["run"]


# --- files ---


def test_forgotten_file_is_dropped(shell: Shell) -> None:
    node = shell.join("1")
    submit(shell, MAKE)
    end(node, 1, text="text")
    node.told()
    shell.engine.forget(("file",))
    assert node.told() == [("drop", ("file",))]


def test_file_is_located(shell: Shell) -> None:
    node = shell.join("1")
    submit(shell, MAKE)
    end(node, 1, text="text")
    shell.engine.locate(7, "file")
    ((kind, request, (name, path, size, stamp)),) = shell.outlet.said
    assert (kind, request, name, size) == ("located", 7, "1", 4)
    assert Path(path).read_text() == "text"
    assert stamp == os.stat(path).st_ctime_ns


def test_damaged_file_is_recreated(shell: Shell) -> None:
    node = shell.join("1")
    submit(shell, MAKE)
    end(node, 1, text="text")
    node.told()
    shell.engine.locate(7, "file")
    ((_, _, (_, _, _, stamp)),) = shell.outlet.said
    shell.engine.spoiled("1", "file", stamp)
    shell.engine.locate(8, "file")
    assert "run" in [kind for kind, *_ in node.told()]


def test_snapshot_has_tasks_and_files(shell: Shell) -> None:
    node = shell.join("1")
    submit(shell, MAKE, CALL)
    end(node, 1, text="text")
    snapshot = shell.engine.snapshot()
    assert [task[:3] for task in snapshot["tasks"]] == [(3, "assigned", "1")]
    assert snapshot["files"] == [("file", 4, ["1"])]
    assert shell.engine.stats()["nodes_killed"] == 0


def test_files_pass_through_the_manager_if_nodes_may_not_copy(make_shell: MakeShell) -> None:
    shell = make_shell(peer_transfers=False)
    maker = shell.join("1", slots=1, cores=1.0)
    submit(shell, MAKE)
    end(maker, 1, text="text")
    submit(shell, CALL)  # it becomes the node that has the file
    reader = shell.join("2")
    submit(shell, READ)

    def told() -> list[tuple[Any, ...]]:
        shell.turn()
        return reader.told()

    ((kind, _, _, _, sources, _, _),) = eventually(told)
    ((path, size, stamp, node),) = sources.values()
    assert (kind, size, node) == ("run", 4, "")
    assert Path(path).parent == Path(shell.base, "relay")
    assert Path(path).read_text() == "text"
    assert stamp == os.stat(path).st_ctime_ns
    reader.say("cached", "file", 4, None, 5, 0.1, False, "")
    end(reader, 2)
    shell.engine.forget(("file",))
    assert not os.path.exists(path)


# --- nodes ---


def test_messages_to_the_user_are_passed_on(shell: Shell) -> None:
    node = shell.join("1")
    node.say("notice", "it is slow")
    node.say("radio", [b"message"])
    assert shell.outlet.said == [("notice", "node 1: it is slow"), ("radio", [b"message"])]


def test_idle_node_that_was_not_admitted_leaves(shell: Shell) -> None:
    shell.engine.tune({"max-workers": 1})
    shell.join("1")
    waiting = shell.join("2")
    waiting.say("idle")
    assert waiting.told() == [("exit",)]


def test_idle_node_below_the_minimum_stays(make_shell: MakeShell) -> None:
    shell = make_shell(min_nodes=1)
    node = shell.join("1")
    node.say("idle")
    assert node.told() == []


def test_directory_of_a_node_that_died_is_removed(shell: Shell) -> None:
    node = shell.join("1")
    cached(node, "text")
    node.channel.close()
    shell.turn()
    eventually(lambda: not os.listdir(os.path.join(shell.base, "nodes")))


def test_stopped_node_is_killed(shell: Shell, start: Start) -> None:
    process = start()
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: cleanup.is_stopped(process.pid))
    shell.join("1", pid=process.pid)
    submit(shell, CALL)
    shell.engine.tune({"keepalive-interval": 0.2, "keepalive-timeout": 0.2})

    def look() -> bool:
        shell.turn()
        return not shell.names()

    eventually(look)
    assert process.wait(10) == -signal.SIGKILL
    why = "node 1 left: it has not answered for 0.2 s, because its process is stopped (SIGSTOP)"
    assert shell.outlet.said == [("run_again", [3], why)]


def test_nodes_are_killed_at_random_times_on_request(make_shell: MakeShell, start: Start) -> None:
    shell, process = make_shell(tune={"executor.loss-interval": 0.01}), start()
    shell.join("1", pid=process.pid)
    shell.turn()
    assert process.poll() is None, "only time with tasks counts"
    submit(shell, CALL)

    def look() -> bool:
        shell.turn()
        return process.poll() is not None

    eventually(look)
    assert shell.engine.stats()["nodes_killed"] >= 1


def test_message_that_a_node_does_not_read_waits(shell: Shell) -> None:
    node = shell.join("1")
    text = b"x" * 1_000_000
    submit(shell, CALL._replace(arguments=text))
    waits: list[float | None] = []

    def arrived() -> list[tuple[Any, ...]]:
        waits.append(shell.engine.tick())
        return node.told()

    ((_, _, _, ((_, _, arguments, _, _),), _, _, _),) = eventually(arrived)
    assert arguments == text
    assert any(wait is not None and wait < 0.01 for wait in waits)


# --- nodes that the engine starts ---


def test_nodes_are_started_and_ended(make_shell: MakeShell, tmp_path: Path) -> None:
    program = f"open({str(tmp_path)!r} + f'/{{__import__(\"os\").getpid()}}', 'x'); __import__('time').sleep(1000)"
    shell = make_shell(factory_command=(sys.executable, "-ISc", program), min_nodes=1, max_nodes=3, per_node=2)
    assert shell.engine.tick() == 0.5
    (first,) = eventually(lambda: os.listdir(tmp_path))
    submit(shell, *(CALL._replace(number=number) for number in range(1, 6)))
    started = eventually(lambda: len(os.listdir(tmp_path)) == 3 and os.listdir(tmp_path))
    assert first in started
    shell.close()
    assert not any(cleanup.is_alive(int(pid)) for pid in started)


def test_nodes_that_do_not_join_are_an_error(make_shell: MakeShell, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shell = make_shell(factory_command=("/bin/sh", "-c", "echo why"), min_nodes=1, max_nodes=1, factory_log=str(log))

    def tick() -> NodesFail | None:
        try:
            shell.engine.tick()
        except NodesFail as error:
            return error
        return None

    error = eventually(tick)
    assert error.stderr == 5 * "why\n"
    assert error.reason == "5 nodes in a row ended before they joined"
