"""Pickling of functions and values: cloudpickle with four additions.

``cloudpickle`` pickles functions and classes by value if other processes cannot import them, because they are defined
in ``__main__`` or inside a function. The additions are:

- ``lru_cache`` and ``singledispatch`` functions, ``singledispatchmethod`` and ``cached_property`` are pickled by value
  too. A lock is pickled as an unlocked one, because no thread of the loading process can hold it.
- Values that cloudpickle cannot pickle are pickled with dill, if dill is installed.
- Futures are refused, because the copy of a future would never be done.
- A class that returns to the process that defined it does not change there (see :func:`set_class_state`).
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
        Pickle protocol.
    buffer_callback : callable, optional
        Passed to :class:`pickle.Pickler`. Values that only dill can pickle do not use it.

    Raises
    ------
    FutureLeft
        If the value holds a future.
    Exception
        The exception of cloudpickle, if dill cannot pickle the value either.
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
    # Without recurse, functions would lose the globals that they refer to, and calls of them would fail.
    pickler = dill.Pickler(file, protocol=5, recurse=True)
    pickler.reducer_override = refuse_future  # set here, because dill treats subclasses as foreign picklers
    pickler.dispatch = type(pickler.dispatch)(pickler.dispatch)
    for kind in _LOCKS:  # dill turns some unlocked locks into locks that cannot be acquired
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
    """A value pickled with dill. It is pickled as the call that loads it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __reduce__(self) -> tuple[Any, ...]:
        import dill

        return dill.loads, (self._body,)


def is_by_reference(value: Any) -> bool:
    """Whether a function, class or module is pickled by name, so that other processes import it."""
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
    """Whether the user has registered a module, or a package that contains it, to be pickled by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return bool(registered) and any(name == each or name.startswith(f"{each}.") for each in registered)


# --- additions to cloudpickle ----------------------------------------------------------------------------------------

CACHED: type = type(functools.lru_cache(lambda: None))
"""The type of functions that ``lru_cache`` makes."""


def _reduce_cached(function: Any) -> Any:
    if is_by_reference(function):
        return function.__qualname__
    limits = function.cache_parameters()
    known = vars(functools.lru_cache(**limits)(function.__wrapped__))
    added = {name: value for name, value in vars(function).items() if name not in known}
    return make_cached, (function.__wrapped__, limits["maxsize"], limits["typed"]), added or None


def make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Make an empty ``lru_cache`` of a function."""
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
    """Register the implementations of a new ``singledispatch`` function."""
    registry, added = state
    for kind, implementation in registry.items():
        if kind is not object:
            function.register(kind, implementation)
    vars(function).update(added)


def _refuse_future(kind: type) -> None:
    # Checked by type alone, because reading the class of a proxy would load its value.
    futures: Any = sys.modules.get("concurrent.futures._base")
    if futures is not None and issubclass(kind, futures.Future):
        raise FutureLeft(f"it holds a future ({kind.__name__}), which only this process can complete: pass its result")


def _reduce_method(value: Any) -> Any:
    # From Python 3.13 on, it holds a cache of weak references.
    return functools.singledispatchmethod, (value.func,), dict(value.dispatcher.registry), None, None, fill_method


def fill_method(method: Any, registry: dict[type, Any]) -> None:
    """Register the implementations of a new ``singledispatchmethod``."""
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
            if _loaded.get(id(value)) is not value:
                _own[id(value)] = value
            return (*made, (setter, state), items, pairs, set_class_state)
        return reduced


# --- classes that return home ----------------------------------------------------------------------------------------


_own: weakref.WeakValueDictionary[int, type] = weakref.WeakValueDictionary()
"""Classes of this process that were pickled by value, by id: a metaclass may define another equality or hash."""
_loaded: weakref.WeakValueDictionary[int, type] = weakref.WeakValueDictionary()
"""Classes that were loaded from another process, by id."""


def set_class_state(cls: type, state: tuple[Callable[[type, Any], None], Any]) -> None:
    """Set the attributes of a loaded class, unless this process has defined the class.

    cloudpickle recognises a class that was pickled by value when it is loaded again, and resets its attributes to those
    at the time of pickling. In the process that defined the class, this would undo later changes and replace its
    methods by copies.
    """
    if _own.get(id(cls)) is cls:
        return
    _loaded[id(cls)] = cls
    setter, attributes = state
    setter(cls, attributes)
