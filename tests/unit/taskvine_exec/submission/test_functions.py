"""A function is serialized once, whatever Parsl wraps it in; both ways to encode arguments give the same values."""

from __future__ import annotations

import enum
import functools
import gc
import pickle
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import hypothesis.strategies as st
import numpy as np
import parsl.serialize.facade as registries
import pytest
from hypothesis import given
from parsl.app.errors import wrap_error
from parsl.app.python import timeout
from parsl.data_provider import ftp, http
from parsl.data_provider.files import File
from parsl.monitoring.radios.filesystem import FilesystemRadio
from parsl.monitoring.remote import monitor_wrapper
from parsl.serialize.base import SerializerBase

from taskvine_exec.errors import FunctionNotSerializable
from taskvine_exec.submission import functions
from taskvine_exec.submission.functions import FunctionCache, encode_arguments, encode_scalars
from taskvine_manager.runtime import payload, pickling

Wrap = Callable[[Any], Any]


@pytest.fixture
def cache(tmp_path: Path) -> FunctionCache:
    return FunctionCache(str(tmp_path))


@pytest.fixture
def dumped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The objects that were pickled."""
    seen: list[Any] = []
    dumps = pickling.dumps

    def count(value: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(value)
        return dumps(value, *args, **kwargs)

    monkeypatch.setattr(pickling, "dumps", count)
    return seen


def make_function() -> Callable[[int], int]:
    def double(x: int) -> int:
        return 2 * x

    return double


RADIO = FilesystemRadio()


def monitored(function: Any, task: int = 0, **changed: Any) -> Any:
    workflow = {
        "radio_config": RADIO,
        "run_id": "run",
        "logging_level": 0,
        "sleep_dur": 1.0,
        "monitor_resources": False,
        "run_dir": "runinfo",
    }
    wrapped, _, _ = monitor_wrapper(
        f=function, args=(), kwargs={}, x_try_id=0, x_task_id=task, **{**workflow, **changed}
    )
    return wrapped


def fetching(function: Any, url: str = "http://host/file", directory: str | None = None) -> Any:
    file = File(url)
    file.local_path = "file"
    return http.in_task_transfer_wrapper(function, file, directory)


WRAPS: dict[str, Wrap] = {
    "nothing": lambda function: function,
    "error": wrap_error,
    "timeout": lambda function: timeout(function, 10.0),
    "timeout in error": lambda function: wrap_error(timeout(function, 10.0)),
    "error in timeout": lambda function: timeout(wrap_error(function), 10.0),
    "monitor": monitored,
    "http": fetching,
    "ftp": lambda function: ftp.in_task_transfer_wrapper(function, File("ftp://host/file"), None),
    "all, as the DFK does": lambda function: monitored(fetching(timeout(wrap_error(function), 10.0))),
}


# --- seen through ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=list(WRAPS))
def test_function_wrapped_again_is_serialized_once(cache: FunctionCache, dumped: list[Any], wrap: Wrap) -> None:
    function = make_function()
    first = cache.reference(wrap(function))
    for _ in range(5):
        assert cache.reference(wrap(function)) is first
    assert len(dumped) == 1


def test_every_monitored_task_has_its_own_number(cache: FunctionCache, dumped: list[Any]) -> None:
    function = wrap_error(make_function())
    keys = {cache.reference(monitored(function, task)).key for task in range(5)}
    assert len(keys) == len(dumped) == 1


def test_different_wrappers_make_different_functions(cache: FunctionCache) -> None:
    function = make_function()
    wraps: list[Wrap] = [wrap for name, wrap in WRAPS.items() if name not in ("error", "timeout in error")]
    wraps += [
        lambda function: timeout(function, 20.0),
        lambda function: monitored(function, run_id="another"),
        lambda function: monitored(function, sleep_dur=2.0),
        lambda function: fetching(function, "http://host/another"),
        lambda function: fetching(function, directory="elsewhere"),
        lambda function: timeout(timeout(function, 10.0), 20.0),
    ]
    keys = [cache.reference(wrap(function)).key for wrap in wraps]
    assert len(set(keys)) == len(keys)


def test_few_of_many_wrappers_are_kept(cache: FunctionCache) -> None:
    function = make_function()
    for number in range(2 * functions.VARIANTS):
        cache.reference(fetching(function, f"http://host/{number}"))
    gc.collect()
    assert cache.count == functions.VARIANTS


def test_only_the_outermost_wrap_error_is_removed(cache: FunctionCache) -> None:
    function = make_function()
    assert cache.reference(wrap_error(function)) is cache.reference(function)
    assert cache.reference(wrap_error(wrap_error(function))) is cache.reference(function)
    kept = payload.decode(cache.reference(timeout(wrap_error(function), 10.0)).encoded)
    assert kept(21) == 42


@pytest.mark.parametrize("wrap", [wrap for name, wrap in WRAPS.items() if name not in ("http", "ftp", "monitor")][:5])
def test_serialized_function_can_be_called(cache: FunctionCache, wrap: Wrap) -> None:
    assert payload.decode(cache.reference(wrap(make_function())).encoded)(21) == 42


def test_wrapper_without_a_key_is_serialized_each_time(cache: FunctionCache, dumped: list[Any]) -> None:
    function = make_function()
    for seconds in (10.0, 10.0):
        wrapped = timeout(function, seconds)
        assert wrapped.__code__.co_freevars[-1] == "seconds"
        wrapped.__closure__[-1].cell_contents = [seconds]  # is not hashable
        cache.reference(wrapped)
    assert len(dumped) == 2


# --- the cache ------------------------------------------------------------------------------------------------------


def test_equal_functions_have_one_key(cache: FunctionCache, dumped: list[Any]) -> None:
    first, second = make_function(), make_function()
    assert cache.reference(first) is cache.reference(second)
    assert len(dumped) == 2


def test_captures_distinguish_functions(cache: FunctionCache) -> None:
    def make(number: int) -> Callable[[], int]:
        return lambda: number

    functions = [make(1), make(2)]
    assert len({cache.reference(function).key for function in functions}) == 2


def test_a_collected_function_leaves_no_entry(cache: FunctionCache) -> None:
    function = make_function()
    watch = weakref.ref(function)
    for wrap in WRAPS.values():
        cache.reference(wrap(function))
    assert cache.watched == 1
    del function
    gc.collect()
    assert watch() is None
    assert cache.watched == 0


def test_function_with_a_reused_id_is_new(cache: FunctionCache) -> None:
    keys = set()
    for number in range(50):  # their ids are reused
        keys.add(cache.reference(eval(f"lambda: {number}")).key)
    assert len(keys) == 50


class Adder:
    """A callable object."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, x: int) -> int:
        return x + self.number

    def method(self, x: int) -> int:
        return x + self.number


