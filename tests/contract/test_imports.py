"""Each slot imports the modules of its functions, except those that the library was told to import."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import LibraryFailed
from tests.conftest import eventually

Make = Callable[..., TaskVineExecutor]
Write = Callable[[str, str], ModuleType]
SECONDS = 60  # far more than any test here takes, only so that none hangs


WITH_MANY_WAYS_IN = """
import os
IMPORTED_BY = os.getpid()
class Value:
    pass
def function(*_):
    return IMPORTED_BY, os.getpid()
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module and import it here, so that its members are pickled by reference."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = __import__(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return write


class Meeting:
    """Calls that wait for each other, so that each one occupies a slot."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir()
        self.directory = str(directory)
        self.count = count

    def attend(self) -> None:
        import time

        Path(self.directory, str(os.getpid())).touch()
        while len(os.listdir(self.directory)) < self.count:
            time.sleep(0.005)


def by_reference(module: ModuleType) -> tuple[Callable[..., Any], Any]:
    return module.function, None


def by_a_global(module: ModuleType) -> tuple[Callable[..., Any], Any]:
    def call(_: object) -> Any:
        return module.function()

    return call, None


def in_the_body(module: ModuleType) -> tuple[Callable[..., Any], Any]:
    name = module.__name__

    def call(_: object) -> Any:
        return __import__(name).function()

    return call, None


def by_an_argument(module: ModuleType) -> tuple[Callable[..., Any], Any]:
    def call(value: object) -> Any:
        return sys.modules[type(value).__module__].function()

    return call, module.Value()


@pytest.mark.parametrize("way", [by_reference, by_a_global, in_the_body, by_an_argument])
def test_every_process_imports_for_itself(
    make_executor: Make, mode: str, write_module: Write, tmp_path: Path, way: Callable[[ModuleType], Any]
) -> None:
    function, argument = way(write_module("many_ways_in", WITH_MANY_WAYS_IN))

    def together(meeting: Meeting, value: object) -> Any:
        meeting.attend()
        return function(value)

    executor = make_executor(function_exec_mode=mode)
    first = executor.submit(function, {}, argument).result(SECONDS)
    seen = [first]
    for number in range(2):  # the second time in slots that have replaced others
        meeting = Meeting(tmp_path / f"meeting-{number}", 2)
        futures = [executor.submit(together, {}, meeting, argument) for _ in range(2)]
        met = [future.result(SECONDS) for future in futures]
        assert len({pid for _, pid in met}) == 2
        seen += met
        if mode == "L2":
            for _, pid in met:
                executor.submit(os.kill, {}, pid, signal.SIGKILL).exception(SECONDS)
    assert all(importer == process for importer, process in seen)


def test_modules_read_the_environment_of_their_slot(make_executor: Make, mode: str, write_module: Write) -> None:
    source = "import os\nSEEN = [os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS')]\n"
    function = write_module("reads_environment", f"{source}def function(): return SEEN").function
    executor = make_executor(function_exec_mode=mode, cores=4, gpus=2)
    specs = [{}, {}, {"gpus": 1}, {"cores": 3}, {"gpus": 2, "cores": 2}, {}]
    seen = [executor.submit(function, spec).result(SECONDS) for spec in specs]
    assert seen == [["", "1"], ["", "1"], ["0", "1"], ["", "3"], ["0,1", "2"], ["", "1"]]


def test_threads_that_a_module_starts_are_alive_in_every_slot(make_executor: Make, write_module: Write) -> None:
    source = "from concurrent.futures import ThreadPoolExecutor\nimport os\nPOOL = ThreadPoolExecutor(1)\n"
    source += "POOL.submit(int).result()\ndef function(): return POOL.submit(os.getpid).result()"
    function = write_module("has_a_pool", source).function
    executor = make_executor()
    for _ in range(3):
        pids = {future.result(SECONDS) for future in [executor.submit(function, {}) for _ in range(4)]}
        for pid in pids:
            executor.submit(os.kill, {}, pid, signal.SIGKILL).exception(SECONDS)


ONLY_FOR_SLOTS = """
import os

with open(f"/proc/{os.getppid()}/comm") as name:
    if name.read().strip() != "taskvine-keeper":
        os._exit(7)

