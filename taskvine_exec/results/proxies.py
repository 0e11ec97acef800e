"""Results by reference: a future's result is a proxy that loads the value when it is first used.

The proxies are those of `proxystore <https://docs.proxystore.dev>`_, an optional dependency. Only this module imports
it. An executor made with ``results="reference"`` has a :class:`References`.
"""

from __future__ import annotations

import operator
import threading
from dataclasses import dataclass
from typing import Any, SupportsIndex

from parsl.dataflow.memoization import id_for_memo
from parsl.errors import ParslError
from proxystore.proxy import Proxy, ProxyResolveError

from taskvine_exec.parsl_hooks import proxies
from taskvine_exec.submission.buffers import Buffers
from taskvine_exec.submission.functions import encode_arguments
from taskvine_exec.values import Edge, Place, Value
from taskvine_manager.runtime import payload


class References:
    """The proxies of one executor."""

    def __init__(self) -> None:
        self._encoding = threading.local()

    def proxy(self, value: Value) -> ResultProxy:
        """Make a proxy of a result that is on nodes. Nodes keep the result as long as the proxy lives."""
        return ResultProxy(_Fetch(value, self))

    def encode(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], spool: str, limit: int, buffers: Buffers
    ) -> payload.Payload:
        """Encode the arguments of a task of this executor; proxies of the executor's results become edges."""
        self._encoding.here = True
        try:
            return encode_arguments(args, kwargs, spool, limit, buffers)
        finally:
            self._encoding.here = False

    def forget(self, proxy: object) -> str | None:
        """Forget a result on nodes; return its number, or None if ``proxy`` is not a proxy of this executor.

        From now on, the result cannot be read from nodes. If the proxy was resolved before, consumers get its value.
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


@dataclass(eq=False, repr=False)
class _Fetch:
    """The function with which a proxy loads its value."""

    value: Value
    references: References

    def __call__(self) -> Any:
        return self.value.load()

    def __repr__(self) -> str:
        return f"<result of task {self.value.producer}, {self.value.place.value}>"


_WRAPPED: property = Proxy.__dict__["__proxy_wrapped__"]


class ResultProxy(Proxy[Any]):
    """A proxy of a result on nodes. It behaves like the value, which is loaded on first use.

    As an argument of another app of the same executor, it is passed by reference. Any other pickling pickles the value.

    Raises
    ------
    FileLost
        On first use, if the result was lost and cannot be recreated.
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
        # Also if it is resolved: Parsl chooses the function that makes a memoization key by this class.
        if proxies.only_passes_on():
            return type(self)
        return self.__proxy_wrapped__.__class__

    @__class__.setter
    def __class__(self, value: Any) -> None:
        self.__proxy_wrapped__.__class__ = value

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        fetch = _fetch_of(self)
        if fetch.references.is_encoding and fetch.value.place is Place.NODES:
            return Edge(fetch.value).__reduce__()
        # The value's own __reduce_ex__ does not work for objects that pickle handles specially, such as functions.
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
    """Return the memoization key of the value."""
    return id_for_memo(proxy.__proxy_wrapped__, output_ref=output_ref)
