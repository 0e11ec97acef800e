"""Results by reference: a future's result is a proxy that fetches the value when somebody touches it.

The proxies are those of `proxystore <https://docs.proxystore.dev>`_, an optional dependency that this module alone
imports. An executor made with ``results="reference"`` has a :class:`References`.

Whoever handles a proxy without looking into it must not have it fetched. But ``isinstance`` asks an object for its
``__class__``, which a proxy answers by resolving itself: the DataFlowKernel would fetch every result just to see that
it is no Future. So :class:`ResultProxy` tells the machinery, by the module of the frame that asks, what it really is.
"""

from __future__ import annotations

import operator
import sys
import threading
from types import FrameType
from typing import Any, SupportsIndex

from parsl.dataflow.memoization import id_for_memo
from parsl.errors import ParslError
from proxystore.proxy import Proxy, ProxyResolveError

from taskvine_exec.submission.buffers import Buffers
from taskvine_exec.submission.functions import encode_arguments
from taskvine_exec.values import Edge, Place, Value
from taskvine_manager.runtime import payload

_MACHINERY = frozenset({"parsl", "taskvine_exec", "cloudpickle", "dill", "concurrent", "asyncio"})
"""Packages that pass values on, and look only at what these are wrapped in: a Future's repr, its result's class."""
_IN_BETWEEN = frozenset({"functools", "typing", "abc"})


class References:
    """The proxies of one executor."""

    def __init__(self) -> None:
        self._encoding = threading.local()

    def proxy(self, value: Value) -> ResultProxy:
        """A proxy of a result that is on nodes; it keeps it there for as long as it lives."""
        return ResultProxy(_Fetch(value, self))

    def encode(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], spool: str, limit: int, buffers: Buffers
    ) -> payload.Payload:
        """Encode the arguments of a call on this executor: its own proxies among them become edges."""
        self._encoding.here = True
        try:
            return encode_arguments(args, kwargs, spool, limit, buffers)
        finally:
            self._encoding.here = False

    def forget(self, proxy: object) -> str | None:
        """The number under which nodes have a result, if this is a proxy of one of this executor's.

        Nobody gets it from there any more. If it has been touched, consumers get the value.
        """
        if type(proxy) is not ResultProxy or _fetch_of(proxy).references is not self:
            return None
        value = _fetch_of(proxy).value
        value.forgotten()
        if proxy.__proxy_resolved__:
            value.comes_home(proxy.__proxy_wrapped__)
        return value.number

    @property
    def is_encoding(self) -> bool:
        """Whether this thread is pickling arguments for this executor."""
        return getattr(self._encoding, "here", False)


class _Fetch:
    """A proxy's way to its value."""

    __slots__ = ("references", "value")

    def __init__(self, value: Value, references: References) -> None:
        self.value = value
        self.references = references

    def __call__(self) -> Any:
        return self.value.load()

    def __repr__(self) -> str:
        return f"<result of task {self.value.producer}, {self.value.place.value}>"


def _is_machinery(frame: FrameType | None) -> bool:
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _IN_BETWEEN:
            return package in _MACHINERY
        frame = frame.f_back
    return False


_WRAPPED: property = Proxy.__dict__["__proxy_wrapped__"]


class ResultProxy(Proxy[Any]):
    """A result that is on nodes, and behaves as the value itself: the first touch fetches it.

    Given to another app of its executor it travels by reference. Pickled by anybody else it is the value.

    Raises
    ------
    FileLost
        At the first touch, if the value cannot be had any more.
    """

    __slots__ = ()

    def _resolve(self) -> Any:
        try:
            return _WRAPPED.__get__(self)
        except ProxyResolveError as error:
            if isinstance(error.cause, ParslError):
                raise error.cause from None
            raise

    __proxy_wrapped__ = property(_resolve, _WRAPPED.fset, _WRAPPED.fdel)

    @property
    def __class__(self) -> Any:
        if not self.__proxy_resolved__ and _is_machinery(sys._getframe(1)):
            return type(self)
        return self.__proxy_wrapped__.__class__

    @__class__.setter
    def __class__(self, value: Any) -> None:
        self.__proxy_wrapped__.__class__ = value

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        fetch = _fetch_of(self)
        if fetch.references.is_encoding and fetch.value.place is Place.NODES:
            return Edge(fetch.value).__reduce__()
        # Not the value's own __reduce_ex__: what is pickled in ways of its own, as functions are, has none that works.
        return operator.getitem, ((self.__proxy_wrapped__,), 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(2)

    def __copy__(self) -> Any:
        import copy

        return copy.copy(self.__proxy_wrapped__)


def _fetch_of(proxy: ResultProxy) -> _Fetch:
    fetch: _Fetch = object.__getattribute__(proxy, "__proxy_factory__")
    return fetch


@id_for_memo.register(ResultProxy)
def _id_for_memo(proxy: ResultProxy, output_ref: bool = False) -> bytes:
    """Memoization's keys are made of values."""
    return id_for_memo(proxy.__proxy_wrapped__, output_ref=output_ref)
