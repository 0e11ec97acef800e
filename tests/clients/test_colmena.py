"""Colmena's task server, and ours, on both engines."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("colmena")

from colmena.models.methods import ExecutableMethod
from colmena.queue.python import PipeQueues
from colmena.task_server import ParslTaskServer
from proxystore.connectors.file import FileConnector
from proxystore.proxy import Proxy
from proxystore.store import Store

from taskvine_exec import local_config
from taskvine_exec.clients.colmena import FETCH, RELEASE, TaskVineTaskServer
from tests.integration import test_pages
from tests.integration.test_programs import ROOTS
from tests.pages import PROGRAMS, ROOT, Block

Serve = Callable[..., PipeQueues]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SECONDS = 200
PAGE = [block for block in PROGRAMS if block.page.name == "colmena.md"]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start task servers, which are told to end after the test."""
    started: list[tuple[PipeQueues, Any]] = []

    def start(make: Callable[[PipeQueues], Any], **options: Any) -> PipeQueues:
        queues = PipeQueues(**options)
        server = make(queues)
        server.start()
        started.append((queues, server))
        return queues

    yield start
    queues = server = None
    for queues, server in started:
        queues.send_kill_signal()
        server.join(SECONDS)
        assert server.exitcode == 0
        server.close()
    started.clear()
    del queues, server
    gc.collect()  # their pipes are in cycles of references


def done(queues: PipeQueues) -> Any:
    result = queues.get_result(timeout=SECONDS)
    assert result is not None
    return result


def ask(queues: PipeQueues, method: str, *args: Any) -> Any:
    """Send a task and return its value."""
    queues.send_inputs(*args, method=method)
    result = done(queues)
    assert result.success, result.failure_info
    return result.value


def square(x: int) -> int:
    return x * x


def broken() -> None:
    raise ValueError("as asked")


class Echo(ExecutableMethod):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(executable=["echo"], name="echo")

    def preprocess(self, run_dir: Path, args: Any, kwargs: Any) -> tuple[list[str], str | None]:
        return [str(arg) for arg in args], None

    def postprocess(self, run_dir: Path) -> str:
        return (run_dir / "colmena.stdout").read_text()


def test_its_own_server_runs_on_this_executor(serve: Serve, engine: str, tmp_path: Path) -> None:
    """Functions, failures, and executables, which are three apps that depend on each other."""
    config = local_config(engine=engine, cores=2, run_dir=str(tmp_path / "runs"))
    queues = serve(lambda queues: ParslTaskServer([square, broken, Echo()], queues, config))
    for x in range(10):
        queues.send_inputs(x, method="square")
    assert sorted(done(queues).value for _ in range(10)) == [x * x for x in range(10)]
    queues.send_inputs(method="broken")
    failed = done(queues)
    assert not failed.success
    assert "as asked" in failed.failure_info.exception
    assert ask(queues, "echo", "hello").strip() == "hello"


def make_array(size: int) -> Any:
    import numpy as np

    return np.arange(size, dtype=float)


def total(first: Any, second: Any) -> float:
    return float(first.sum() + second.sum())


def where() -> int:
    import os

    return os.getpid()


def infer(x: int) -> list[int]:
    import os

    from taskvine_exec import load_variable_from_library

    return [load_variable_from_library("model") * x, load_variable_from_library("loaded_by"), os.getpid()]


def load_model(weight: int) -> dict[str, int]:
    import os

    return {"model": weight, "loaded_by": os.getpid()}


