"""Programs as users write and end them, in an environment that is not prepared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import taskvine_exec
import taskvine_manager
import taskvine_tune
from tests.conftest import Gate, command, eventually

ROOTS = [str(Path(package.__file__).parent.parent) for package in (taskvine_exec, taskvine_manager, taskvine_tune)]
MARK = "TASKVINE_EXEC_TESTS_PROGRAM"

LOAD = """
import os, sys
import parsl
from parsl.config import Config
from taskvine_exec import TaskVineExecutor

executor = TaskVineExecutor(label="tv", cores=1)
config = Config(executors=[executor], run_dir=os.environ["RUN_DIR"])
"""

APPS = """
FACTOR = 2

def helper(x):
    return x * FACTOR

@parsl.python_app
def double(x):
    return helper(x)

@parsl.python_app(executors=["tv"])
def regular(x, parsl_resource_specification={"function_exec_mode": "regular"}):
    return helper(x)
"""

HOLD = """
@parsl.python_app
def hold(path):
    import time
    open(os.path.join(path, f"program.{os.getpid()}"), "w").close()
    while not os.path.exists(os.path.join(path, "open")):
        time.sleep(0.01)
"""


def _from_a_terminal() -> None:
    # Tests in the background of a shell, or under nohup, have inherited ignored signals.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Program:
    """A Python program in a new session, with its own environment."""

    def __init__(self, arguments: list[str], environment: dict[str, str], directory: Path) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(ROOTS), MARK: self._mark, **environment},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_from_a_terminal,  # noqa: PLW1509
        )

    def result(self, status: int = 0) -> str:
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == status, err
        return out

    def left(self) -> list[psutil.Process]:
        """Return the processes that the program has started, and their descendants."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
def program(tmp_path: Path, nothing_left: str) -> Iterator[Callable[..., Program]]:
    """Start programs; none of their processes may be left after the test."""
    started: list[Program] = []

    def start(*arguments: str, directory: Path = tmp_path, **environment: str) -> Program:
        settings = {"TMPDIR": nothing_left, "RUN_DIR": str(tmp_path / "runinfo"), **environment}
        started.append(Program(list(arguments), settings, directory))
        return started[-1]

    yield start
    for each in started:
        try:
            eventually(lambda each=each: not each.left())
        finally:
            for process in each.left():
                process.kill()
            each.process.kill()
            each.process.communicate()


def write(path: Path, *parts: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(parts))
    return str(path)


CALLS = """
parsl.load(config)
print(double(20).result() + regular(1).result())
parsl.dfk().cleanup()
"""


def test_script_needs_no_main_guard(program: Callable[..., Program], tmp_path: Path) -> None:
    assert program(write(tmp_path / "script.py", LOAD, APPS, CALLS)).result() == "42\n"


def test_python_c(program: Callable[..., Program]) -> None:
    assert program("-c", "\n".join([LOAD, APPS, CALLS])).result() == "42\n"


def test_module_beside_the_script(program: Callable[..., Program], tmp_path: Path) -> None:
    write(tmp_path / "src" / "beside.py", "def triple(x):\n    return 3 * x\n")
    calls = """
from beside import triple
parsl.load(config)
regular = parsl.python_app(lambda x, **_: __import__("beside").triple(x))
print(parsl.python_app(triple)(10).result() + regular(4).result())
parsl.dfk().cleanup()
"""
    script = write(tmp_path / "src" / "script.py", LOAD, calls)
    assert program(script).result() == "42\n"
    assert program("script.py", directory=tmp_path / "src").result() == "42\n"
    assert program("-m", "script", directory=tmp_path / "src").result() == "42\n"


def test_paths_may_contain_spaces(program: Callable[..., Program], tmp_path: Path) -> None:
    temporary = tmp_path / "my tmp"
    temporary.mkdir()
    where = "print(executor.run.places.base)"
    parts = [part.replace('"tv"', '"my executor"') for part in (LOAD, APPS, CALLS, where)]
    script = write(tmp_path / "my scripts" / "my script.py", *parts)
    started = program(script, RUN_DIR=str(tmp_path / "my runs"), TMPDIR=str(temporary))
    answer, base = started.result().splitlines()
    assert answer == "42"
    assert list((tmp_path / "my runs" / "000" / "my executor").iterdir())
    assert list(temporary.iterdir()) == []
    assert not os.path.exists(base)


WITHOUT = """
parsl.load(config)
hold(os.environ["GATE"]).result()
"""
WITH = """
with parsl.load(config):
    hold(os.environ["GATE"]).result()
"""
SEVERAL = """
with parsl.load(config):
    for future in [hold(os.environ["GATE"]) for _ in range(20)]:
        future.result()
"""


