"""Proxies of results on nodes: they load their value when it is used, and travel by reference."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from parsl.data_provider.files import File
from parsl.dataflow.dependency_resolvers import DEEP_DEPENDENCY_RESOLVER
from parsl.dataflow.memoization import id_for_memo

from taskvine_exec.errors import FileLost
from taskvine_exec.submission.buffers import Buffers
from taskvine_exec.values import Copy, Place, Value, collect
from taskvine_manager.runtime import payload, values

pytest.importorskip("proxystore.proxy")

from proxystore.proxy import ProxyResolveError

from taskvine_exec.results.proxies import References, ResultProxy

LOST = FileLost(task_id=1, reason="why", name="result-1")


class Result:
    """A result on nodes that counts its loads."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.loads = 0
        self.references = References()
        self.value = Value("result-1", 1)
        self.value.stays(self._load)
        self.proxy: Any = self.references.proxy(self.value)

    def _load(self, value: Value, timeout: float | None) -> Any:
        self.loads += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def buffers() -> Buffers:
    return Buffers()


# --- use ---


def test_value_is_loaded_when_it_is_first_used() -> None:
    result = Result([1, 2])
    assert result.loads == 0
    assert result.proxy == [1, 2]
    assert result.proxy[1] == 2
    assert isinstance(result.proxy, list)
    assert result.loads == 1


def test_proxy_of_a_lost_result_raises_and_may_be_tried_again() -> None:
    result = Result(LOST, [1])
    with pytest.raises(FileLost, match="why"):
        len(result.proxy)
    assert len(result.proxy) == 1


def test_other_errors_say_that_the_proxy_cannot_be_resolved() -> None:
    result = Result(ValueError("of the user"))
    with pytest.raises(ProxyResolveError) as caught:
        len(result.proxy)
    assert repr(caught.value.cause) == "ValueError('of the user')"


def test_class_of_the_value_may_be_changed() -> None:
    class One:
        pass

    class Two:
        pass

    made = One()
    Result(made).proxy.__class__ = Two
    assert isinstance(made, Two)


def test_copy_of_a_proxy_is_a_copy_of_the_value() -> None:
    result = Result([1, 2])
    made = copy.copy(result.proxy)
    assert type(made) is list
    assert made == [1, 2]
    assert made is not result.answers


def test_proxy_says_what_it_loads() -> None:
    result = Result([1])
    assert "<result of task 1, on nodes>" in repr(object.__getattribute__(result.proxy, "__proxy_factory__"))


# --- passing on ---


def test_parsl_may_look_at_a_proxy_without_loading_it() -> None:
    result = Result([1])
    assert DEEP_DEPENDENCY_RESOLVER.traverse_to_gather([result.proxy]) == []
    future: Future[Any] = Future()
    future.set_result(result.proxy)
    assert "ResultProxy" in repr(future)
    assert result.loads == 0


@pytest.mark.parametrize("is_resolved", [False, True])
@pytest.mark.parametrize("value", [[1, 2], (1, 2), {"a": 1}, "text", None])
def test_memoization_uses_the_value(value: object, is_resolved: bool) -> None:
    proxy = Result(value).proxy
    if is_resolved:
        assert proxy == value
    assert id_for_memo([proxy]) == id_for_memo([value])


def test_argument_of_the_same_executor_is_a_reference(buffers: Buffers, tmp_path: Path) -> None:
    result = Result()
    encode = result.references.encode
    encoded, found, _ = collect(encode, ([result.proxy],), {"key": result.proxy}, str(tmp_path), 1000, buffers)
    assert found == [result.value]
    assert result.loads == 0
    values.provide({"result-1": pickle.dumps("on its node")})
    assert values.decode(encoded) == ((["on its node"],), {"key": "on its node"})


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_anything_else_pickles_the_value(dumps: Any) -> None:
    result = Result([1, 2])
    decoded = pickle.loads(dumps({"a": result.proxy}))
    assert decoded == {"a": [1, 2]}
    assert type(decoded["a"]) is list


def test_argument_of_another_executor_is_the_value(buffers: Buffers, tmp_path: Path) -> None:
    result, other = Result([1, 2]), Result()
    encoded, found, _ = collect(other.references.encode, (result.proxy,), {}, str(tmp_path), 1000, buffers)
    assert found == []
    assert payload.decode(encoded) == (([1, 2],), {})


def test_function_may_be_a_result() -> None:
    assert pickle.loads(pickle.dumps(Result(len).proxy)) is len


def test_result_that_came_home_is_passed_by_value(buffers: Buffers, tmp_path: Path) -> None:
    result = Result([1, 2])
    assert result.proxy == [1, 2]
    result.value.comes_home(result.proxy)
    encoded, _, _ = collect(result.references.encode, (result.proxy,), {}, str(tmp_path), 1000, buffers)
    assert payload.decode(encoded) == (([1, 2],), {})


# --- forgetting ---


def test_forgotten_result_cannot_be_used() -> None:
    result = Result([1])
    assert result.references.forget(result.proxy) == "result-1"
    with pytest.raises(FileLost, match="its result has been forgotten"):
        len(result.proxy)
    assert result.loads == 0


def test_forgotten_result_that_was_used_before_is_passed_by_value() -> None:
    result = Result([1, 2])
    assert len(result.proxy) == 2
    assert result.references.forget(result.proxy) == "result-1"
    assert result.value.place is Place.HOME
    assert result.value.argument() == [1, 2]
    assert not isinstance(result.value.argument(), Copy)


@pytest.mark.parametrize("other", [[1], File("/data"), None])
def test_only_proxies_of_this_executor_are_forgotten(other: object) -> None:
    result = Result([1])
    assert References().forget(result.proxy) is None
    assert result.references.forget(other) is None
    assert type(result.proxy) is ResultProxy
    assert result.value.place is Place.NODES
