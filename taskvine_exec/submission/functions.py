"""Functions and arguments, serialized: a function once per version, arguments once per task.

Parsl makes a new wrapper around a function for every task that has a walltime, is monitored or stages files inside the
task. The key of :class:`FunctionCache` is therefore the user's function together with the wrappers' parameters.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import parsl.serialize.facade as registries
from parsl.serialize import concretes

from taskvine_exec.errors import FunctionNotSerializable, is_interruption
from taskvine_exec.parsl_hooks import wrappers
from taskvine_exec.submission.buffers import Buffers
from taskvine_exec.submission.fingerprint import Fingerprint
from taskvine_exec.values import Copy, Edge
from taskvine_manager.functions import remove
from taskvine_manager.runtime import failure, payload, pickling
from taskvine_manager.runtime.search_path import OnPath, SearchPath, Watch, of_this_process

logger = logging.getLogger(__name__)

Retire = Callable[[list[int], int], None]
RECENT = 4
"""Number of references kept for functions that do not allow weak references, such as some callable objects."""
VARIANTS = 64
"""Most wrapped variants kept of one function. Each file that an app stages inside the task makes another variant."""
SLOW = 0.020
"""Seconds that pickling a function again may take before the user is told."""
OF_PARSL = frozenset({concretes.DillCallableSerializer, concretes.DillSerializer, concretes.PickleSerializer})
"""The serializers that Parsl brings. Any other one was registered by the user."""


@dataclass(eq=False)
class FunctionReference:
    """One version of a function, identified by the hash of its serialized content.

    ``profiles`` has the numbers of the profiles with this function. The cache keeps the reference until the function
    changes or is collected. Then no new task needs these profiles, and they are retired.

    Parameters
    ----------
    key : str
        Hash of the content.
    encoded : Payload
        The serialized content; empty once it has been sent.
    name : str
        Name of the function.
    """

    key: str
    encoded: payload.Payload
    name: str
    profiles: dict[Hashable, int] = field(default_factory=dict, init=False)


@dataclass(eq=False)
class _Known:
    """Cache entry of a function object: its captures, and the reference of each wrapped variant."""

    function: weakref.ref[Any]
    fingerprint: Fingerprint
    references: dict[Hashable, FunctionReference] = field(default_factory=dict)
    said: bool = False


class FunctionCache:
    """Serialized functions, by the identity of the function object: two functions may have the same name.

    A function is serialized again when something that it captures has changed.

    Parameters
    ----------
    spool : str
        Directory for serialized functions that are too large for a message.
    path : SearchPath, optional
        Where nodes import modules from. Default: the search path of this process. If this process's path changes later,
        functions carry the new one.
    retire : callable, optional
        Called with the numbers of the profiles of a function that cannot be submitted any more, and with its size in
        bytes. It may be called at any time and in any thread.
    """

    def __init__(self, spool: str, path: SearchPath | None = None, retire: Retire | None = None) -> None:
        self._spool = spool
        self._retire = retire
        self._path = Watch(path or of_this_process())
        # Reentrant: any allocation while it is held may collect a function, which removes its entry.
        self._lock = threading.RLock()
        self._known: dict[int, _Known] = {}
        self._by_key: weakref.WeakValueDictionary[str, FunctionReference] = weakref.WeakValueDictionary()
        self._recent: deque[FunctionReference] = deque(maxlen=RECENT)

    @property
    def count(self) -> int:
        """Number of pickled functions that are kept."""
        return len(self._by_key)

    @property
    def watched(self) -> int:
        """Number of functions whose captures are watched for changes."""
        return len(self._known)

    def reference(self, function: Callable[..., Any]) -> FunctionReference:
        """Return the reference of a function as it is now.

        Raises
        ------
        FunctionNotSerializable
            If it cannot be pickled.
        """
        function = wrappers.without_wrap_error(function)
        inner, layers = wrappers.see_through(function)
        if self._path.look():
            with self._lock:
                self._known.clear()
        known = self._known.get(id(inner))
        if known is not None and known.function() is inner and layers is not None:
            found = known.references.get(layers)
            if found is not None and known.fingerprint.holds:
                if not known.fingerprint.mutable:
                    return found
                return self._serialize_again(known, function, layers)
        return self._first(function, inner, layers)

    def _first(self, function: Any, inner: Any, layers: Hashable) -> FunctionReference:
        """Serialize a function that is new, has changed or is wrapped in a new way."""
        if layers is None or (known := self._entry(inner)) is None:
            reference = self._serialize(function)
            self._recent.append(reference)  # nothing else keeps it until the next call
            return reference
        reference = known.references[layers] = self._serialize(function)
        if len(known.references) > VARIANTS:
            with self._lock:
                known.references.pop(next(iter(known.references)), None)
        return reference

    def _entry(self, inner: Any) -> _Known | None:
        """Return a function's entry with its present captures; None if the function allows no weak references."""
        known = self._known.get(id(inner))
        if known is not None and known.function() is inner and known.fingerprint.holds:
            return known
        number = id(inner)
        try:
            watched = weakref.ref(inner, lambda gone: self._collected(number, gone))
        except TypeError:
            return None
        # The fingerprint is made before pickling, so that a change during pickling is noticed at the next call.
        known = _Known(watched, Fingerprint(inner))
        with self._lock:
            self._known[number] = known
        return known

    def _collected(self, number: int, gone: weakref.ref[Any]) -> None:
        with self._lock:
            known = self._known.get(number)
            if known is not None and known.function is gone:  # its id may have been reused already
                del self._known[number]

    def _serialize_again(self, known: _Known, function: Any, layers: Hashable) -> FunctionReference:
        """Serialize a function with a mutable capture again. If its content has not changed, nor has its reference."""
        clock = time.thread_time()
        reference = self._serialize(function)
        seconds = time.thread_time() - clock
        if seconds > SLOW and not known.said:
            known.said = True
            logger.warning(
                "%s refers to %s, which can change between two calls, so it is pickled for each call. That takes "
                "%.0f ms. Pass it as an argument, or load it once in each library (see docs/how-to/context.md).",
                reference.name,
                known.fingerprint.mutable,
                seconds * 1000,
            )
        known.references[layers] = reference
        return reference

    def _serialize(self, function: Callable[..., Any]) -> FunctionReference:
        name = getattr(function, "__name__", None)
        name = name if type(name) is str else type(function).__name__
        try:
            body = serialize_function(function)
        except BaseException as error:  # the user's own methods run here and may raise anything
            if is_interruption(error):
                raise
            reason = failure.describe(error)
            raise FunctionNotSerializable(task_id=None, reason=reason, subject=name) from error
        if (path := self._path.changed) is not None:
            body = pickle.dumps(OnPath(path, body), 5)
        key = hashlib.blake2b(body, digest_size=20).hexdigest()
        with self._lock:
            known = self._by_key.get(key)
            if known is None:
                encoded: payload.Payload = body
                if len(body) > payload.INLINE_LIMIT:
                    encoded = payload.write_file(body, (), self._spool)
                known = self._by_key[key] = FunctionReference(key, encoded, name)
                file = encoded if isinstance(encoded, str) else ""
                weakref.finalize(known, _ended, known.profiles, file, len(body), self._retire).atexit = False
        return known


