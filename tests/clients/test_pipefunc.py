"""Pipelines of pipefunc on a ParslPoolExecutor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import parsl
import pytest
from parsl.concurrent import ParslPoolExecutor

from taskvine_exec import local_config

pipefunc = pytest.importorskip("pipefunc")


@pytest.fixture
def pool(run_dir: str, engine: str) -> Iterator[ParslPoolExecutor]:
    """A pool of Parsl's on one node."""
    config = local_config(engine=engine, cores=2, run_dir=run_dir)
    with parsl.load(config) as kernel, ParslPoolExecutor(dfk=kernel) as pool:
        yield pool


def pipeline() -> object:
    @pipefunc.pipefunc(output_name="square", mapspec="x[i] -> square[i]")
    def square(x: int) -> int:
        return x * x

    @pipefunc.pipefunc(output_name="total")
    def total(square: object) -> int:
        return int(sum(square))  # type: ignore[call-overload]

    return pipefunc.Pipeline([square, total])


def test_a_pipeline(pool: ParslPoolExecutor) -> None:
    with warnings.catch_warnings(record=True) as said:
        results = pipeline().map({"x": list(range(10))}, executor=pool, chunksizes=1)  # type: ignore[attr-defined]
    assert [each for each in said if "chunksize" in str(each.message)] == []
    assert results["total"].output == sum(x * x for x in range(10))
    assert [int(each) for each in results["square"].output] == [x * x for x in range(10)]


def test_it_cannot_ask_the_pool_for_its_cores(pool: ParslPoolExecutor) -> None:
    """The page says so: this fails once it is not true any more."""
    with pytest.warns(UserWarning, match="Automatic chunksize calculation failed"):
        results = pipeline().map({"x": list(range(4))}, executor=pool)  # type: ignore[attr-defined]
    assert results["total"].output == 14
