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


def test_a_draining_node_finishes_takes_nothing_and_is_let_go() -> None:
    world = World()
    world.join("a")
    world.call()
    assert not world.drain("a")
    assert not world.call()
    assert only(Release, world.done(0)) == [Release("a")]
    assert not world.drain("a")
    world.leave("a")
    assert ran(world.join("b")) == [1]


def test_an_idle_node_is_let_go_at_once() -> None:
    world = World()
    world.join("a")
    assert world.drain("a") == [Release("a")]


def test_what_only_a_draining_node_has_is_copied_first() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    assert fetches(world.drain("a")) == [("b", "file", "a")]
    assert world.cached("b", "file") == [Release("a")]
    assert not world.leave("a")
    assert runs(world.call(needs=["file"])) == {"b": [1]}


def test_what_is_made_while_draining_is_copied_too() -> None:
    world = World()
    world.join("a")
    world.call(makes=["file"])
    world.join("b")
    assert not world.drain("a")
    assert fetches(world.done(0, made=[("file", 1)])) == [("b", "file", "a")]
    assert world.cached("b", "file") == [Release("a")]


def test_what_another_node_has_needs_no_copy() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    assert world.drain("a") == [Release("a")]


def test_a_copy_on_a_node_that_is_going_too_saves_nothing() -> None:
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


def test_with_nowhere_to_go_a_file_goes_with_its_node() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert world.drain("a") == [Release("a")]


def test_a_file_that_no_other_node_can_take_goes_with_its_node() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    world.drain("a")
    assert world.cached("b", "file", "No space left on device") == [Release("a")]


def test_when_the_rescuer_goes_another_is_found() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.join("b")
    world.join("c")
    ((first, *_),) = fetches(world.drain("a"))
    ((second, *_),) = fetches(world.leave(first))
    assert second != first
    assert world.leave(second) == [Release("a")]


def test_a_node_that_a_task_reads_from_is_not_let_go() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.join("b", cores=1)
    assert sources(world.call(needs=["file"])) == {"file": "a"}
    world.drain("a")
    assert not only(Release, world.done(1))
    assert only(Release, world.cached("b", "file")) == [Release("a")]


def test_a_draining_node_that_gives_everything_back_is_let_go() -> None:
    world = World()
    world.join("a")
    world.call(count=3)
    assert not world.drain("a")
    assert world.handle(Returned("a", (0, 1))) == [Release("a")]
    assert world.core.ready == 3
