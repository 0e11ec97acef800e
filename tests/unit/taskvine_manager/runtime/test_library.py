"""A library's process, its slots, and its messages to the node. The test acts as the node."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from taskvine_manager.runtime import context, failure, search_path
from taskvine_manager.runtime.slot import PACKET_LIMIT

PROGRAM = """
import socket, sys
from taskvine_manager.runtime import library
library.Library(socket.socket(fileno=int(sys.argv[1]))).run()
"""


class Library:
    """The process of a library, and the node's end of its socket."""

    def __init__(self, directory: Path, **config: Any) -> None:
        self.slots: list[Slot] = []
        for name in ("log", "scratch", "spool"):
            (directory / name).mkdir(exist_ok=True)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        usual: dict[str, Any] = {
            **{name: str(directory / name) for name in ("log", "scratch", "spool")},
            **dict.fromkeys(("directory", "context", "memory_group")),
            "inline_limit": 1000,
            "sys_path": search_path.of_this_process(),
            "import_modules": (),
            "context_scope": "library",
            "start_timeout": 60.0,
        }
        self.socket.send(pickle.dumps({**usual, **config}))
        search = os.pathsep.join([str(directory), *sys.path])
        with theirs, open(directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": search, "TMPDIR": str(directory)},
                stdout=output,
                stderr=output,
            )
        self.socket.settimeout(30)
        assert self.hear() == ("ready", self.process.pid)

    def hear(self) -> tuple[Any, ...]:
        packet: tuple[Any, ...] = pickle.loads(self.socket.recv(PACKET_LIMIT))
        return packet

    def fork(self, number: int, memory: float = 0.0, cpus: tuple[int, ...] = (), **environment: str) -> Slot:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            packet = pickle.dumps(("fork", number, environment, memory, cpus))
            socket.send_fds(self.socket, [packet], [theirs.fileno()])
            kind, forked, keeper = self.hear()
            assert (kind, forked) == ("forked", number)
        self.slots.append(Slot(ours, keeper))
        return self.slots[-1]

    def end(self) -> int:
        for slot in self.slots:
            slot.socket.close()
        self.socket.close()
        return self.process.wait(30)


