"""Pickled functions and values work in another process, which has another ``__main__``."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import parsl.serialize
import pytest
from parsl.dataflow.futures import AppFuture

from taskvine_manager.runtime import payload, pickling
from tests.changes import Change, Program

ELSEWHERE = """
import pickle, sys
from taskvine_manager.runtime import pickling
function, arguments = map(pickle.loads, pickle.load(sys.stdin.buffer))
sys.stdout.buffer.write(pickling.dumps(function(*arguments)))
"""


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process."""
    given = pickle.dumps((pickling.dumps(function), pickling.dumps(arguments)))
    ran = subprocess.run([sys.executable, "-c", ELSEWHERE], input=given, capture_output=True, check=False)
    assert not ran.returncode, ran.stderr.decode()
    return pickle.loads(ran.stdout)


PROGRAMS = {
    "lru_cache": "from functools import lru_cache\n@lru_cache(maxsize=3)\ndef f(n=7): return n and n + f(n - 1)",
    "lru_cache, its limits": "from functools import lru_cache\n@lru_cache(maxsize=3, typed=True)\ndef g(): pass\n"
    "def f(): return g.cache_parameters()",
    "lru_cache, its attributes": "from functools import cache\n@cache\ndef f(): return f.x\nf.x = 3",
    "singledispatch": "from functools import partial, singledispatch\n@singledispatch\ndef g(x): return 'any'\n"
    "@g.register\ndef _(x: int): return g.x\n@g.register\ndef _(x: list): return [g(i) for i in x]\n"
    "g.x = 3\nf = partial(g, [1, 'a', [2]])",
    "singledispatch, inside": "from functools import singledispatch\n@singledispatch\ndef g(x): return 'any'\n"
    "@g.register\ndef _(x: list): return [g(i) for i in x]\ndef f(): return g([1, [2]])",
    "singledispatchmethod": "from functools import singledispatchmethod\nclass C:\n @singledispatchmethod\n"
    " def m(self, x): return 'any'\n @m.register\n def _(self, x: int): return 'int'\n"
    "def f(): return C().m(1), C().m('')",
    "partial": "from functools import partial\ndef g(x, *, y): return x, y\nf = partial(partial(g, 1), y=2)",
    "partialmethod": "from functools import partialmethod\nclass C:\n def m(self, x): return x\n"
    " n = partialmethod(m, 3)\ndef f(): return C().n()",
    "cached_property": "from functools import cached_property\nclass C:\n @cached_property\n def p(self):\n"
    "  'Says.'\n  return 3\ndef f():\n c = C()\n return c.p, vars(c), C.p.__doc__",
    "a callable object with a cached_property": "from functools import cached_property\nclass C:\n @cached_property\n"
    " def p(self): return 3\n def __call__(self): return self.p\nf = C()",
    "a lock": "import threading\nlock = threading.Lock()\nS = 3\ndef f():\n with lock: return S",
    "a lock in a callable object": "import threading\nclass C:\n def __init__(self): self.lock = threading.RLock()\n"
    " def __call__(self):\n  with self.lock: return 3\nf = C()",
    "a weak dictionary": "import weakref\nW = weakref.WeakKeyDictionary()\ndef f(): return len(W)",
    "a class method": "class C:\n x = 3\n @classmethod\n def m(cls): return cls.x\nf = C.m",
    "a class": "f = type('C', (dict,), {})",
    "a builtin": "f = dict",
    "a bound builtin": "f = [3, 1, 2].copy",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=list(PROGRAMS))
def test_callables_of_all_kinds_work_elsewhere(program: str) -> None:
    f = Program(Change(program, "")).f
    assert elsewhere(f) == f()


class Node:
    """Knows its parent by a weak reference, as programs do to avoid cycles."""

    def __init__(self, parent: Any = None) -> None:
        self.children: list[Node] = []
        self.lock = threading.Lock()
        self.parent = parent and weakref.ref(parent)
        if parent:
            parent.children.append(self)


def test_arguments_that_only_dill_can_pickle_keep_their_shape() -> None:
    root = Node()
    Node(root)
    loaded = pickle.loads(pickling.dumps(root))
    assert loaded.children[0].parent() is loaded
    assert loaded.lock.acquire(timeout=1)


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
@pytest.mark.parametrize("beside", [None, weakref.ref(Node)], ids=["by itself", "beside what only dill can pickle"])
@pytest.mark.parametrize("held", [False, True])
def test_a_lock_is_free_where_it_is_loaded(make: Callable[[], Any], beside: Any, held: bool) -> None:
    lock = make()
    if held:
        lock.acquire()
    (loaded, _) = pickle.loads(pickling.dumps((lock, beside)))
    assert loaded.acquire(timeout=1)


class Plain:
    """An empty class."""


