"""Functions, serialized once each.

Parsl wraps a function anew for every invocation that has a walltime, is monitored or stages files in its task. Those
wrappers are known here by their code objects and seen through: what is cached is the user's function with the
wrappers' parameters. Keys are weak, and never ``id()``, which Python gives out again.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import weakref
from collections.abc import Callable, Hashable
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import cloudpickle
import parsl.serialize.facade as registries
from parsl.app.errors import wrap_error
from parsl.app.python import timeout
from parsl.data_provider.files import File
from parsl.data_provider.ftp import in_task_transfer_wrapper as ftp_wrapper
from parsl.data_provider.http import in_task_transfer_wrapper as http_wrapper
from parsl.monitoring.remote import monitor_wrapper
from parsl.serialize import concretes

from taskvine_exec.errors import FunctionNotSerializable
from taskvine_exec.submission.buffers import Buffers
from taskvine_exec.values import Edge
from taskvine_manager.runtime import payload

_BUILT_IN = frozenset({concretes.DillCallableSerializer, concretes.DillSerializer, concretes.PickleSerializer})


def _wrappers(maker: Any, variable: str) -> dict[CodeType, str]:
    """Code of the wrapper that a function makes, with its variable that holds what it wraps.

    A parsl that makes it otherwise gives none: its wrapper is then serialized like any other function.
    """
    code = getattr(maker, "__wrapped__", maker).__code__
    made = [const for const in code.co_consts if isinstance(const, CodeType)]
    return {each: variable for each in made if each.co_name in ("wrapper", "wrapped") and variable in each.co_freevars}


_WRAP_ERROR = _wrappers(wrap_error, "func")
_KNOWN: dict[CodeType, str] = {
    **_WRAP_ERROR,
    **_wrappers(timeout, "f"),
    **_wrappers(monitor_wrapper, "f"),
    **_wrappers(http_wrapper, "func"),
    **_wrappers(ftp_wrapper, "func"),
}


class FunctionReference(NamedTuple):
    """A function by the hash of its serialized content."""

    key: str
    encoded: payload.Payload
    name: str


class FunctionCache:
    """Serialized functions by function object.

    Parameters
    ----------
    spool : str
        Directory for serialized functions that are too large for a message.
    """

    def __init__(self, spool: str) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._known: weakref.WeakKeyDictionary[Any, dict[Hashable, FunctionReference]] = weakref.WeakKeyDictionary()
        self._by_key: dict[str, FunctionReference] = {}

    def reference(self, function: Callable[..., Any]) -> FunctionReference:
        """The reference of a function, serialized now if it has not been before.

        Raises
        ------
        FunctionNotSerializable
            If it cannot be pickled.
        """
        function = without_wrap_error(function)
        inner, wrappers = _see_through(function)
        try:
            found = self._known[inner].get(wrappers) if wrappers is not None else None
        except (KeyError, TypeError):
            found = None
        if found is None:
            found = self._serialize(function)
            if wrappers is not None:
                try:
                    with self._lock:
                        self._known.setdefault(inner, {})[wrappers] = found
                except TypeError:  # a callable object that cannot be hashed or weakly referenced
                    pass
        return found

    def _serialize(self, function: Callable[..., Any]) -> FunctionReference:
        name = getattr(function, "__name__", type(function).__name__)
        try:
            body = serialize_function(function)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise FunctionNotSerializable(task_id=None, reason=reason, subject=name) from error
        key = hashlib.blake2b(body, digest_size=20).hexdigest()
        with self._lock:
            known = self._by_key.get(key)
            if known is None:
                encoded: payload.Payload = body
                if len(body) > payload.INLINE_LIMIT:
                    encoded = payload.write_file(body, (), self._spool)
                known = self._by_key[key] = FunctionReference(key, encoded, name)
        return known


def without_wrap_error(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function without Parsl's outermost ``wrap_error``: a slot reports exceptions itself, traceback and all."""
    while isinstance(function, FunctionType) and function.__code__ in _WRAP_ERROR:
        function = _variables(function)[_WRAP_ERROR[function.__code__]]
    return function


def _variables(function: FunctionType) -> dict[str, Any]:
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    return dict(zip(function.__code__.co_freevars, cells, strict=True))


def _see_through(function: Any) -> tuple[Any, Hashable]:
    """The function inside known wrappers, and what tells these wrappers apart; None if nothing can."""
    layers: list[Hashable] = []
    while isinstance(function, FunctionType) and function.__code__ in _KNOWN:
        variables = _variables(function)
        inner = variables.pop(_KNOWN[function.__code__])
        layer = (function.__code__, *((name, _telling(value)) for name, value in sorted(variables.items())))
        try:
            hash(layer)
        except TypeError:
            return function, None
        layers.append(layer)
        function = inner
    return function, tuple(layers)


def _telling(value: Any) -> Any:
    return (value.url, value.local_path) if isinstance(value, File) else value


def serialize_function(function: Callable[..., Any]) -> bytes:
    """Pickle a function: with the serializers that the user registered with Parsl, if any, else with cloudpickle."""
    if _user_registered(registries.methods_for_code):
        return cloudpickle.dumps(_Deferred(registries.serialize(function)))  # type: ignore[no-any-return]
    return cloudpickle.dumps(function, protocol=5)  # type: ignore[no-any-return]


def _user_registered(methods: dict[bytes, Any]) -> bool:
    return not _BUILT_IN.issuperset(map(type, methods.values()))


class _Deferred:
    """Pickles as the call that deserializes what Parsl's registered serializers made."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __reduce__(self) -> tuple[Any, ...]:
        return registries.deserialize, (self._body,)


class _LargeBytes:
    """Pickles bytes out of band, so that they can be shared; pickle itself never does."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:  # type: ignore[override]
        return bytes, (pickle.PickleBuffer(self._data),)


def _large(value: Any) -> Any:
    return _LargeBytes(value) if type(value) is bytes and len(value) >= payload.SHARED_FROM else value


def encode_arguments(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    spool: str,
    limit: int = payload.INLINE_LIMIT,
    buffers: Buffers | None = None,
) -> payload.Payload:
    """Encode the arguments of one call, into a file under ``spool`` if they take more than ``limit`` bytes.

    Large buffers, and large bytes objects that are arguments themselves, are stored in ``buffers`` if it is given.

    Plain values take the standard pickler, which is several times faster than cloudpickle's; it would pickle the
    user's own functions and classes by reference, so only values that hold none may take it.
    """
    if _user_registered(registries.methods_for_data):
        deferred = (_Deferred(registries.serialize(args)), _Deferred(registries.serialize(kwargs)))
        return payload.encode(deferred, spool, cloudpickle.dumps, limit, buffers)
    dumps = pickle.dumps if _is_plain(args, 3) and _is_plain(kwargs, 3) else cloudpickle.dumps
    if buffers is not None:
        if bytes in map(type, args):
            args = tuple(map(_large, args))
        if kwargs and bytes in map(type, kwargs.values()):
            kwargs = {name: _large(value) for name, value in kwargs.items()}
    return payload.encode((args, kwargs), spool, dumps, limit, buffers)


_PLAIN = frozenset({int, float, bool, str, bytes, type(None), complex, Edge})
_LOOK = 32


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    if not depth:
        return False
    if kind is tuple or kind is list:
        if len(value) > _LOOK:
            return False
        return _PLAIN.issuperset(map(type, value)) or all(_is_plain(item, depth - 1) for item in value)
    if kind is dict:
        return len(value) <= _LOOK and all(
            type(key) is str and _is_plain(item, depth - 1) for key, item in value.items()
        )
    return False
