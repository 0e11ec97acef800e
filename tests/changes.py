"""Programs of a user in which the captures of a function change between two calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A program that defines ``f``, and a change that happens between two calls of it."""

    program: str
    change: str


CHANGES: dict[str, Change] = {
    "a global number": Change("S = 1\ndef f(): return S", "S = 5"),
    "a global that is equal": Change("S = 1\ndef f(): return repr(S)", "S = True"),
    "a zero's sign": Change("S = 0.0\ndef f(): return repr(S)", "S = -0.0"),
    "a global that was missing": Change(
        "def f():\n try:\n  return S\n except NameError:\n  return 'none'", "S = 'there'"
    ),
    "a global that goes": Change(
        "S = 'there'\ndef f():\n try:\n  return S\n except NameError:\n  return 'none'", "del S"
    ),
    "a global that hides a builtin": Change("def f(): return len('abc')", "def len(x): return 'mine'"),
    "a list": Change("L = [1]\ndef f(): return L", "L.append(2)"),
    "a dict, deep inside": Change("D = {'a': [{'b': 1}]}\ndef f(): return D['a'][0]['b']", "D['a'][0]['b'] = 2"),
    "a tuple's list": Change("T = (1, [2])\ndef f(): return T", "T[1].append(3)"),
    "an object's attribute": Change("class C: pass\nc = C(); c.x = 1\ndef f(): return c.x", "c.x = 2"),
    "a closure's number": Change(
        "def make():\n n = 1\n def f(): return n\n def put(x):\n  nonlocal n\n  n = x\n return f, put\nf, put = make()",
        "put(2)",
    ),
    "a closure's list": Change("def make(n):\n return lambda: n\nn = [1]\nf = make(n)", "n.append(2)"),
    "a helper": Change("def h(): return 1\ndef f(): return h()", "def h(): return 2"),
    "a helper's helper": Change(
        "def g(): return 1\ndef h(): return g()\ndef f(): return h()", "def g(): return 'another'"
    ),
    "a helper's global": Change("S = 1\ndef h(): return S\ndef f(): return h()", "S = 2"),
    "a helper's code": Change("def h(): return 1\ndef f(): return h()", "h.__code__ = (lambda: 2).__code__"),
    "a helper of a nested function": Change(
        "def h(): return 1\ndef f():\n def g(): return h()\n return g()", "def h(): return 2"
    ),
    "a default argument": Change("def f(x=1): return x", "f.__defaults__ = (2,)"),
    "a default that is a list": Change("def f(x=[1]): return x", "f.__defaults__[0].append(2)"),
    "a keyword's default": Change("def f(*, x=1): return x", "f.__kwdefaults__['x'] = 2"),
    "a function's attribute": Change("def f(): return f.x\nf.x = 1", "f.x = 2"),
    "its own code": Change("def f(): return 1", "f.__code__ = (lambda: 2).__code__"),
    "a callable's attribute": Change(
        "class C:\n def __init__(self): self.x = 1\n def __call__(self): return self.x\nf = C()", "f.x = 2"
    ),
    "a method's object": Change("class C:\n x = 1\n def m(self): return self.x\nc = C()\nf = c.m", "c.x = 2"),
    "a class's attribute": Change("class C:\n x = 1\ndef f(): return C.x", "C.x = 2"),
    "a class's attribute, from a callable": Change(
        "class C:\n x = 1\n def __call__(self): return self.x\nf = C()", "C.x = 2"
    ),
    "a class's method": Change("class C:\n def m(self): return 1\ndef f(): return C().m()", "C.m = lambda self: 2"),
    "a base's method": Change(
        "class B:\n def m(self): return 1\nclass C(B): pass\ndef f(): return C().m()", "B.m = lambda self: 2"
    ),
    "a static method": Change(
        "class C:\n @staticmethod\n def m(): return 1\ndef f(): return C.m()", "C.m = staticmethod(lambda: 2)"
    ),
    "a property": Change(
        "class C:\n @property\n def p(self): return 1\ndef f(): return C().p", "C.p = property(lambda self: 2)"
    ),
    "a dataclass's helper": Change(
        "from dataclasses import dataclass\ndef h(): return 1\n@dataclass\nclass C:\n x: int = 0\n"
        " def m(self): return h()\ndef f(): return C().m()",
        "def h(): return 2",
    ),
    "a class that is redefined": Change("class C: x = 1\ndef f(): return C.x", "class C: x = 2"),
    "a partial's function": Change(
        "from functools import partial\ndef h(x): return x\nf = partial(h, 1)", "h.__code__ = (lambda x: -x).__code__"
    ),
    "a partial's list": Change("from functools import partial\nn = [1]\nf = partial(list, n)", "n.append(2)"),
    "a decorated function's helper": Change(
        "import functools\ndef h(): return 1\ndef d(g):\n @functools.wraps(g)\n def w(): return g()\n return w\n"
        "@d\ndef f(): return h()",
        "def h(): return 2",
    ),
    "a cached function's helper": Change(
        "import functools\ndef h(): return 1\n@functools.lru_cache\ndef c(): return h()\ndef f(): return c()",
        "def h(): return 2\nc.cache_clear()",
    ),
    "an implementation of singledispatch": Change(
        "import functools\n@functools.singledispatch\ndef d(x): return 'any'\ndef f(): return d(1)",
        "d.register(int, lambda x: 'int')",
    ),
    "a module of the program": Change(
        "import types\nm = types.ModuleType('of_the_program')\nm.x = 1\ndef f(): return m.x", "m.x = 2"
    ),
    "an array": Change("import numpy\nA = numpy.zeros(3)\ndef f(): return A.tolist()", "A[1] = 1"),
    "a set": Change("S = {1}\ndef f(): return sorted(S)", "S.add(2)"),
}


class Program:
    """A user's program with its own ``__main__``."""

    def __init__(self, change: Change) -> None:
        self._change = change.change
        self._variables: dict[str, Any] = {"__name__": "__main__"}
        exec(change.program, self._variables)

    @property
    def f(self) -> Callable[..., Any]:
        """Return the function as the program has it now."""
        function: Callable[..., Any] = self._variables["f"]
        return function

    def run_on(self) -> None:
        """Make the change."""
        exec(self._change, self._variables)