class Holder:
    """An object that holds a value, and something that only dill can pickle."""

    def __init__(self, value: Any) -> None:
        self.reference = weakref.ref(Plain)
        self.value = value


def iter_of(value: Any) -> Any:
    """An iterator over the value of another one."""
    return iter([value])


VALUES: dict[str, Any] = {
    "a lock": threading.Lock(),
    "an object with a lock": Node(),
    "keys": {1: 2}.keys(),
    "an object of a local class": type("C", (), {"x": 1})(),
    "a weak reference": weakref.ref(Plain),
    "a weak dictionary": weakref.WeakValueDictionary({1: Plain}),
    "bytes by their memory": memoryview(b"abc"),
    "a generator": (i for i in range(3)),
    "a stream": sys.stdout,
    "an array": np.arange(3),
    "a module": pytest,
    "a method": Node.__init__,
    "a mapping proxy": vars(Plain),
    "a lock beside an array": [threading.Lock(), np.zeros(100_000)],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_everything_that_parsl_serializes_can_be_pickled(value: Any) -> None:
    try:
        parsl.serialize.deserialize(parsl.serialize.serialize(value))
    except Exception:
        pytest.skip("not even Parsl can")
    pickle.loads(pickling.dumps(value))


def test_unpicklable_object_is_refused_with_the_first_reason() -> None:
    with pytest.raises(TypeError, match="generator"):
        pickling.dumps([threading.Lock(), (i for i in ())])


@pytest.mark.parametrize("future", [Future(), AppFuture({"id": 1})], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("hide", [lambda future: [future], Holder, lambda future: lambda: future, iter_of])
def test_future_is_refused_anywhere(future: Future[Any], hide: Callable[[Any], Any]) -> None:
    with pytest.raises(pickling.FutureLeft, match=rf"holds a future \({type(future).__name__}\)"):
        pickling.dumps(hide(future))


def test_a_function_whose_globals_cannot_be_pickled_is_refused() -> None:
    names: dict[str, Any] = {"__name__": "__main__", "stream": (i for i in ())}
    exec("def function(): return stream", names)
    with pytest.raises(TypeError, match="generator"):
        pickling.dumps(names["function"])


def test_missing_dill_is_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dill", None)
    with pytest.raises(TypeError, match="weakref"):
        pickling.dumps(Node(Node()))


def test_large_buffers_stay_out_of_band(tmp_path: Any) -> None:
    array = np.arange(100_000)
    encoded = payload.encode([array], str(tmp_path), pickling.dumps)
    (loaded,) = payload.decode(encoded)
    assert (loaded == array).all()
    with open(encoded, "rb") as file:
        assert file.read().count(array.tobytes()) == 1


CLASSES = {
    "a class": "class C:\n x = 1\n def m(self): return S\ndef f(): return C()",
    "an exception": "class C(Exception):\n x = 1\n def m(self): return S\ndef f(): return C()",
    "a dataclass": "from dataclasses import dataclass\n@dataclass\nclass C:\n x = 1\n def m(self): return S\n"
    "def f(): return C()",
}


@pytest.mark.parametrize("program", CLASSES.values(), ids=list(CLASSES))
def test_class_that_comes_home_is_not_changed(program: str) -> None:
    made = Program(Change("S = 1\n" + program, "S = 2\nC.x = 2"))
    variables = made.f.__globals__
    given = pickling.dumps(made.f())
    made.run_on()
    for body in (given, pickling.dumps(elsewhere(made.f))):
        result = pickle.loads(body)
        assert type(result) is variables["C"]
        assert (result.x, result.m(), variables["C"].x) == (2, 2, 2)


def test_a_class_of_another_process_follows_its_changes() -> None:
    # One process loads the two versions, as a slot does.
    made = Program(Change("class C: x = 1\ndef f(): return C.x", "C.x = 2"))
    versions = [pickling.dumps(made.f)]
    made.run_on()
    versions.append(pickling.dumps(made.f))

    def load(versions: list[bytes]) -> list[int]:
        import pickle

        return [pickle.loads(version)() for version in versions]

    load.__module__ = "__main__"
    assert elsewhere(load, versions) == [1, 2]


def test_equal_classes_stay_different_and_are_not_kept() -> None:
    class Equal(type):
        def __eq__(cls, other: object) -> bool:
            return True

        def __hash__(cls) -> int:
            return 1

    one, other, changed = Equal("One", (), {}), Equal("Other", (), {}), []
    pickling.dumps(one)
    for kind in (one, other):
        pickling.set_class_state(kind, (lambda _, name: changed.append(name), kind.__name__))
    assert changed == ["Other"], "a class of this process stays as it is"
    gone = weakref.ref(one)
    del one, kind
    gc.collect()
    assert gone() is None
