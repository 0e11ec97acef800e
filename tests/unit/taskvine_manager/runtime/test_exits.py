"""A forked process leaves exit handlers, finalizers and children to the process that it was forked from."""

from __future__ import annotations

import os
import subprocess
import sys

from taskvine_manager.runtime import exits

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(exits.__file__))))
PROGRAM = f"""
import atexit, multiprocessing, multiprocessing.util, os, sys, time, weakref
sys.path.append({ROOT!r})
from taskvine_manager.runtime import exits

def say(what):
    os.write(1, f"{{who}} {{what}}\\n".encode())

class Thing: pass

who = "parent"
things = [Thing(), Thing(), Thing()]
atexit.register(say, "inherited handler")
weakref.finalize(things[0], say, "inherited finalizer")
multiprocessing.util.Finalize(things[1], say, ["inherited, of multiprocessing"], exitpriority=1)
helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
helper.start()
pid = os.fork()
if pid == 0:
    who = "child"
    exits.disinherit()
    atexit.register(say, "handler")
    weakref.finalize(things[2], say, "finalizer")
    multiprocessing.util.Finalize(things[2], say, ["of multiprocessing"], exitpriority=1)
    exits.run()
    os._exit(0)
os.waitpid(pid, 0)
os.write(1, f"helper {{helper.is_alive()}}\\n".encode())
"""


def test_only_handlers_of_this_process_run() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, check=True)
    said = ran.stdout.splitlines()
    assert sorted(line for line in said if line.startswith("child")) == [
        "child finalizer",
        "child handler",
        "child of multiprocessing",
    ]
    assert "helper True" in said
    assert sorted(line for line in said if line.startswith("parent")) == [
        "parent inherited finalizer",
        "parent inherited handler",
        "parent inherited, of multiprocessing",
    ]


def test_slow_handler_is_cut_off() -> None:
    program = (
        f"import atexit, os, sys, time; sys.path.append({ROOT!r}); from taskvine_manager.runtime import exits;"
        "exits.SECONDS = 0.01; atexit.register(time.sleep, 1000); print('before'); exits.run()"
    )
    ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ran.returncode < 0
