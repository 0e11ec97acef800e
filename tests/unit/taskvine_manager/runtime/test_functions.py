"""Functions in a process: loaded once, forgotten when no task will call them."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from taskvine_manager.runtime import release
from taskvine_manager.runtime.functions import Functions


def encoded(value: object) -> bytes:
    """A function that returns a value, as it is sent."""

    def function() -> object:
        return value

    data: bytes = cloudpickle.dumps(function)
    return data


def test_function_is_loaded_when_it_is_first_needed() -> None:
    functions = Functions()
    functions.add("f", encoded(1))
    assert ("f" in functions, "g" in functions) == (True, False)
    assert functions.get("f") is None
    assert len(functions) == 0
    loaded = functions.load("f")
    assert loaded() == 1
    assert functions.get("f") is functions["f"] is loaded
    assert len(functions) == 1


def test_function_that_cannot_be_loaded_may_be_tried_again() -> None:
    functions = Functions()
    functions.add("f", b"not a pickle")
    for _ in range(2):
        with pytest.raises(pickle.UnpicklingError):
            functions.load("f")
    assert functions.get("f") is None


def test_forgotten_functions_are_gone() -> None:
    functions = Functions()
    for key in "fg":
        functions.add(key, encoded(key))
        functions.load(key)
    functions.add("h", encoded("h"))
    functions.forget(["f", "h", "never there"])
    assert [key in functions for key in "fgh"] == [False, True, False]
    assert functions.get("f") is None
    assert functions["g"]() == "g"


def test_memory_of_forgotten_functions_is_freed_when_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[bool] = []
    monkeypatch.setattr(release, "ENOUGH", 1)
    monkeypatch.setattr(release, "trim", lambda: trimmed.append(True))
    functions = Functions()
    functions.add("f", cloudpickle.dumps(recursive()))
    held = weakref.ref(functions.load("f"))
    functions.forget([])
    assert not trimmed
    functions.forget(["f"])
    assert trimmed
    assert held() is None


def recursive() -> Callable[..., Any]:
    """A function that refers to itself, so that only a garbage collection frees it."""

    def function(number: int) -> int:
        return number and function(number - 1)

    return function
