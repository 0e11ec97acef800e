"""The heap of a slot: free pages of large objects are kept for a moment, and only if nothing speaks against it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is changed")

_SCRIPT = """
import os, socket, sys
from taskvine_manager.runtime.heap import IDLE_SECONDS, Heap

LENGTH = 40 << 20

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

heap = Heap(is_kept=sys.argv[1] == "kept")
there, here = socket.socketpair()
buffer = memoryview(bytearray(16))
before = resident()
made = b"x" * LENGTH
assert resident() - before > LENGTH / 2
del made
print(resident() - before > LENGTH / 2)
there.send(b"soon")
heap.used(1.0, has_file=False)
assert heap.receive(here, buffer) == 4
print(resident() - before > LENGTH / 2)
here.settimeout(3 * IDLE_SECONDS)
try:
    heap.receive(here, buffer)
except TimeoutError:
    print(resident() - before > LENGTH / 2)
"""


def _run(mode: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", _SCRIPT, mode]
    everything = {**os.environ, **environment}
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True, env=everything)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_free_pages_are_kept_while_tasks_come() -> None:
    assert _run("kept") == ["True", "True", "False"]


def test_slot_with_a_memory_limit_keeps_none() -> None:
    assert _run("limited") == ["False", "False", "False"]


@pytest.mark.parametrize(
    "variable", [{"MALLOC_TRIM_THRESHOLD_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=65536"}]
)
def test_settings_of_the_user_are_left_alone(variable: dict[str, str]) -> None:
    assert _run("kept", **variable) == ["False", "False", "False"]
