"""With any hook off, and with all hooks off, a program gets the same results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import taskvine_exec
import taskvine_manager
import taskvine_tune
from taskvine_exec.parsl_hooks.switches import HOOKS, VARIABLE

ROOTS = [str(Path(package.__file__).parent.parent) for package in (taskvine_exec, taskvine_manager, taskvine_tune)]

PROGRAM = """
import concurrent.futures, json, logging, os, sys
from dataclasses import dataclass
from typing import Any

import parsl
from parsl.config import Config
from parsl.data_provider.files import File
from parsl.dataflow.errors import DependencyError
from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import TaskCancelled

logging.basicConfig()

@dataclass
class Box:
    content: Any

@parsl.python_app
def make(count, fill):
    return bytes([fill]) * count

@parsl.python_app
def size(*data):
    return sum(map(len, data))

@parsl.python_app
def opened(box):
    return [len(each) for each in box.content]

@parsl.python_app
def fail(reason):
    raise ValueError(reason)

@parsl.python_app
def fails_at_first(path, walltime=30):
    import os
    if os.path.exists(path):
        return 7
    open(path, "w").close()
    raise ValueError("not yet")

@parsl.python_app
def held(path):
    import os, time
    open(path + ".begun", "w").close()
    while not os.path.exists(path):
        time.sleep(0.01)

@parsl.python_app(cache=True)
def cached(x):
    return x + 1

@parsl.python_app
def content(files):
    return [open(each.filepath).read() for each in files["all"]]

@parsl.python_app
def add(x, y):
    return x + y

@parsl.join_app
def joined(x):
    return add(x, 1)

executor = TaskVineExecutor(label="tv", cores=2, working_directory="submit", **json.loads(sys.argv[1]))
said = {}
config = Config(executors=[executor], dependency_resolver=DAG_RESOLVER, retries=1, run_dir="runinfo", strategy="none")
with parsl.load(config):
    small, large = make(10, 1), make(1_000_000, 2)
    said["edges"] = size(small, large, large).result(60)
    said["containers"] = opened(Box([large, small])).result(60)
    said["chain"] = [add(add(1, 2), add(3, 4)).result(60), joined(add(1, 1)).result(60), cached(add(1, 1)).result(60)]
    said["large"] = [len(large.result(60)), large.result() is large.result()]
    read = concurrent.futures.wait([make(1_000_000, number) for number in range(3)], 60)
    said["waited"] = sorted(future.result()[0] for future in read.done)
    wrong = fail("no")
    said["exception"] = [type(wrong.exception(60)).__name__, str(wrong.exception())]
    depends = size(large, wrong)
    said["dependency"] = [type(depends.exception(60)).__name__, repr(depends.exception().__cause__)]
    said["retried"] = add(fails_at_first("once"), 1).result(60)
    with open("file", "w") as file:
        file.write("text")
    said["files"] = content({"all": [File("file")]}).result(60)
    kept = make(1_000_000, 3)
    kept.exception(60)
    call = executor.submit(held.func, {}, "never")
    call.cancel()
    running = held("never")
    behind = size(large, running)
errors = [each.exception(60) for each in (running, behind)]
said["cancelled"] = [call.cancelled(), *(type(each.__cause__ or each).__name__ for each in errors)]
said["after"] = kept.result(60)[0]
print(json.dumps(said))
"""

EXPECTED = {
    "edges": 2_000_010,
    "containers": [1_000_000, 10],
    "chain": [10, 3, 3],
    "large": [1_000_000, True],
    "waited": [0, 1, 2],
    "exception": ["ValueError", "no"],
    "dependency": ["DependencyError", "ValueError('no')"],
    "retried": 8,
    "files": ["text"],
    "cancelled": [True, "ExecutorShutDown", "ExecutorShutDown"],
    "after": 3,
}


GROUPS = [
    "frames",  # without it, others have nothing to do
    "wrappers",
    "resolver,comparison,files",
    "futures,jobs,lock",
    "conditions,proxies,collector",
    "records,stand-ins,launching",
]
"""Hooks that are switched off together, because they do not concern the same part of a program."""


def test_every_hook_is_switched_off() -> None:
    assert sorted(name for group in GROUPS for name in group.split(",")) == sorted(hook.name for hook in HOOKS)


@pytest.mark.parametrize(
    ("off", "results"),
    [*((off, "value") for off in ("", *GROUPS, "all")), *((off, "reference") for off in ("", "frames", "all"))],
)
def test_results_do_not_depend_on_hooks(off: str, results: str, tmp_path: Path) -> None:
    environment = {**os.environ, VARIABLE: off, "PYTHONPATH": os.pathsep.join(ROOTS)}
    asked = json.dumps({"results": results})
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, asked]
    done = subprocess.run(
        program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said == EXPECTED
    wanted = {hook.name for hook in HOOKS if off == "all" or hook.name in off.split(",")}
    assert {hook.name for hook in HOOKS if f"the hook {hook.name} is off" in done.stderr} == wanted
