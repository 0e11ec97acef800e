"""Captures of a function may change between two calls; an unchanged function is not pickled again."""

from __future__ import annotations

import gc
import sys
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from taskvine_exec.submission import functions
from taskvine_exec.submission.fingerprint import Fingerprint
from taskvine_exec.submission.functions import FunctionCache
from taskvine_manager.runtime import payload
from tests.changes import CHANGES, Change, Program


@pytest.fixture
def cache(tmp_path: Path) -> FunctionCache:
    return FunctionCache(str(tmp_path))


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_next_reference_sees_a_change(cache: FunctionCache, change: Change) -> None:
    program = Program(change)
    before = cache.reference(program.f)
    assert cache.reference(program.f).key == before.key
    assert payload.decode(before.encoded)() == program.f()
    program.run_on()
    after = cache.reference(program.f)
    assert after.key != before.key
    assert repr(payload.decode(after.encoded)()) == repr(program.f())


UNCHANGING = {
    "nothing": "def f(): pass",
    "numbers and text": "A, B, C = 1, 'b', (1, (2.5, 'x'))\ndef f(): return A, B, C",
    "modules": "import math, os.path\ndef f(): return math.sqrt(2), os.path.sep",
    "functions of modules": "from math import sqrt\nfrom json import dumps\ndef f(): return sqrt(2), dumps(1)",
    "helpers": "def g(): return 1\ndef h(): return g()\ndef f(): return h()",
    "a recursive helper": "def h(n): return n and h(n - 1)\ndef f(): return h(3)",
    "a closure": "def make(n):\n def f(): return n\n return f\nf = make(3)",
    "a class": "class C:\n x = 1\n def m(self): return self.x\n @property\n def p(self): return 2\n"
    "def f(): return C().p",
    "a class with a super": "class B: pass\nclass C(B):\n def __init__(self): super().__init__()\ndef f(): return C()",
    "a dataclass": "from dataclasses import dataclass, field\n@dataclass\nclass C:\n x: int = 0\n"
    " y: list = field(default_factory=list)\ndef f(): return C()",
    "a named tuple": "from typing import NamedTuple\nclass C(NamedTuple):\n x: int = 0\ndef f(): return C()",
    "an enumeration": "import enum\nclass C(enum.Enum):\n A = 1\ndef f(): return C.A",
    "an exception": "class C(Exception): pass\ndef f(): raise C",
    "a logger": "import logging\nlogger = logging.getLogger('a')\ndef f(): logger.info('x')",
    "a pattern": "import re\nP = re.compile('a')\ndef f(): return P.match('a')",
    "a decorator": "import functools\ndef d(g):\n @functools.wraps(g)\n def w(): return g()\n return w\n"
    "@d\ndef f(): pass",
    "a partial": "import functools\ndef g(x): return x\nf = functools.partial(g, 1)",
}


@pytest.mark.parametrize("program", UNCHANGING.values(), ids=list(UNCHANGING))
def test_immutable_captures_are_not_pickled_again(
    cache: FunctionCache, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    f = Program(Change(program, "")).f
    first = cache.reference(f)
    monkeypatch.setattr(functions, "serialize_function", lambda function: pytest.fail("pickled again"))
    assert cache.reference(f) is first


def test_later_submodule_travels_with_its_package(cache: FunctionCache, monkeypatch: pytest.MonkeyPatch) -> None:
    package, part = types.ModuleType("a_package"), types.ModuleType("a_package.part")
    package.__path__ = []
    package.__package__ = "a_package"
    monkeypatch.setitem(sys.modules, "a_package", package)
    f = eval("lambda: a_package.part", {"__name__": "__main__", "a_package": package})
    before = cache.reference(f)
    monkeypatch.setitem(sys.modules, "a_package.part", part)
    package.part = part  # type: ignore[attr-defined]
    assert cache.reference(f).key != before.key


def test_module_registered_by_value_is_noticed(cache: FunctionCache, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_module")
    exec("def h(): return 1", module.__dict__)
    monkeypatch.setitem(sys.modules, "a_module", module)
    f = eval("lambda: h()", {"__name__": "__main__", "h": module.h})
    before = cache.reference(f)
    cloudpickle.register_pickle_by_value(module)
    try:
        after = cache.reference(f)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert after.key != before.key
    assert payload.decode(after.encoded)() == 1


CYCLES = {
    "a global": "def f(): return f",
    "a closure": "def make():\n def f(): return f\n return f\nf = make()",
    "a helper": "def h(): return f\ndef f(): return h()",
    "an attribute": "def f(): return 1\nf.x = f",
    "a class": "class C:\n def m(self): return f\ndef f(): return C().m()",
}


@pytest.mark.parametrize("program", CYCLES.values(), ids=list(CYCLES))
def test_self_referring_function_is_not_kept(cache: FunctionCache, program: str) -> None:
    made = Program(Change(program, ""))
    cache.reference(made.f)
    watch = weakref.ref(made.f)
    del made
    gc.collect()
    assert watch() is None
    assert not cache.watched


def test_old_version_is_not_kept(cache: FunctionCache) -> None:
    program = Program(CHANGES["a global number"])
    before = weakref.ref(cache.reference(program.f))
    program.run_on()
    cache.reference(program.f)
    gc.collect()
    assert before() is None


def test_function_with_too_many_captures_is_pickled_each_time() -> None:
    names = [f"x{number}" for number in range(1000)]
    f = eval("lambda: (" + ",".join(names) + ")", {"__name__": "__main__", **dict.fromkeys(names, 1)})
    assert Fingerprint(f).mutable


def test_slow_captures_are_warned_of_once(
    cache: FunctionCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(functions, "SLOW", -1.0)
    program = Program(CHANGES["a list"])
    for _ in range(3):
        cache.reference(program.f)
    said = [record for record in caplog.records if "argument" in record.getMessage()]
    assert len(said) == 1
    assert "list" in said[0].getMessage()


# --- equal functions that are not the same ---------------------------------------------------------------------------


class Equal:
    """Objects that are all equal and have the same hash."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def __call__(self) -> int:
        return self.number

    def method(self) -> int:
        return self.number


@pytest.mark.parametrize(
    "make",
    [Equal, lambda number: Equal(number).method],
    ids=["objects", "methods"],
)
def test_equal_callables_stay_different(cache: FunctionCache, make: Callable[[int], Any]) -> None:
    made = [make(number) for number in range(3)]
    for _ in range(2):
        assert [payload.decode(cache.reference(each).encoded)() for each in made] == [0, 1, 2]
