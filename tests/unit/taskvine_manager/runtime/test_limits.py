"""Limits of processes: which are restored, which cannot be, and when memory is measured."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from taskvine_manager.runtime import limits
from taskvine_manager.runtime.limits import Limits, Room


@pytest.fixture
def core() -> Iterator[tuple[int, int]]:
    """A limit that no test here depends on, restored at the end; its soft limit is above 0."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("no core files are allowed here at all")
    found = (before[1], before[1])
    resource.setrlimit(resource.RLIMIT_CORE, found)
    yield found
    resource.setrlimit(resource.RLIMIT_CORE, before)


def test_every_limit_is_known_once() -> None:
    names = {name for name in dir(resource) if name.startswith("RLIMIT_")}
    assert set(limits.NAMES) == {getattr(resource, name) for name in names}
    assert set(limits.NAMES.values()) <= names
    assert limits.NAMES[resource.RLIMIT_NOFILE] == "RLIMIT_NOFILE"


def test_soft_limit_is_restored(core: tuple[int, int]) -> None:
    found = Limits()
    resource.setrlimit(resource.RLIMIT_CORE, (0, core[1]))
    found.restore(1.0)
    assert resource.getrlimit(resource.RLIMIT_CORE) == core
    assert found.lowered == []


_SHORT_CALLS = """
import importlib, sys
from taskvine_manager.runtime.limits import Limits

assert not {"resource", "psutil"} & sys.modules.keys(), "what imports a limit's setter could not be noticed"
limits = Limits()
if sys.argv[1] == "resource":
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (17, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
else:
    import psutil
    psutil.Process().rlimit(psutil.RLIMIT_NOFILE, (17, psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[1]))
limits.restore(0.0)
import resource
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 17
"""


@pytest.mark.parametrize("module", ["resource", "psutil"])
def test_limits_are_restored_after_the_shortest_call(module: str) -> None:
    subprocess.run([sys.executable, "-c", _SHORT_CALLS, module], check=True, timeout=30)


def test_lowered_hard_limit_is_reported(core: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = {number: resource.getrlimit(number) for number in limits.NAMES}

    def change(number: int, wanted: tuple[int, int]) -> None:
        hard = now[number][1]
        if hard >= 0 and not 0 <= wanted[1] <= hard:
            raise ValueError("not allowed to raise maximum limit")
        now[number] = wanted

    found = Limits()
    monkeypatch.setattr(limits.resource, "getrlimit", now.__getitem__)
    monkeypatch.setattr(limits.resource, "setrlimit", change)
    now[resource.RLIMIT_CORE] = (0, 0) if core[1] == 10 else (5, 10)
    now[resource.RLIMIT_NOFILE] = (1, now[resource.RLIMIT_NOFILE][1])
    for _ in range(2):
        found.restore(1.0)
        assert found.lowered == ["RLIMIT_CORE"]
        assert now[resource.RLIMIT_CORE][0] == now[resource.RLIMIT_CORE][1], "as far as it may"
        assert now[resource.RLIMIT_NOFILE][0] > 1


def test_memory_agrees_with_psutil() -> None:
    process = psutil.Process()
    assert limits.held(1e9) == pytest.approx(process.memory_info().rss / 2**20, rel=0.1)
    assert limits.held(1.0) == pytest.approx(process.memory_full_info().uss / 2**20, rel=0.1)


def test_memory_is_measured_for_new_functions_and_sometimes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    clock = 100.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: clock)
    monkeypatch.setattr(limits, "held", lambda limit: looks.append(limit) or 120.0)
    room = Room(100.0)
    for look, used, seconds, expected in [
        (True, False, 0.0, 120.0),
        (False, False, 0.0, 120.0),  # no task has run yet: the next call gets the same answer
        (False, True, 0.05, 0.0),
        (True, True, 0.0, 120.0),
        (False, True, 0.11, 120.0),
    ]:
        clock += seconds
        room.used = used
        assert room.excess(look=look) == expected
    assert looks == [100.0] * 4
    monkeypatch.setattr(limits, "held", lambda limit: 80.0)
    assert room.excess(look=True) == 0.0


def test_without_a_limit_memory_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "held", lambda limit: os.abort())
    assert Room(0.0).excess(look=True) == 0.0
