"""The state of a run at a moment, from records with and without details."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest

from taskvine_exec.insight.fold import Fold, read_state
from taskvine_manager.record import VERSION, events
from taskvine_manager.record.events import encoded
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import FileUse, NodeInfo, Profile

PROFILE = Profile(0, "key", "f", "L2", None, None, None, None, 0.0, "f")
INFO = NodeInfo("n1", 2.0, 100.0, 100.0, 0, None, "0", 77, "/nodes/n1")
FILE = FileUse("temp", "x", "x@t0")
VALUE = FileUse("value", "", "v1")
NODE = events.NodeStarted(*INFO)


def written(path: Path, *entries: tuple[Any, ...]) -> Path:
    path.write_bytes(b"".join(map(msgpack.packb, entries)))
    return path


def happened(time: float, *these: events.Event) -> tuple[Any, ...]:
    return ("events", time, encoded(these))


def submitted(time: float, number: int, inputs: Any = (), outputs: Any = ()) -> tuple[Any, ...]:
    return ("submitted", time, [(number, 0, 5, inputs, outputs)])


def done(time: float, number: int, outcome: int = failure.RETURNED, made: Any = ()) -> tuple[Any, ...]:
    return ("done", time, [(number, outcome, "n1", time - 2.0, time - 1.0, 1.0, 7, made, "")])


RUN = ("run", VERSION, 1.0, {"engine": "embedded", "details": True})
OLD = ("run", VERSION, 1.0, {"engine": "embedded"})


def test_every_type_of_event_is_folded() -> None:
    assert set(Fold().handlers) == set(events.TYPES.values())


def test_record_without_details_tells_tasks_and_nodes(tmp_path: Path) -> None:
    path = written(
        tmp_path / "record",
        OLD,
        ("nodes", 2.0, [INFO._asdict()]),
        ("profiles", [PROFILE]),
        submitted(3.0, 0, (), [FILE]),
        submitted(3.0, 1, [FILE], [VALUE]),
        submitted(3.0, 2, [FILE, VALUE]),
        done(5.0, 0, made=[("x@t0", 10)]),
        ("again", 6.0, [1], "node n1 left: its connection ended"),
        ("nodes", 7.0, []),
    )
    state = read_state(path)
    assert not state.has_details
    assert (state.started, state.now, state.ended) == (1.0, 7.0, None)
    assert [task.state for task in state.tasks.values()] == ["done", "waiting", "waiting"]
    assert state.tasks[1].again == [(6.0, "node n1 left: its connection ended", "")]
    assert state.nodes["n1"].left == 7.0
    assert state.files["x@t0"].lost_with == "n1"
    before = read_state(path, until=5.5)
    assert [task.state for task in before.tasks.values()] == ["done", "ready", "waiting"]
    assert before.tasks[2].missing == {"v1"}
    assert before.files["x@t0"].holders == {"n1": 10}


def test_life_of_a_lost_file(tmp_path: Path) -> None:
    path = written(
        tmp_path / "record",
        RUN,
        ("profiles", [PROFILE]),
        happened(2.0, NODE),
        submitted(3.0, 0, (), [FILE]),
        happened(3.0, events.Placed("n1", [0], "spread")),
        done(4.0, 0),
        happened(4.0, events.Made("x@t0", "n1", 10)),
        submitted(5.0, 1, [FILE]),
        happened(6.0, events.NodeEnded("n1", "its connection ended", False), events.Lost("x@t0", "n1")),
        happened(6.0, events.Recovery(-1, 0, [("x@t0", "n1")])),
        happened(7.0, events.NodeExited(77, -9)),
        happened(8.0, NODE._replace(node="n2", pid=78), events.Placed("n2", [-1], "spread")),
        happened(9.0, events.Made("x@t0", "n2", 10), events.RecoveryEnded(-1)),
        happened(9.0, events.Placed("n2", [1], "inputs", 10, 0)),
    )
    assert read_state(path, until=3.5).tasks[0].node == "n1"
    assert read_state(path, until=5.5).tasks[1].state == "ready"
    lost = read_state(path, until=7.5)
    assert (lost.tasks[1].state, lost.tasks[1].missing) == ("waiting", {"x@t0"})
    assert (lost.files["x@t0"].lost_with, lost.files["x@t0"].makers) == ("n1", [0, -1])
    assert (lost.nodes["n1"].status, lost.nodes["n1"].reason) == (-9, "its connection ended")
    assert lost.tasks[-1].origin == 0
    end = read_state(path)
    assert (end.tasks[-1].state, end.tasks[1].node) == ("done", "n2")
    assert end.tasks[1].placement == events.Placed("n2", (1,), "inputs", 10, 0)
    assert end.nodes["n2"].files == {"x@t0": 10}


def test_processes_and_blocks(tmp_path: Path) -> None:
    died = events.Process("n1", "slot", "3", "ended", -11, "")
    path = written(
        tmp_path / "record",
        RUN,
        happened(2.0, NODE, events.Process("n1", "library", "", "started")),
        happened(3.0, events.Process("n1", "library", "", "ready"), events.Process("n1", "slot", "3", "started")),
        happened(4.0, died),
        happened(5.0, events.Block("0", "72", "PENDING", "Slurm says PENDING, reason Resources")),
        ("end", 6.0),
    )
    state = read_state(path)
    assert state.nodes["n1"].processes == {("library", ""): events.Process("n1", "library", "", "ready")}
    assert state.nodes["n1"].ends == [(4.0, died)]
    assert state.blocks["0"] == (5.0, events.Block("0", "72", "PENDING", "Slurm says PENDING, reason Resources"))
    assert state.ended == 6.0


@pytest.mark.parametrize("entry", [("events", 2.0, [("made", "file")]), ("events", 2.0, 5), ("done", 2.0, [()])])
def test_damaged_entry_is_a_value_error(tmp_path: Path, entry: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="damaged in entry 1"):
        read_state(written(tmp_path / "record", RUN, entry))