class Slot:
    """The node's end of a slot's socket, and the process id of the slot's keeper."""

    def __init__(self, end: socket.socket, keeper: int) -> None:
        self.socket = end
        self.keeper = keeper
        self.socket.settimeout(30)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a task; return its result."""
        self.socket.send(pickle.dumps(("f", "f", cloudpickle.dumps(function))))
        self.socket.send(pickle.dumps(("c", 1, "f", pickle.dumps((args, {})), None, None)))
        while (packet := pickle.loads(self.socket.recv(PACKET_LIMIT)))[0] == "l":
            pass
        kind, _, outcome, body, *_ = packet
        assert (kind, outcome) == ("r", failure.RETURNED), pickle.loads(body)
        self.socket.send(pickle.dumps(("d", ["f"])))
        return pickle.loads(body)


Start = Callable[..., Library]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Library] = []

    def begin(**config: Any) -> Library:
        made.append(Library(tmp_path, **config))
        return made[-1]

    yield begin
    for library in made:
        library.end()


def encoded(setup: Callable[..., Any], *args: Any) -> bytes:
    made: bytes = cloudpickle.dumps((setup, args, {}))
    return made


# --- its start ---


def test_library_is_warm_and_ends_with_its_node(start: Start) -> None:
    library = start()
    assert library.hear() == ("warm",)
    assert library.end() == 0


def test_modules_are_imported_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import os; process = os.getpid()")
    library = start(import_modules=("heavy",))
    assert library.hear() == ("warm",)
    slot = library.fork(0)
    assert slot.call(lambda: sys.modules["heavy"].process) == library.process.pid


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ValueError('why')", "ValueError: why"),
        ("import sys; sys.exit('why')", "SystemExit: why"),
        (
            "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "it starts a thread",
        ),
        ("file = open(__file__)", "open, and all slots would share the position in it"),
    ],
)
def test_module_that_cannot_be_shared_ends_the_library(start: Start, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    library = start(import_modules=("bad",))
    kind, what, record = library.hear()
    assert (kind, what) == ("failed", "library")
    said = pickle.loads(record)
    assert said["reason"].startswith("'bad' of import_modules cannot be imported: ")
    assert reason in said["reason"]
    assert library.process.wait(30) == 0


def test_module_may_append_to_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "logs.py").write_text("file = open(__file__ + '.log', 'a')")
    assert start(import_modules=("logs",)).hear() == ("warm",)


# --- contexts ---


def test_context_of_a_library_is_built_once(start: Start) -> None:
    library = start(context=encoded(lambda model: {"model": model, "built by": os.getpid()}, "weights"))
    assert library.hear() == ("warm",)
    slots = [library.fork(number) for number in range(2)]
    for slot in slots:
        assert slot.call(context.load_variable_from_library, "model") == "weights"
        assert slot.call(context.load_variable_from_library, "built by") == library.process.pid


def test_context_of_a_slot_is_built_in_each(start: Start) -> None:
    library = start(context=encoded(lambda: {"built by": os.getpid()}), context_scope="slot")
    assert library.hear() == ("warm",)
    slots = [library.fork(number) for number in range(2)]
    builders = {slot.call(context.load_variable_from_library, "built by") for slot in slots}
    assert len(builders) == 2
    assert library.process.pid not in builders


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: [1], "TypeError: a context's setup function returns a dict of variables, not list"),
        (lambda: sys.exit(3), "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("scope", ["library", "slot"])
def test_context_that_cannot_be_built_is_explained(
    start: Start, tmp_path: Path, scope: str, setup: Callable[[], Any], reason: str
) -> None:
    library = start(context=encoded(setup), context_scope=scope)
    if scope == "library":
        kind, what, record = library.hear()
        assert (kind, what) == ("failed", "context")
    else:
        assert library.hear() == ("warm",)
        library.fork(7)
        assert library.hear() == ("exited", 7, 1 << 8)
        record = (tmp_path / "scratch" / "context-failed-7").read_bytes()
    assert pickle.loads(record)["reason"] == f"the context cannot be built: {reason}"


# --- slots ---


def test_slot_runs_tasks_in_its_own_directory_and_log(start: Start, tmp_path: Path) -> None:
    library = start()
    assert library.hear() == ("warm",)
    slot = library.fork(3, NAME="value")

    def say() -> tuple[str, str | None]:
        print("a word")
        return os.getcwd(), os.environ.get("NAME")

    assert slot.call(say) == (str(tmp_path / "scratch" / "slot-3"), "value")
    slot.socket.close()
    assert library.hear() == ("exited", 3, 0)
    assert (tmp_path / "log" / "slot-3.log").read_text() == "a word\n"
    assert not (tmp_path / "scratch" / "slot-3").exists()


def test_death_of_a_slot_is_told(start: Start) -> None:
    library = start()
    assert library.hear() == ("warm",)
    slot = library.fork(3)
    pid = slot.call(os.getpid)
    os.kill(pid, signal.SIGKILL)
    assert library.hear() == ("exited", 3, signal.SIGKILL)


def test_slot_is_bound_to_its_cpus(start: Start) -> None:
    library = start()
    assert library.hear() == ("warm",)
    allowed = os.sched_getaffinity(0)
    bound, free = library.fork(0, cpus=(max(allowed),)), library.fork(1)
    assert bound.call(os.sched_getaffinity, 0) == {max(allowed)}
    assert free.call(os.sched_getaffinity, 0) == allowed


def test_slot_that_cannot_be_bound_says_why(start: Start, tmp_path: Path) -> None:
    library = start()
    assert library.hear() == ("warm",)
    library.fork(0, cpus=(60_000,))
    assert library.hear() == ("exited", 0, 1 << 8)
    assert "sched_setaffinity" in (tmp_path / "log" / "slot-0.log").read_text()


def test_slot_without_a_log_directory_works(start: Start, tmp_path: Path) -> None:
    library = start(log=str(tmp_path / "missing"))
    assert library.hear() == ("warm",)
    slot = library.fork(3)
    assert slot.call(lambda: print("lost")) is None


def test_slots_draw_different_random_numbers(start: Start) -> None:
    library = start(import_modules=("random", "numpy.random"))
    assert library.hear() == ("warm",)
    slots = [library.fork(number) for number in range(2)]

    def draw() -> tuple[float, float]:
        import random

        import numpy as np

        return random.random(), float(np.random.random())

    (first, first_numpy), (second, second_numpy) = [slot.call(draw) for slot in slots]
    assert first != second
    assert first_numpy != second_numpy


def test_slot_forgets_the_temporary_directory_of_its_library(start: Start, tmp_path: Path) -> None:
    library = start(context=encoded(lambda: {"of the library": __import__("tempfile").gettempdir()}))
    assert library.hear() == ("warm",)
    (tmp_path / "own").mkdir()
    slot = library.fork(0, TMPDIR=str(tmp_path / "own"))
    assert slot.call(lambda: __import__("tempfile").gettempdir()) == str(tmp_path / "own")


def test_slot_with_a_memory_limit_does_not_count_the_library(start: Start) -> None:
    library = start(context=encoded(lambda: {"held": b"x" * (64 << 20)}))
    assert library.hear() == ("warm",)
    slot = library.fork(0, memory=40.0)
    assert slot.call(lambda: 5) == 5


def test_library_that_uses_a_gpu_says_so(start: Start, tmp_path: Path) -> None:
    """An open device means that; here it is a file."""
    (tmp_path / "device").touch()

    def use(path: str) -> dict[str, Any]:
        from taskvine_manager.runtime import library

        library.GPU_DEVICES = (path,)  # type: ignore[assignment]
        return {"file": open(path, "a")}

    library = start(context=encoded(use, str(tmp_path / "device")))
    assert library.hear() == ("gpu",)
    assert library.hear() == ("warm",)
