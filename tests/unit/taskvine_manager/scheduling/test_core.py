"""The core: the events that it handles, and its queries."""

from __future__ import annotations

import pytest

from taskvine_manager.scheduling import core, events
from taskvine_manager.scheduling.events import Full
from taskvine_manager.scheduling.tables import Settings
from tests.unit.taskvine_manager.scheduling.world import (
    World,
)


def test_every_event_has_a_handler() -> None:
    told = {each for each in vars(events).values() if isinstance(each, type) and issubclass(each, events.Event)}
    assert set(core.Scheduler(Settings()).handlers) == told - {events.Event, events.NodeEvent}


def test_an_unknown_event_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"no events of type Full: Full\(node='a', numbers=\[\]\)"):
        core.Scheduler(Settings()).handle(Full("a", []))  # type: ignore[arg-type]


# --- what may be asked ------------------------------------------------------------------------------------------------


def test_a_file_is_read_from_a_node_that_stays() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.cached("b", "file")
    assert world.where("file") == "a"
    world.drain("a")
    assert world.where("file") == "b"
    assert world.where("other") is None


def test_stats_count() -> None:
    world = World()
    world.join("a", cores=1)
    world.call(count=2)
    world.call(needs=["file"])
    world.done(0)
    assert world.core.stats() == {
        "tasks_done": 1,
        "tasks_pending": 2,
        "tasks_waiting": 1,
        "tasks_recovered": 0,
        "tasks_retried": 0,
        "tasks_returned": 0,
        "nodes": 1,
        "libraries": {},
        "bytes_between_nodes": 0,
        "inputs_read": 0,
        "bytes_stored": 0,
        "bytes_stored_at_most": 0,
        "files_evicted": 0,
        "replicas": {},
    }