def test_our_server(serve: Serve, engine: str, tmp_path: Path) -> None:
    """Large results stay on nodes between tasks, methods choose L1 or L2, and calls share a context."""
    methods = [
        square,
        broken,
        infer,
        total,
        Echo(),
        (make_array, {"keep": True}),
        (where, {"function_exec_mode": "L1"}),
    ]
    library = {"num_slots": 2, "context": load_model, "context_args": (7,)}
    queues = serve(
        lambda queues: TaskVineTaskServer(
            queues, methods, engine=engine, cores=2, library_config=library, run_dir=str(tmp_path / "runs")
        )
    )
    assert ask(queues, "square", 3) == 9
    assert ask(queues, "echo", "hello").strip() == "hello"
    # an array could not be sent as JSON, which is the default of the queues
    first, second = ask(queues, "make_array", 500_000), ask(queues, "make_array", 10)
    assert isinstance(first, str)
    assert ask(queues, "total", first, second) == sum(range(500_000)) + sum(range(10))
    assert ask(queues, RELEASE, first, second) == 2
    queues.send_inputs(first, second, method="total")
    assert "released" in done(queues).failure_info.exception
    assert ask(queues, "where") != ask(queues, "where"), "each L1 task has a process of its own"
    answers = [ask(queues, "infer", x) for x in range(4)]
    assert [answer[0] for answer in answers] == [0, 7, 14, 21]
    assert len({answer[1] for answer in answers}) == 1, "the model was loaded once"
    assert all(answer[1] != answer[2] for answer in answers)
    queues.send_inputs(method="broken")
    assert "as asked" in done(queues).failure_info.exception


def test_values_can_be_fetched(serve: Serve, engine: str, tmp_path: Path) -> None:
    """A kept result reaches the thinker when it asks for it; a failed task keeps nothing."""
    methods = [(make_array, {"keep": True})]
    queues = serve(
        lambda queues: TaskVineTaskServer(queues, methods, engine=engine, run_dir=str(tmp_path / "runs")),
        serialization_method="pickle",
    )
    kept = ask(queues, "make_array", 100_000)
    assert ask(queues, FETCH, kept).tolist() == list(range(100_000))
    queues.send_inputs("no number", method="make_array")
    failed = done(queues)
    assert not failed.success
    assert not os.path.exists(str(failed.value))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """The name of a store of proxystore, with files."""
    with Store("clients", FileConnector(str(tmp_path / "store")), register=True) as made:
        yield made.name


def twice(text: str) -> str:
    return 2 * text


def test_proxystore(store: str, serve: Serve, engine: str, tmp_path: Path) -> None:
    """Large values that the thinker sends and gets pass through its store, beside results that stay on nodes."""
    methods = [twice, total, (make_array, {"keep": True})]
    queues = serve(
        lambda queues: TaskVineTaskServer(queues, methods, engine=engine, run_dir=str(tmp_path / "runs")),
        serialization_method="pickle",
        proxystore_name=store,
        proxystore_threshold=10_000,
    )
    value = ask(queues, "twice", 50_000 * "x")
    assert type(value) is Proxy
    assert value == 100_000 * "x"
    kept = ask(queues, "make_array", 100_000)
    assert ask(queues, "total", kept, kept) == 2 * sum(range(100_000))


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="did you mean 'cores'"):
        TaskVineTaskServer(PipeQueues(), [(square, {"cpus": 1})])
    with pytest.raises(Exception, match="two methods of the name 'square'"):
        TaskVineTaskServer(PipeQueues(), [square, square])
    with pytest.raises(Exception, match="into the config"):
        TaskVineTaskServer(PipeQueues(), [square], local_config(), cores=2)


@pytest.mark.parametrize("block", PAGE, ids=lambda block: block.name)
def test_the_page(tmp_path: Path, nothing_left: str, block: Block) -> None:
    """The programs on the page print what it shows."""
    test_pages.test_programs_print_what_the_page_shows(tmp_path, nothing_left, block)


def test_the_example(tmp_path: Path, nothing_left: str, engine: str) -> None:
    """The model finds better candidates than chance."""
    command = [sys.executable, str(ROOT / "examples" / "colmena_steering" / "run.py"), "--engine", engine]
    command += ["--candidates", "2000", "--batch", "8", "--rounds", "4", "--steps", "1000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*ROOTS, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    by_chance, by_model = re.findall(r"best of 32 is (\S+),", done.stdout)
    assert float(by_model) > float(by_chance), done.stdout


def test_there_are_such_programs() -> None:
    assert PAGE
