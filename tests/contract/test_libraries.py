"""Several libraries in one executor: their contexts, resources and slots, their starts and ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.executors.errors import InvalidResourceSpecification

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import ContextFailed, ResourcesUnsatisfiable
from tests.conftest import first_node

Make = Callable[..., TaskVineExecutor]


def named(value):  # type: ignore[no-untyped-def]
    return {"value": value, "builder": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}


def look():  # type: ignore[no-untyped-def]
    """The value of the context and its builder, the gpus that it has seen and those of the call, and the process."""
    from taskvine_exec import load_variable_from_library

    try:
        context = [load_variable_from_library(name) for name in ("value", "builder", "gpus")]
    except KeyError:
        context = [None, None, None]
    return (*context, os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid())


def meet(fifo, flags):  # type: ignore[no-untyped-def]
    os.close(os.open(fifo, flags))
    return look()


def of(library: str, **more: Any) -> dict[str, Any]:
    return {"library": library, **more}


def test_calls_run_in_the_library_that_they_name(make_executor: Make) -> None:
    executor = make_executor(
        libraries={
            "one": {"context": named, "context_args": ["first"]},
            "two": {"context": named, "context_args": ["second"], "context_scope": "slot"},
        },
        library_config={"context": named, "context_kwargs": {"value": "default"}},
    )
    specifications = [of("one"), {}, of("two"), of("one"), of("two"), {}, {"function_exec_mode": "L1"}]
    futures = [executor.submit(look, specification) for specification in specifications * 3]
    results = [future.result(60) for future in futures]
    expected = ["first", "default", "second", "first", "second", "default", "default"]
    assert [value for value, *_ in results] == expected * 3
    assert len({builder for value, builder, *_ in results if value == "first"}) == 1
    assert all(builder == process for value, builder, _, _, process in results if value == "second")


def test_library_starts_when_a_call_needs_it(make_executor: Make) -> None:
    executor = make_executor(libraries={"one": {}, "two": {}})
    assert executor.submit(abs, {}, -1).result(30) == 1
    assert executor.stats()["libraries"] == {}
    assert executor.submit(abs, of("two"), -1).result(30) == 1
    assert executor.stats()["libraries"] == {"two": 1}


@pytest.mark.parametrize("name", ["reznet", "other"])
def test_unknown_library_is_refused(make_executor: Make, name: str) -> None:
    executor = make_executor(libraries={"resnet": {}, "bert": {}})
    known = "did you mean 'resnet'?" if name == "reznet" else "known are bert, resnet."
    with pytest.raises(InvalidResourceSpecification, match=known):
        executor.submit(abs, of(name), 1)
    assert executor.stats()["tasks_pending"] == 0


def test_plain_calls_need_none_of_the_gpus_of_a_library(make_executor: Make) -> None:
    """Neither does it matter to them that its context fails without a gpu."""
    executor = make_executor(gpus=1, libraries={"model": {"context": named, "context_args": ["model"], "gpus": 1}})
    plain = [executor.submit(look, {}) for _ in range(5)]
    models = [executor.submit(look, of("model")) for _ in range(5)]
    for future in plain:
        assert future.result(60)[:4] == (None, None, None, "")
    for future in models:
        value, builder, gpus, seen, process = future.result(60)
        assert (value, gpus, seen) == ("model", "0", "0")
        assert builder == process


def test_slots_have_their_shares_of_a_librarys_gpus(make_executor: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    libraries: dict[str, dict[str, Any]] = {
        "each": {"context": named, "context_args": ["each"], "gpus": 2},
        "both": {"context": named, "context_args": ["both"], "gpus": 1, "num_slots": 2},
        "all": {"context": named, "context_args": ["all"], "gpus": 3, "num_slots": 1},
    }
    executor = make_executor(cores=2, gpus=3, libraries=libraries)
    for name, expected in (("each", [["0"], ["1"]]), ("both", [["2"], ["2"]]), ("all", [["0", "1", "2"]])):
        ways = (os.O_RDONLY, os.O_WRONLY) if len(expected) == 2 else (os.O_RDWR,)
        futures = [executor.submit(meet, of(name), str(tmp_path / "fifo"), flags) for flags in ways]
        results = [future.result(60) for future in futures]
        assert sorted(seen.split(",") for _, _, _, seen, _ in results) == expected
        assert all(gpus == seen for _, _, gpus, seen, _ in results)


def test_library_has_no_more_calls_at_a_time_than_slots(make_executor: Make) -> None:
    executor = make_executor(cores=4, libraries={"single": {"num_slots": 1}})
    futures = [executor.submit(os.getpid, of("single")) for _ in range(100)]
    assert len({future.result(30) for future in futures}) == 1


@pytest.mark.parametrize("wants", ["a library", "a call", "an L1 task"])
def test_idle_library_ends_when_its_gpu_is_needed(make_executor: Make, wants: str) -> None:
    model = {"context": named, "gpus": 1}
    executor = make_executor(gpus=1, libraries={name: {**model, "context_args": [name]} for name in ("one", "two")})
    specification: dict[str, Any] = {
        "a library": of("two"),
        "a call": {"gpus": 1},
        "an L1 task": {"gpus": 1, "function_exec_mode": "L1"},
    }[wants]
    first = executor.submit(look, of("one")).result(60)
    assert executor.submit(look, of("one")).result(60) == first
    assert executor.submit(abs, {}, -1).result(30) == 1
    assert executor.stats()["libraries"] == {"one": 1}, "a call that needs nothing of it leaves it alone"
    _, _, _, seen, process = executor.submit(look, specification).result(60)
    assert seen == "0"
    assert not os.path.exists(f"/proc/{first[-1]}"), "its slot still had the gpu"
    assert executor.stats()["libraries"] == ({"two": 1} if wants == "a library" else {})
    again = executor.submit(look, of("one")).result(60)
    assert again[0] == "one"
    assert again[-1] not in (first[-1], process)


def test_libraries_that_share_a_gpu_take_turns(make_executor: Make) -> None:
    names = ("one", "two", "three")
    executor = make_executor(
        gpus=1, libraries={name: {"context": named, "context_args": [name], "gpus": 1} for name in names}
    )
    futures = [(name, executor.submit(look, of(name))) for _ in range(4) for name in names]
    plain = [executor.submit(abs, {}, -number) for number in range(10)]
    for name, future in futures:
        assert future.result(120)[0] == name
    assert [future.result(60) for future in plain] == list(range(10))


def no_model():  # type: ignore[no-untyped-def]
    raise ValueError("no model")


@pytest.mark.parametrize("scope", ["library", "slot"])
def test_context_that_fails_fails_only_the_calls_of_its_library(make_executor: Make, scope: str) -> None:
    libraries: dict[str, dict[str, Any]] = {
        "bad": {"context": no_model, "context_scope": scope, "gpus": 1},
        "good": {"context": named, "context_args": ["good"], "gpus": 1},
    }
    executor = make_executor(gpus=1, libraries=libraries)
    futures = [executor.submit(look, specification) for _ in range(3) for specification in (of("bad"), of("good"), {})]
    for number, future in enumerate(futures):
        if number % 3 == 0:
            error = future.exception(60)
            assert isinstance(error, ContextFailed)
            assert "the context of the library 'bad' cannot be built: ValueError: no model" in str(error)
        else:
            assert future.result(60)[0] == ("good" if number % 3 == 1 else None)


def test_library_starts_again_on_another_node(make_executor: Make) -> None:
    executor = make_executor(
        worker_launch_method="factory",
        min_workers=1,
        max_workers=1,
        max_retries=3,
        libraries={"one": {"context": named, "context_args": ["first"], "gpus": 1}},
        gpus=1,
    )

    before = executor.submit(look, of("one")).result(60)
    node = first_node(executor)
    os.kill(node["pid"], 9)
    after = executor.submit(look, of("one")).result(60)
    assert (before[0], after[0]) == ("first", "first")
    assert before[1] != after[1]
    assert [each["name"] for each in executor.nodes] != [node["name"]]


def test_library_larger_than_every_node_fails_only_its_calls(make_executor: Make) -> None:
    executor = make_executor(libraries={"large": {"memory": 1e9}})
    error = executor.submit(abs, of("large"), 1).exception(30)
    assert isinstance(error, ResourcesUnsatisfiable)
    assert executor.submit(abs, {}, -1).result(30) == 1


def test_modules_of_a_library_are_imported_in_it_alone(make_executor: Make) -> None:
    def has(name):  # type: ignore[no-untyped-def]

        return name in sys.modules

    executor = make_executor(libraries={"colours": {"import_modules": ["colorsys"]}})
    assert executor.submit(has, of("colours"), "colorsys").result(30)
    assert not executor.submit(has, {}, "colorsys").result(30)