class Unhashable(Adder):
    __hash__ = None  # type: ignore[assignment]


class NotWeak:
    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, x: int) -> int:
        return x + self.number


@pytest.mark.parametrize(
    "function",
    [
        Adder(2),
        Unhashable(2),
        NotWeak(2),
        Adder(2).method,
        functools.partial(pow, 2),
        max,
        str.upper,
        functools.partial,
    ],
    ids=lambda function: getattr(function, "__qualname__", type(function).__name__),
)
def test_every_callable_has_a_reference(cache: FunctionCache, function: Any) -> None:
    first = cache.reference(function)
    assert cache.reference(function).key == first.key
    assert first.name


def test_unhashable_callable_is_serialized_each_time(cache: FunctionCache, dumped: list[Any]) -> None:
    function = Unhashable(1)
    before = cache.reference(function)
    function.number = 2
    after = cache.reference(function)
    assert before.key != after.key
    assert payload.decode(after.encoded)(1) == 3
    assert len(dumped) == 2


def test_unpicklable_function_has_a_reason(cache: FunctionCache) -> None:
    generator = (number for number in ())

    def holds() -> Any:
        return generator

    with pytest.raises(FunctionNotSerializable, match="generator") as info:
        cache.reference(holds)
    assert info.value.subject == "holds"


def test_a_large_function_is_a_file(cache: FunctionCache, tmp_path: Path) -> None:
    data = b"x" * (payload.INLINE_LIMIT + 1)
    reference = cache.reference(lambda: len(data))
    assert isinstance(reference.encoded, str)
    assert Path(reference.encoded).parent == tmp_path
    assert pickle.loads(Path(reference.encoded).read_bytes()[24:])() == len(data)


# --- serializers that the user registered ---------------------------------------------------------------------------


class Marking(SerializerBase):
    """A serializer that marks its output and notes what it serializes."""

    refuse: bool = False

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def serialize(self, data: Any) -> bytes:
        if self.refuse:
            raise TypeError("not this")
        self.seen.append(data)
        dumped: bytes = cloudpickle.dumps(data)
        return b"marked" + dumped

    def deserialize(self, payload: bytes) -> Any:
        assert payload.startswith(b"marked")
        return pickle.loads(payload[6:])


class Refusing(Marking):
    refuse = True


@pytest.fixture
def registry() -> Iterator[types.SimpleNamespace]:
    """Parsl's registries, which the test may change."""
    kept = [dict(registries.methods_for_code), dict(registries.methods_for_data)]
    more = dict(registries.additional_methods_for_deserialization)
    yield types.SimpleNamespace(code=registries.methods_for_code, data=registries.methods_for_data)
    for current, before in zip((registries.methods_for_code, registries.methods_for_data), kept, strict=True):
        current.clear()
        current.update(before)
    registries.additional_methods_for_deserialization.clear()
    registries.additional_methods_for_deserialization.update(more)


def first_in(methods: dict[bytes, Any], *new: SerializerBase) -> None:
    before = dict(methods)
    methods.clear()
    methods.update({each.identifier: each for each in new})
    methods.update(before)


