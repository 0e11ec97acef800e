"""Pickling of functions and values: cloudpickle, with what it lacks.

``cloudpickle`` pickles what ``pickle`` would look up in ``__main__`` or in a function by value. Four things are
added:

- ``lru_cache`` and ``singledispatch`` functions, ``singledispatchmethod`` and ``cached_property`` are pickled by value
  too, and a lock as a free one: who holds it here is no thread of the process that loads it;
- what cloudpickle cannot pickle is given to dill, if dill is installed;
- a future is refused: its copy would never be done;
- a class that comes home to the process that defined it stays as it is there (see :func:`set_class_state`).
"""

from __future__ import annotations

import functools
import io
import sys
import threading
import weakref
from collections import ChainMap
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any, ClassVar

import cloudpickle


class FutureLeft(TypeError):
    """A value holds a future, which no other process can complete."""


def dumps(value: Any, protocol: int = 5, buffer_callback: Callable[..., Any] | None = None) -> bytes:
    """Pickle a value.

    Parameters
    ----------
    value
        Any object.
    protocol : int
        Of pickle.
    buffer_callback : callable, optional
        As of :class:`pickle.Pickler`. It is not used for what only dill can pickle.

    Raises
    ------
    FutureLeft
        If the value holds a future.
    Exception
        What cloudpickle raised, if dill cannot pickle the value either.
    """
    try:
        return _dumps(value, protocol, buffer_callback)
    except FutureLeft:
        raise
    except Exception:
        body = _dill(value)
        if body is None:
            raise
        return _dumps(_ByDill(body), protocol, None)


def _dumps(value: Any, protocol: int, buffer_callback: Callable[..., Any] | None) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


def _dill(value: Any) -> bytes | None:
    """Pickle a value with dill; return None if that fails."""
    try:
        import dill
    except ImportError:
        return None

    def refuse_future(value: Any) -> Any:
        _refuse_future(type(value))
        return NotImplemented

    file = io.BytesIO()
    # Without recurse, functions would lose the globals that they refer to, and fail where they are called.
    pickler = dill.Pickler(file, protocol=5, recurse=True)
    pickler.reducer_override = refuse_future  # not in a subclass, which dill takes for a pickler of somebody else's
    pickler.dispatch = type(pickler.dispatch)(pickler.dispatch)
    for kind in _LOCKS:  # dill makes locks that nobody can acquire of some that are free
        pickler.dispatch[kind] = _save_lock
    try:
        pickler.dump(value)
    except FutureLeft:
        raise
    except Exception:
        return None
    return file.getvalue()


def _save_lock(pickler: Any, lock: Any) -> None:
    pickler.save_reduce(*_LOCKS[type(lock)], obj=lock)


class _ByDill:
    """Pickles as the call that loads what dill made."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __reduce__(self) -> tuple[Any, ...]:
        import dill

        return dill.loads, (self._body,)


def is_by_reference(value: Any) -> bool:
    """Whether a function, class or module is pickled by its name: other processes import it."""
    if isinstance(value, ModuleType):
        return value.__name__ in sys.modules and not _is_registered(value.__name__)
    name = getattr(value, "__module__", None)
    if not isinstance(name, str) or name == "__main__" or _is_registered(name):
        return False
    found: Any = sys.modules.get(name)
    qualified = getattr(value, "__qualname__", None)
    if found is None or not isinstance(qualified, str) or "<locals>" in qualified:
        return False
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found is value


def _is_registered(name: str) -> bool:
    """Whether the user has a module, or a package that it is in, pickled by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return bool(registered) and any(name == each or name.startswith(f"{each}.") for each in registered)


# --- what cloudpickle lacks -----------------------------------------------------------------------------------------

CACHED: type = type(functools.lru_cache(lambda: None))
"""Of functions that ``lru_cache`` has made."""


def _reduce_cached(function: Any) -> Any:
    if is_by_reference(function):
        return function.__qualname__
    limits = function.cache_parameters()
    known = vars(functools.lru_cache(**limits)(function.__wrapped__))
    added = {name: value for name, value in vars(function).items() if name not in known}
    return make_cached, (function.__wrapped__, limits["maxsize"], limits["typed"]), added or None


