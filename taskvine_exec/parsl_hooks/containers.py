"""Futures inside the arguments of apps: find them, replace them, and report where one is left.

Containers are lists, tuples, sets, frozensets, dicts, all their subclasses (OrderedDict, defaultdict, namedtuples), and
dataclasses. Arguments may share containers, may contain themselves, and may be nested deeper than Python's recursion
limit. No function here recurses.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from graphlib import CycleError, TopologicalSorter
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

_ATOMS = frozenset({int, float, bool, str, bytes, complex, type(None)})
_BUILT_IN = (list, tuple, set, frozenset, dict)
_EXACT = frozenset(_BUILT_IN)
_MOST = 100_000
"""Most objects to search for a future that is left."""


def is_future(value: object) -> bool:
    """Whether a value is a future, by its type alone. Reading a proxy's ``__class__`` would load its value."""
    return issubclass(type(value), Future)


def is_container(value: object) -> bool:
    """Whether a value may hold futures that can be replaced."""
    kind = type(value)
    if kind in _EXACT or issubclass(kind, _BUILT_IN):
        return True
    for base in kind.__mro__:  # noqa: SIM110  # a loop takes a third of the time of any()
        if "__dataclass_fields__" in base.__dict__:
            return True
    return False


def find(argument: object) -> list[Future[Any]]:
    """Return the futures in an argument, in order. A future that occurs twice is listed twice."""
    if type(argument) in _ATOMS:
        return []
    if is_future(argument):
        return [argument]  # type: ignore[list-item]
    found: list[Future[Any]] = []
    if not is_container(argument) or _holds_atoms(argument):
        return found
    seen = {id(argument)}
    left: list[Iterator[Any]] = [_items(argument)]
    while left:
        for item in left[-1]:
            if type(item) in _ATOMS:
                continue
            if is_future(item):
                found.append(item)
            elif is_container(item) and id(item) not in seen:
                seen.add(id(item))
                if _holds_atoms(item):
                    continue
                left.append(_items(item))
                break
        else:
            left.pop()
    return found


def _holds_atoms(container: Any) -> bool:
    """Whether a container holds only simple values. True of most containers, and quick to check."""
    if type(container) is dict:
        return _ATOMS.issuperset(map(type, container.values())) and _ATOMS.issuperset(map(type, container))
    return type(container) in _EXACT and _ATOMS.issuperset(map(type, container))


def replace(argument: Any, one: Callable[[Future[Any]], Any]) -> Any:
    """Return a copy of an argument with its futures replaced, or the argument itself if it holds none.

    Containers without futures are not copied. Containers shared within the argument stay shared.

    Parameters
    ----------
    argument
        Argument of an app.
    one : callable
        Returns the replacement of a future. Called once for each future.

    Raises
    ------
    ValueError
        If a container that holds a future contains itself.
    TypeError
        If a container cannot be copied with other items.
    """
    made: dict[int, Any] = {}  # replacements by the id of what they replace
    if is_future(argument):
        return one(argument)
    for container in order(argument):
        for item in _items(container):
            if is_future(item) and id(item) not in made:
                made[id(item)] = one(item)
        made[id(container)] = _rebuild(container, made)
    return made.get(id(argument), argument)


def order(argument: Any) -> list[Any]:
    """Return the containers that hold futures at any depth, each after the containers inside it.

    Raises
    ------
    ValueError
        If one of them contains itself.
    """
    if not is_container(argument):
        return []
    seen = {id(argument): argument}
    parents: dict[int, list[int]] = {}
    dirty: dict[int, list[int]] = {}  # containers that hold futures, each with those directly inside it
    left = [argument]
    found: list[int] = []
    while left:
        container = left.pop()
        for item in _items(container):
            if type(item) in _ATOMS:
                continue
            if is_future(item):
                if id(container) not in dirty:
                    dirty[id(container)] = []
                    found.append(id(container))
            elif is_container(item):
                parents.setdefault(id(item), []).append(id(container))
                if id(item) not in seen:
                    seen[id(item)] = item
                    left.append(item)
    while found:
        for parent in parents.get(found.pop(), ()):
            if parent not in dirty:
                dirty[parent] = []
                found.append(parent)
    for each in dirty:
        for parent in parents.get(each, ()):
            dirty[parent].append(each)
    try:
        return [seen[each] for each in TopologicalSorter(dirty).static_order()]
    except CycleError as error:
        kinds = dict.fromkeys(type(seen[each]).__name__ for each in error.args[1])
        raise ValueError(
            f"an argument holds a future inside a {' in a '.join(kinds)} that contains itself, where it cannot be "
            "replaced by its result. Pass the future as a separate argument, or break the cycle"
        ) from None


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    for name in type(value).__dataclass_fields__:
        with suppress(AttributeError):  # a field without a value
            # getattr(value, ...) is not used: a class with __getattr__ may claim attributes that it does not have.
            yield name, object.__getattribute__(value, name)