def test_a_registered_serializer_for_code_is_used(cache: FunctionCache, registry: types.SimpleNamespace) -> None:
    marking, function = Marking(), make_function()
    first_in(registry.code, marking)
    encoded = cache.reference(wrap_error(function)).encoded
    assert marking.seen == [function]
    assert payload.decode(encoded)(21) == 42


def test_a_registered_serializer_for_data_is_used(registry: types.SimpleNamespace, tmp_path: Path) -> None:
    marking = Marking()
    first_in(registry.data, marking)
    encoded = encode_arguments((1, "two"), {"three": 3}, str(tmp_path))
    assert marking.seen == [(1, "two"), {"three": 3}]
    assert payload.decode(encoded) == ((1, "two"), {"three": 3})
    assert encode_scalars((1, "two"), {"three": 3}) is None


def test_serializers_are_tried_in_the_order_of_the_registry(registry: types.SimpleNamespace, tmp_path: Path) -> None:
    refusing, marking = Refusing(), Marking()
    first_in(registry.data, refusing, marking)
    payload.decode(encode_arguments((1,), {}, str(tmp_path)))
    assert marking.seen
    marking.seen.clear()
    registry.data.pop(marking.identifier)
    registries.register_method_for_data(marking)  # now behind Parsl's own serializer, which accepts everything
    assert payload.decode(encode_arguments((1,), {}, str(tmp_path))) == ((1,), {})
    assert not marking.seen


def test_large_arguments_of_registered_serializers_are_a_file(registry: types.SimpleNamespace, tmp_path: Path) -> None:
    first_in(registry.data, Marking())
    array = np.arange(10_000)
    encoded = encode_arguments((array,), {}, str(tmp_path))
    assert isinstance(encoded, str)
    assert np.array_equal(payload.decode(encoded)[0][0], array)


def test_executor_registers_no_serializers(cache: FunctionCache, tmp_path: Path) -> None:
    before = [*registries.methods_for_code.values(), *registries.methods_for_data.values()]
    cache.reference(make_function())
    encode_arguments((make_function(),), {}, str(tmp_path))
    assert [*registries.methods_for_code.values(), *registries.methods_for_data.values()] == before
    assert all(type(method) in functions.OF_PARSL for method in before)


# --- arguments ------------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.sets(st.integers())
    ),
    max_leaves=15,
)


@given(st.lists(plain, max_size=4).map(tuple), st.dictionaries(st.text(max_size=5), plain, max_size=3))
def test_fast_and_slow_encoding_agree(
    tmp_path_factory: pytest.TempPathFactory, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    fast = payload.decode(encode_arguments(args, kwargs, str(tmp_path_factory.getbasetemp())))
    slow = payload.decode(payload.encode((args, kwargs), str(tmp_path_factory.getbasetemp()), cloudpickle.dumps))
    assert fast == slow == (args, kwargs)
    assert repr(fast) == repr(slow), "types differ"


def test_scalars_are_encoded_in_the_same_way(tmp_path: Path) -> None:
    args, kwargs = (1, 2.0, "three", None, True), {"nine": 9j}
    assert encode_scalars(args, kwargs) == encode_arguments(args, kwargs, str(tmp_path))
    assert encode_scalars(("x" * 100,), {}, limit=100) is None
    for other in (b"4", [5], (6,), {"seven": 8}, File("file"), MyInt(1), Colour.RED):
        assert encode_scalars((1, other), {}) is None
        assert encode_scalars((1,), {"key": other}) is None


def test_plain_arguments_are_encoded_fast(dumped: list[Any], tmp_path: Path) -> None:
    encode_arguments((1, 2.0, "three", b"4", None, [5, (6,)], {"seven": [8]}), {"nine": 9j}, str(tmp_path))
    assert not dumped


class Mine:
    """A class of the user."""


class MyInt(int):
    pass


class MyList(list[int]):
    pass


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


def cyclic() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


OWN: list[Any] = [Mine, Mine(), MyInt(1), MyList(), Colour.RED, Level.LOW, make_function(), {MyInt(1): 1}, {1: Mine}]
OWN += [cyclic(), {Mine}, [1] * 100 + [Mine], [[[[[Mine]]]]], np.zeros(2), File("file"), int]


@pytest.mark.parametrize("value", OWN, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value], lambda value: {"key": (value,)}])
def test_users_objects_are_encoded_slowly(
    dumped: list[Any], tmp_path: Path, value: Any, wrap: Callable[[Any], Any]
) -> None:
    encode_arguments((wrap(value),), {}, str(tmp_path))
    encode_arguments((), {"key": wrap(value)}, str(tmp_path))
    assert len(dumped) == 2


def test_classes_and_functions_of_main_travel_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec("class Point:\n    x = 42\nclass Size(int): pass\ndef here(): return Point.x", main.__dict__)
    encoded = encode_arguments((main.Point(), [main.Size(3)], main.here), {}, str(tmp_path))
    for name in ("Point", "Size", "here"):
        delattr(main, name)
    (point, (size,), here), _ = payload.decode(encoded)
    assert (point.x, size, here()) == (42, 3, 42)