@pytest.mark.parametrize("body", [WITHOUT, WITH, SEVERAL], ids=["without", "with", "several"])
def test_ctrl_c_ends_a_program(program: Callable[..., Program], tmp_path: Path, gate: Gate, body: str) -> None:
    started = program(write(tmp_path / "script.py", LOAD, HOLD, body), GATE=str(tmp_path / "gate"))
    gate.wait(1)
    os.killpg(started.process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in started.process.communicate(timeout=60)[1]
    assert started.process.returncode == -signal.SIGINT
    eventually(lambda: not started.left())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_program_leaves_nothing(
    program: Callable[..., Program], tmp_path: Path, gate: Gate, number: signal.Signals
) -> None:
    """Only the manager and the nodes are left to clean up."""
    started = program(write(tmp_path / "script.py", LOAD, HOLD, WITHOUT), GATE=str(tmp_path / "gate"))
    gate.wait(1)
    assert len(started.left()) > 3
    started.process.send_signal(number)
    eventually(lambda: not started.left())


def test_program_killed_with_its_manager_leaves_nothing(
    program: Callable[..., Program], tmp_path: Path, gate: Gate, nothing_left: str
) -> None:
    """Nodes end, and the last one removes the run's directory: no other process is left to do it."""
    started = program(write(tmp_path / "script.py", LOAD, HOLD, WITHOUT), GATE=str(tmp_path / "gate"))
    gate.wait(1)
    (manager,) = [process for process in started.left() if "manager" in command(process)]
    started.process.kill()
    manager.kill()
    eventually(lambda: not started.left())
    eventually(lambda: not list(Path(nothing_left).glob("taskvine-*")))


END = """
parsl.load(config)
assert double(21).result() == 42
"""
UNFINISHED = """
parsl.load(config)
future = hold(os.environ["GATE"])
while not os.listdir(os.environ["GATE"]):
    pass
"""
RAISES = """
parsl.load(config)
future = hold(os.environ["GATE"])
raise RuntimeError("a program's own")
"""
EXITS = """
parsl.load(config)
double(21).result()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("body", "status"),
    [(END, 0), (UNFINISHED, 0), (RAISES, 1), (EXITS, 0)],
    ids=["done", "unfinished", "raises", "exits"],
)
def test_program_may_end_without_cleanup(
    program: Callable[..., Program], tmp_path: Path, gate: Gate, body: str, status: int
) -> None:
    started = program(write(tmp_path / "script.py", LOAD, APPS, HOLD, body), GATE=str(tmp_path / "gate"))
    started.result(status)
    eventually(lambda: not started.left())


def test_executor_works_without_a_dfk(program: Callable[..., Program], tmp_path: Path, nothing_left: str) -> None:
    body = """
from taskvine_exec import TaskVineExecutor
with TaskVineExecutor(cores=1) as executor:
    executor.start()
    print(executor.submit(lambda x: 2 * x, {}, 21).result())
"""
    assert program("-c", body).result() == "42\n"
    assert not any(path.name != "runinfo" for path in tmp_path.iterdir())  # it has left nothing in its directory


NOTEBOOK = r"""
import code, sys, types
import os

main = types.ModuleType("__main__")
sys.modules["__main__"] = main
console = code.InteractiveConsole(vars(main))
cells = [
    "import os, parsl\nfrom parsl.config import Config\nfrom taskvine_exec import TaskVineExecutor",
    "config = Config(executors=[TaskVineExecutor(label='tv', cores=1)], run_dir=os.environ['RUN_DIR'])",
    "parsl.load(config)",
    "FACTOR = 2\ndef helper(x):\n    return Box(x * FACTOR)",
    "class Box:\n    def __init__(self, value):\n        self.value = value",
    "@parsl.python_app\ndef double(x):\n    return helper(x)",
    "print(double(21).result().value, type(double(21).result()) is Box)",
    "FACTOR = 3",
    "@parsl.python_app\ndef double(x):\n    return helper(x)",
    "print(double(21).result().value)",
    "@parsl.python_app\ndef fail():\n    raise ValueError('in a cell')",
    "try:\n    fail().result()\nexcept ValueError as error:\n    print(error)",
    "parsl.dfk().cleanup()",
]
for number, cell in enumerate(cells):
    console.runcode(compile(cell, f"<ipython-input-{number}>", "exec"))
"""


def test_functions_of_a_notebook(program: Callable[..., Program]) -> None:
    """Functions and classes of a __main__ without a file."""
    assert program("-c", NOTEBOOK).result() == "42 True\n63\nin a cell\n"