def make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Make an ``lru_cache`` of a function, with nothing in it."""
    return functools.lru_cache(maxsize=maxsize, typed=typed)(function)


def _reduce_cached_property(value: Any) -> Any:
    # Before Python 3.12 it holds a lock.
    return functools.cached_property, (value.func,), {"attrname": value.attrname, "__doc__": value.__doc__}


_LOCKS: dict[type, tuple[Any, tuple[()]]] = {type(make()): (make, ()) for make in (threading.Lock, threading.RLock)}


def _reduce_lock(lock: Any) -> Any:
    return _LOCKS[type(lock)]


_DISPATCHER: CodeType | None = next(
    (
        const
        for const in functools.singledispatch.__code__.co_consts
        if isinstance(const, CodeType) and const.co_name == "wrapper"
    ),
    None,
)


def _reduce_dispatcher(function: Any) -> Any:
    registry = dict(function.registry)
    known = vars(functools.singledispatch(registry[object]))
    added = {name: value for name, value in vars(function).items() if name not in known}
    return functools.singledispatch, (registry[object],), (registry, added), None, None, fill_dispatcher


def fill_dispatcher(function: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    """Register the implementations of a ``singledispatch`` function that has just been made."""
    registry, added = state
    for kind, implementation in registry.items():
        if kind is not object:
            function.register(kind, implementation)
    vars(function).update(added)


def _refuse_future(kind: type) -> None:
    # By its type alone: asking a proxy for its class would fetch its value.
    futures: Any = sys.modules.get("concurrent.futures._base")
    if futures is not None and issubclass(kind, futures.Future):
        raise FutureLeft(f"it holds a future ({kind.__name__}), which only this process can complete: pass its result")


def _reduce_method(value: Any) -> Any:
    # From Python 3.13 on it holds a cache of weak references.
    return functools.singledispatchmethod, (value.func,), dict(value.dispatcher.registry), None, None, fill_method


def fill_method(method: Any, registry: dict[type, Any]) -> None:
    """Register the implementations of a ``singledispatchmethod`` that has just been made."""
    fill_dispatcher(method.dispatcher, (registry, {}))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar[Any] = ChainMap(
        {
            CACHED: _reduce_cached,
            functools.cached_property: _reduce_cached_property,
            functools.singledispatchmethod: _reduce_method,
            **dict.fromkeys(_LOCKS, _reduce_lock),
        },
        cloudpickle.Pickler.dispatch_table,
    )

    def reducer_override(self, value: Any) -> Any:
        _refuse_future(type(value))
        if type(value) is FunctionType and value.__code__ is _DISPATCHER and not is_by_reference(value):
            return _reduce_dispatcher(value)
        reduced = super().reducer_override(value)
        if type(reduced) is tuple and len(reduced) == 6 and isinstance(value, type):
            *made, state, items, pairs, setter = reduced
            if value not in _loaded:
                _own.add(value)
            return (*made, (setter, state), items, pairs, set_class_state)
        return reduced


# --- classes that come home -----------------------------------------------------------------------------------------


class Identities:
    """A set of objects, told apart by what they are and not by what they are equal to, that keeps none of them."""

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[Any]] = {}

    def add(self, value: Any) -> None:
        """Add an object."""
        number = id(value)
        if number not in self._known:
            self._known[number] = weakref.ref(value, lambda _: self._known.pop(number, None))

    def __contains__(self, value: Any) -> bool:
        known = self._known.get(id(value))
        return known is not None and known() is value

    def __len__(self) -> int:
        return len(self._known)


_own = Identities()
"""Classes of this process that it has pickled by value."""
_loaded = Identities()
"""Classes that it has loaded from another process."""


def set_class_state(cls: type, state: tuple[Callable[[type, Any], None], Any]) -> None:
    """Give a class its attributes, unless it is this process's own.

    A class that was pickled by value is recognised where it is loaded again. cloudpickle then sets its attributes to
    what they were when it was pickled. In the process that defined the class, that would undo later changes and put
    copies in the place of methods.
    """
    if cls in _own:
        return
    _loaded.add(cls)
    setter, attributes = state
    setter(cls, attributes)
