"""Calls of named libraries: where they go, and what they leave for others."""

from __future__ import annotations

import pytest

from taskvine_manager.scheduling.events import LibrariesRun
from taskvine_manager.wire.messages import Library
from tests.unit.taskvine_manager.scheduling.world import World, records

MODEL, OTHER = Library("model", 2, None, 1), Library("other", None, 600.0, 1)


def assigned(world: World, node: str = "a") -> list[int]:
    return sorted(world.core.nodes[node].assigned)


def test_library_takes_its_gpus_once() -> None:
    world = World()
    world.join("a", cores=8, gpus=1)
    world.call(3, library=MODEL)
    assert assigned(world) == [0, 1], "it has two slots"
    world.done(0)
    assert assigned(world) == [1, 2]


def test_plain_calls_run_beside_a_library() -> None:
    world = World()
    world.join("a", cores=4, gpus=1)
    world.call(10, library=MODEL)
    world.call(10)
    assert assigned(world) == [0, 1, 10, 11]


@pytest.mark.parametrize("library", [OTHER, None])
def test_others_wait_for_a_librarys_gpu(library: Library | None) -> None:
    world = World()
    world.join("a", cores=8, gpus=1)
    world.call(1, library=MODEL)
    world.call(1, library=library, gpus=None if library else 1)
    assert assigned(world) == [0]
    world.done(0)
    assert assigned(world) == [1]


def test_call_that_waits_for_a_gpu_is_not_starved() -> None:
    world = World()
    world.join("a", cores=8, gpus=1)
    world.call(2, library=MODEL)
    world.call(1, library=OTHER)
    world.call(4, library=MODEL)
    world.done(0)
    assert assigned(world) == [1]
    world.done(1)
    assert assigned(world) == [2]
    world.done(2)
    assert assigned(world) == [3, 4]


def test_libraries_share_a_gpu() -> None:
    world = World()
    world.join("a", cores=8, gpus=1, gpu_memory=(1000.0,))
    world.call(1, library=Library("half", 1, None, 0.5))
    world.call(1, library=Library("memory", 1, None, 0, 500.0))
    world.call(1, gpus=0.25)
    assert assigned(world) == [0, 1]


def test_library_takes_its_memory_once() -> None:
    world = World()
    world.join("a", cores=8, memory=1000.0, gpus=2)
    world.call(3, library=OTHER, memory=300.0)
    assert assigned(world) == [0, 1, 2]
    world.call(1, memory=500.0)
    assert assigned(world) == [0, 1, 2]
    world.call(1, memory=300.0)
    world.done(0, 1, 2)
    assert assigned(world) == [3, 4]


def test_call_of_a_library_takes_one_core_and_no_slot() -> None:
    world = World()
    world.join("a", cores=4, slots=1)
    plain = Library("plain", None, None, 0)
    world.call(6, library=plain)
    assert assigned(world) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("library", "requested"), [(Library("m", 1, None, 2), {"gpus": 2.0}), (Library("m", 1, 2e3, 0), {"memory": 2000.0})]
)
def test_library_that_fits_on_no_node_is_refused(library: Library, requested: dict[str, float]) -> None:
    world = World()
    world.join("a", memory=1000.0, gpus=1)
    record = records(world.call(library=library))[0]
    assert (record["kind"], record["requested"]) == ("unsatisfiable", requested)


def test_calls_go_where_their_library_runs() -> None:
    world = World()
    world.join("a", cores=2, gpus=1)
    world.join("b", cores=8, gpus=1)
    world.handle(LibrariesRun("a", ("model",)))
    world.call(1, library=MODEL)
    assert assigned(world) == [0]
    assert world.core.stats()["libraries"] == {"model": 1}
    world.handle(LibrariesRun("gone", ("model",)))
    world.leave("a")
    assert world.core.stats()["libraries"] == {}
    assert assigned(world, "b") == [0]


def test_task_that_recreates_a_file_runs_in_its_library() -> None:
    world = World(max_retries=3)
    world.join("a", gpus=1)
    world.call(makes=["file"], library=MODEL)
    world.works(0)
    world.leave("a")
    world.join("b", gpus=1)
    world.call(needs=["file"])
    (task,) = world.core.nodes["b"].assigned.values()
    assert task.shape.library == MODEL