def _ended(profiles: dict[Hashable, int], path: str, size: int, retire: Retire | None) -> None:
    """Clean up after a reference: remove its file, or tell the manager to remove it if the manager knows it."""
    if not profiles:
        if path:
            remove(path)
    elif retire is not None:
        retire(list(profiles.values()), size)


def serialize_function(function: Callable[..., Any]) -> bytes:
    """Pickle a function, with the serializers that the user has registered with Parsl, or else with our own."""
    if _user_registered(registries.methods_for_code):
        return pickling.dumps(_Deferred(registries.serialize(function)))
    return pickling.dumps(function)


def _user_registered(methods: dict[bytes, Any]) -> bool:
    return not OF_PARSL.issuperset(map(type, methods.values()))


class _Deferred:
    """Serialized bytes from Parsl's registered serializers, pickled as the call that deserializes them."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __reduce__(self) -> tuple[Any, ...]:
        return registries.deserialize, (self._body,)


class _LargeBytes:
    """A bytes object that is pickled out of band, so that it can be shared. Plain bytes never are."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:  # type: ignore[override]
        return bytes, (pickle.PickleBuffer(self._data),)


def _large(value: Any) -> Any:
    return _LargeBytes(value) if type(value) is bytes and len(value) >= payload.SHARED_FROM else value


def encode_scalars(args: tuple[Any, ...], kwargs: dict[str, Any], limit: int = payload.INLINE_LIMIT) -> bytes | None:
    """Encode the arguments of a task like :func:`encode_arguments`, but faster, if they are all scalars.

    Returns
    -------
    bytes or None
        None if there are other arguments, or the encoded ones exceed ``limit`` bytes.
    """
    if not (_SCALARS.issuperset(map(type, args)) and _SCALARS.issuperset(map(type, kwargs.values()))):
        return None
    if _user_registered(registries.methods_for_data):
        return None
    encoded = pickle.dumps((args, kwargs), 5)
    return encoded if len(encoded) <= limit else None


def encode_arguments(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    spool: str,
    limit: int = payload.INLINE_LIMIT,
    buffers: Buffers | None = None,
) -> payload.Payload:
    """Encode the arguments of one task, into a file under ``spool`` if they exceed ``limit`` bytes.

    Large buffers, and large bytes objects that are arguments themselves, are stored in ``buffers`` if it is given.

    Plain values are pickled with the standard pickler, which is several times faster than ours. Values with the user's
    own functions or classes are not: the standard pickler would pickle these by reference.
    """
    if _user_registered(registries.methods_for_data):
        deferred = (_Deferred(registries.serialize(args)), _Deferred(registries.serialize(kwargs)))
        return payload.encode(deferred, spool, pickling.dumps, limit, buffers)
    dumps = pickle.dumps if _is_plain(args, 3) and _is_plain(kwargs, 3) else pickling.dumps
    if buffers is not None:
        if bytes in map(type, args):
            args = tuple(map(_large, args))
        if kwargs and bytes in map(type, kwargs.values()):
            kwargs = {name: _large(value) for name, value in kwargs.items()}
    return payload.encode((args, kwargs), spool, dumps, limit, buffers)


_SCALARS = frozenset({int, float, bool, str, type(None), complex})
_PLAIN = _SCALARS | {bytes, Copy, Edge}
_MOST_ITEMS = 32
"""Most items of a container that are looked at. Larger containers go to our pickler."""


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    if not depth:
        return False
    if kind is tuple or kind is list:
        if len(value) > _MOST_ITEMS:
            return False
        return _PLAIN.issuperset(map(type, value)) or all(_is_plain(item, depth - 1) for item in value)
    if kind is dict:
        return len(value) <= _MOST_ITEMS and all(
            type(key) is str and _is_plain(item, depth - 1) for key, item in value.items()
        )
    return False
