"""Nodes that drain."""

from __future__ import annotations

from taskvine_manager.scheduling.events import Release, Returned
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    fetches,
    only,
    ran,
    runs,
    sources,
)


def test_draining_node_finishes_its_tasks_and_is_released() -> None:
    world = World()
    world.join("a")
    world.call()
    assert not world.drain("a")
    assert not world.call()
    assert only(Release, world.done(0)) == [Release("a")]
    assert not world.drain("a")
    world.leave("a")
    assert ran(world.join("b")) == [1]


def test_idle_node_is_released_at_once() -> None:
    world = World()
    world.join("a")
    assert world.drain("a") == [Release("a")]


def test_only_copies_are_saved_first() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    assert fetches(world.drain("a")) == [("b", "file", "a")]
    assert world.cached("b", "file") == [Release("a")]
    assert not world.leave("a")
    assert runs(world.call(needs=["file"])) == {"b": [1]}


def test_files_made_while_draining_are_saved() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.join("b")
    assert not world.drain("a")
    assert fetches(world.done(0, made=[("file", 1)])) == [("b", "file", "a")]
    assert world.cached("b", "file") == [Release("a")]


def test_replicated_files_need_no_copy() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    assert world.drain("a") == [Release("a")]


def test_copy_on_a_draining_node_saves_nothing() -> None:
    world = World()
    world.replicate(2)
    world.join("a", cores=1)
    world.make("file")
    world.join("b", cores=1)
    world.cached("b", "file")
    world.call(count=2)
    assert not world.drain("a")
    assert not world.drain("b")
    world.replicate(1)
    assert fetches(world.join("c")) == [("c", "file", "a")]
    assert only(Release, world.done(next(iter(world.core.nodes["a"].assigned)))) == []
    assert world.cached("c", "file") == [Release("a")]


def test_file_is_lost_without_another_node() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert world.drain("a") == [Release("a")]


def test_file_is_lost_if_no_node_can_take_it() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    world.drain("a")
    assert world.cached("b", "file", "No space left on device") == [Release("a")]


def test_another_node_saves_the_file_if_the_first_leaves() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    world.join("c")
    ((first, *_),) = fetches(world.drain("a"))
    ((second, *_),) = fetches(world.leave(first))
    assert second != first
    assert world.leave(second) == [Release("a")]


def test_source_of_a_transfer_is_not_released() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.join("b", cores=1)
    assert sources(world.call(needs=["file"])) == {"file": "a"}
    world.drain("a")
    assert not only(Release, world.done(1))
    assert only(Release, world.cached("b", "file")) == [Release("a")]


def test_node_that_gives_back_all_tasks_is_released() -> None:
    world = World()
    world.join("a")
    world.call(count=3)
    assert not world.drain("a")
    assert world.handle(Returned("a", (0, 1))) == [Release("a")]
    assert world.core.ready == 3
