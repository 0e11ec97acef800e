"""Fingerprints of functions: detect that something a function captures has changed since its last call.

A function that is pickled by value takes along what it refers to: its code, default arguments, closure and attributes,
the global variables that it names, and the same of every function and class among these that is pickled by value. A
:class:`Fingerprint` remembers which objects these were. Checking it takes about a microsecond.

The check is sufficient if each of these objects is immutable, or is a function or class whose own captures are watched
too. Any other object, such as a list, may have changed inside. A function that captures one must be pickled again for
each call: its fingerprint is *mutable*. Annotations are not watched.
"""

from __future__ import annotations

import collections
import dataclasses
import dis
import enum
import functools
import logging
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import PosixPath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import cloudpickle

from taskvine_manager.runtime.pickling import CACHED, is_by_reference

_MOST = 500
"""Most objects watched for one function. With more, pickling it again is cheaper."""
_MISSING = object()
_TUPLE_GETTER = type(vars(collections.namedtuple("_Named", "x"))["x"])
_IMMUTABLE = frozenset(
    {
        *(int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented), range, CodeType),
        *(re.Pattern, PosixPath, object, MethodDescriptorType, WrapperDescriptorType, _TUPLE_GETTER),
        *(logging.Logger, logging.RootLogger),  # these are pickled by name
        *(type(dataclasses.MISSING), type(getattr(dataclasses, "_HAS_DEFAULT_FACTORY", None))),
    }
)
_MACHINERY = frozenset(
    {
        *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate_func__"),
        *("__dataclass_fields__", "__dataclass_params__", "__firstlineno__", "__static_attributes__"),
        *("_abc_impl", "_field_defaults", "__annotations_cache__", "__orig_bases__", "__parameters__"),
    }
)
"""Attributes of classes that Python or its library makes, and that users do not change."""
_GLOBAL = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


class Fingerprint:
    """The captures of a function at one time. A fingerprint keeps nothing alive that could refer to the function.

    Parameters
    ----------
    function : callable
        Any callable.
    """

    def __init__(self, function: Any) -> None:
        self.mutable = ""
        """Name of a captured object that can change inside; empty if there is none."""
        self._scopes: list[tuple[weakref.ref[Any], Callable[[Any], list[Any]], list[int]]] = []
        self._kept: list[Any] = []  # kept alive, because the id of a freed object may be reused
        self._gone: list[Any] = []
        self._has_packages = False
        self._modules = len(sys.modules)
        self._registered = cloudpickle.list_registry_pickle_by_value()
        if not is_by_reference(function):
            self._seen: set[int] = set()
            self._look(function)
            del self._seen

    @property
    def holds(self) -> bool:
        """Whether all captures are the same objects as before. Changes inside mutable objects are not seen."""
        if self._gone:
            return False
        for watched, read, ids in self._scopes:
            if (owner := watched()) is None or list(map(id, read(owner))) != ids:
                return False
        if self._has_packages and len(sys.modules) != self._modules:
            return False  # newly imported submodules of a package are pickled with it
        return bool(cloudpickle.list_registry_pickle_by_value() == self._registered)

    def _look(self, function: Any) -> None:
        left = [function]
        self._seen.add(id(function))
        while left and not self.mutable:
            owner = left.pop()
            read = _reader(owner)
            if read is None:
                self.mutable = getattr(owner, "__name__", None) or type(owner).__name__
                return
            values = read(owner)
            self._scopes.append((weakref.ref(owner, self._gone.append), read, list(map(id, values))))
            for value in values:
                if self._is_fixed(value):
                    self._kept.append(value)
                elif id(value) not in self._seen:
                    self._seen.add(id(value))
                    left.append(value)
            if len(self._kept) + len(self._scopes) > _MOST:
                self.mutable = "more than can be watched"

    def _is_fixed(self, value: Any) -> bool:
        """Whether an object is pickled by name, or can never change."""
        kind = type(value)
        if kind in _IMMUTABLE:
            return True
        if kind is tuple or kind is frozenset:
            return len(value) <= _MOST and all(map(self._is_fixed, value))
        if kind is ModuleType:
            self._has_packages = self._has_packages or hasattr(value, "__path__")
            return is_by_reference(value)
        if kind is BuiltinFunctionType:
            owner = value.__self__
            return owner is None or isinstance(owner, ModuleType) or (isinstance(owner, type) and self._is_fixed(owner))
        return (kind is FunctionType or kind is CACHED or isinstance(value, type)) and is_by_reference(value)


def _reader(owner: Any) -> Callable[[Any], list[Any]] | None:
    """Return a function that reads an object's captures; None if they cannot be watched."""
    kind = type(owner)
    if kind is FunctionType:
        names = _global_names(owner.__code__)
        return functools.partial(_of_function, names) if names else _of_plain_function
    if kind is functools.partial:
        return _of_partial
    if kind is MethodType:
        return lambda method: [method.__func__, method.__self__]
    if kind is CACHED:
        return lambda cached: [cached.__wrapped__]
    if isinstance(owner, enum.EnumMeta):
        return lambda enumeration: []  # members do not change, and classes of this kind are large
    return _of_class if isinstance(owner, type) and is_by_reference(kind) else None


def _of_plain_function(function: FunctionType) -> list[Any]:
    values: list[Any] = [function.__code__, function.__defaults__]
    if more := function.__kwdefaults__:
        values += more
        values += more.values()
    if attributes := function.__dict__:
        values += attributes
        values += attributes.values()
    if cells := function.__closure__:
        try:
            values += [cell.cell_contents for cell in cells]
        except ValueError:  # one is empty
            values += [_content(cell) for cell in cells]
    return values


def _of_function(names: tuple[str, ...], function: FunctionType) -> list[Any]:
    values = _of_plain_function(function)
    find = function.__globals__.get
    values += [find(name, _MISSING) for name in names]
    return values


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _of_partial(owner: functools.partial[Any]) -> list[Any]:
    return [owner.func, *owner.args, *owner.keywords, *owner.keywords.values(), *vars(owner), *vars(owner).values()]


def _of_class(owner: type) -> list[Any]:
    values: list[Any] = list(owner.__bases__)
    for name, value in vars(owner).items():
        if name in _MACHINERY:
            continue
        values.append(name)
        kind = type(value)
        if kind is property:
            values += (value.fget, value.fset, value.fdel)
        elif kind is staticmethod or kind is classmethod:
            values.append(value.__func__)
        elif kind is functools.cached_property:
            values.append(value.func)
        elif name == "__repr__" and hasattr(value, "__wrapped__"):
            values.append(value.__wrapped__)  # a dataclass wraps it in a function that captures a set, which can change
        elif kind is not MemberDescriptorType and kind is not GetSetDescriptorType:
            values.append(value)
    return values


@functools.lru_cache(maxsize=128)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """Return the names of the global variables that a function, or a function defined in it, refers to."""
    return tuple(dict.fromkeys(_walk(code)))


def _walk(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL:
            yield instruction.argval
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _walk(const)