def function():
    with open(f"/proc/{os.getppid()}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])
"""


def test_module_that_kills_the_library_is_reported(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The parent of a slot is its keeper; the keeper's parent is the library.
    module = ModuleType("only_for_slots")
    exec("def function(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "only_for_slots.py").write_text(ONLY_FOR_SLOTS)
    executor = make_executor()
    libraries = {future.result(SECONDS) for future in [executor.submit(module.function, {}) for _ in range(8)]}
    assert len(libraries) == 1


# --- import_modules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["by name", "itself"])
def test_named_modules_are_imported_once_for_all_slots(
    make_executor: Make, write_module: Write, tmp_path: Path, named: str
) -> None:
    module = write_module("named_module", WITH_MANY_WAYS_IN)
    executor = make_executor(library_config={"import_modules": ["named_module" if named == "by name" else module]})

    def together(meeting: Meeting) -> tuple[int, int, int]:
        import named_module  # type: ignore[import-not-found]

        meeting.attend()
        with open(f"/proc/{os.getppid()}/stat") as keeper:
            library = int(keeper.read().rpartition(")")[2].split()[1])
        return (*named_module.function(), library)

    meeting = Meeting(tmp_path / "meeting", 2)
    met = [future.result(SECONDS) for future in [executor.submit(together, {}, meeting) for _ in range(2)]]
    importers, slots, libraries = map(set, zip(*met, strict=True))
    assert importers == libraries
    assert len(importers) == 1
    assert len(slots) == 2
    importer, process = executor.submit(module.function, {"function_exec_mode": "L1"}).result(SECONDS)
    assert importer == process, "a fresh process imports for itself"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "No module named 'not_to_be_had'"),
        ("raise ValueError('no licence')", "ValueError: no licence"),
        ("import sys; sys.exit('a script')", "SystemExit: a script"),
        ("import threading\nthreading.Thread(target=threading.Event().wait, name='ticker').start()", "thread (ticker)"),
        ("table = open(__file__)", "not_to_be_had.py open"),
    ],
    ids=["missing", "raises", "exits", "thread", "open file"],
)
def test_missing_named_module_fails_every_call(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, words: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    if source is not None:
        (tmp_path / "not_to_be_had.py").write_text(source)
    executor = make_executor(library_config={"import_modules": ["math", "not_to_be_had"]})
    for count in (4, 1):
        for future in [executor.submit(abs, {}, 1) for _ in range(count)]:
            error = future.exception(SECONDS)
            assert isinstance(error, LibraryFailed)
            assert "'not_to_be_had' of import_modules cannot be imported" in str(error)
            assert words in str(error)
    assert executor.submit(abs, {"function_exec_mode": "L1"}, -1).result(SECONDS) == 1


def test_named_module_may_append_to_a_log(make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "keeps_a_log.py").write_text(f"log = open({str(tmp_path / 'log')!r}, 'a')")
    executor = make_executor(library_config={"import_modules": ["keeps_a_log"]})
    assert executor.submit(abs, {}, -1).result(SECONDS) == 1


def test_global_generator_of_torch_is_seeded_in_every_slot(
    make_executor: Make, tmp_path: Path, write_module: Write
) -> None:
    # Stands for the real module: without a seed, its generator gives all slots the same numbers.
    source = "import random\n_own = random.Random(1)\nseed = _own.seed\ndef draw(): return _own.random()"
    write_module("torch", source)
    executor = make_executor(library_config={"import_modules": ["torch"]})

    def together(meeting: Meeting) -> float:
        meeting.attend()
        drawn: float = sys.modules["torch"].draw()  # type: ignore[attr-defined]
        return drawn

    meeting = Meeting(tmp_path / "meeting", 2)
    futures = [executor.submit(together, {}, meeting) for _ in range(2)]
    assert len({future.result(SECONDS) for future in futures}) == 2


def test_idle_slots_do_not_accumulate(make_executor: Make) -> None:
    executor = make_executor()
    pids = [executor.submit(os.getpid, {"memory": 1000 + number}).result(SECONDS) for number in range(24)]
    assert len(set(pids)) == 24

    eventually(lambda: sum(map(psutil.pid_exists, pids)) <= 16)