def _items(container: Any) -> Iterator[Any]:
    kind = type(container)
    if issubclass(kind, dict):
        for key, value in dict.items(container):
            yield key
            yield value
    elif issubclass(kind, _BUILT_IN):
        base: Any = next(base for base in _BUILT_IN if issubclass(kind, base))
        yield from base.__iter__(container)  # what a subclass holds, whatever its own __iter__ yields
    else:
        for _, value in _fields(container):
            yield value


def _rebuild(container: Any, made: dict[int, Any]) -> Any:
    def new(item: Any) -> Any:
        return made.get(id(item), item)

    kind = type(container)
    try:
        if issubclass(kind, dict):
            return _rebuild_dict(container, new)
        if issubclass(kind, (tuple, frozenset)):
            base: Any = tuple if issubclass(kind, tuple) else frozenset
            copied = base.__new__(kind, [new(item) for item in base.__iter__(container)])
            if hasattr(container, "__dict__"):
                copied.__dict__.update(container.__dict__)
            return copied
        copied = copy.copy(container)
        if issubclass(kind, list):
            list.__setitem__(copied, slice(None), [new(item) for item in list.__iter__(container)])
        elif issubclass(kind, set):
            set.clear(copied)
            set.update(copied, [new(item) for item in set.__iter__(container)])
        else:
            for name, value in _fields(container):
                object.__setattr__(copied, name, new(value))  # works for frozen dataclasses too
        return copied
    except Exception as error:
        raise TypeError(f"the futures in a {kind.__name__} cannot be replaced by their results: {error}") from error


def _rebuild_dict(container: Any, new: Callable[[Any], Any]) -> Any:
    copied = copy.copy(container)
    items = [(key, new(key), new(value)) for key, value in dict.items(container)]
    if any(key is not other for key, other, _ in items):
        copied.clear()
    for _, key, value in items:
        copied[key] = value
    return copied


def where(name: str, value: object) -> str | None:
    """Find a future in a value: in containers, in attributes, and in the captures of functions.

    Parameters
    ----------
    name : str
        Name of the value in the returned expression.
    value
        Any object.

    Returns
    -------
    str or None
        An expression such as ``args[0].model['k']``; None if no future was found.
    """
    left = deque([(name, value)])
    seen: dict[int, Any] = {}
    while left and len(seen) < _MOST:
        path, item = left.popleft()
        if is_future(item):
            return path
        if type(item) in _ATOMS or id(item) in seen or issubclass(type(item), (type, ModuleType)):
            continue
        seen[id(item)] = item  # kept alive, because the id of a freed object may be reused
        left.extend(_parts(path, item))
    return None


def _parts(path: str, item: Any) -> Iterable[tuple[str, Any]]:
    kind = type(item)
    if issubclass(kind, dict):
        for key, value in dict.items(item):
            yield f"a key of {path}", key
            yield f"{path}[{_short(key)}]", value
    elif issubclass(kind, (list, tuple, deque)):
        names: Any = getattr(kind, "_fields", ())
        for number, value in enumerate(list(item)):
            named = isinstance(names, tuple) and number < len(names)
            yield f"{path}.{names[number]}" if named else f"{path}[{number}]", value
    elif issubclass(kind, (set, frozenset)):
        for value in item:
            yield f"an element of {path}", value
    elif issubclass(kind, FunctionType):
        for variable, cell in zip(item.__code__.co_freevars, item.__closure__ or (), strict=True):
            with suppress(ValueError):  # not bound yet
                yield f"the variable {variable} of {path}", cell.cell_contents
        for number, value in enumerate(item.__defaults__ or ()):
            yield f"default {number} of {path}", value
    elif issubclass(kind, partial):
        yield f"{path}.func", item.func
        yield f"{path}.args", item.args
        yield f"{path}.keywords", item.keywords
    elif issubclass(kind, MethodType):
        yield f"{path}.__self__", item.__self__
    yield from _attributes(path, item)


def _attributes(path: str, item: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes stored in an object without running code of its class, which could load a proxy's value."""
    for owner in type(item).__mro__:
        stored = owner.__dict__.get("__dict__")
        if stored is not None:
            if isinstance(stored, GetSetDescriptorType):
                for name, value in list(stored.__get__(item).items()):
                    yield f"{path}.{name}", value
            break
    for owner in type(item).__mro__:
        for name, slot in owner.__dict__.items():
            if isinstance(slot, MemberDescriptorType):
                with suppress(AttributeError):  # it has no value
                    yield f"{path}.{name}", slot.__get__(item)


def _short(key: object) -> str:
    try:
        said = repr(key)
    except Exception:
        return f"<{type(key).__name__}>"
    return said if len(said) <= 40 else f"{said[:37]}..."
