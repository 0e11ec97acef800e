"""A program that forks inside a run: the run belongs to the parent, whatever the child does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.contract.conftest import engine  # noqa: F401  (fixture)

PROGRAM = """
import os, sys, parsl
from parsl.config import Config
from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ExecutorShutDown

@parsl.python_app
def slow(x):
    import time
    time.sleep(0.1)
    return x

executor = TaskVineExecutor(engine=sys.argv[1], cores=2)
# Without Parsl's log: a child that is forked while a thread writes to it waits for that file's lock for ever.
with parsl.load(Config(executors=[executor], initialize_logging=False)):
    assert slow(1).result(60) == 1
    child = os.fork()  # while nothing runs: a child has the locks that Parsl's threads hold just then
    if not child:
        try:
            executor.submit(len, {}, "abc")
        except ExecutorShutDown as error:
            print(error, flush=True)
    else:
        assert os.waitpid(child, 0)[1] == 0
        futures = [slow(i) for i in range(10)]
        assert [future.result(60) for future in futures] == list(range(10))
        assert slow(2).result(60) == 2
if not child:
    os._exit(0)
print("done")
"""


def test_forked_child_does_not_end_the_run(nothing_left: str, tmp_path: Path, engine: str) -> None:  # noqa: F811
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, str(program), engine], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said, done = ended.stdout.splitlines()
    assert "was forked from the one that started it" in said
    assert done == "done"
