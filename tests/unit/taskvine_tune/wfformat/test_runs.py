"""Recorded runs become instances that can be read again, with all dependencies through files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager import VERSION
from taskvine_manager.record import Recorder, read_record
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import Completion, FileUse, Invocation, Profile
from taskvine_tune.errors import BadRecord
from taskvine_tune.simulation import instances
from taskvine_tune.simulation.api import Cluster, recorded, simulate
from taskvine_tune.wfformat.instances import read_instance
from taskvine_tune.wfformat.runs import as_instance

PLAIN = Profile(0, "", "<lambda>", "L2", None, None, None, None, 0.0, "x")
WIDE = Profile(1, "", "bash/tool", "L1", 2.0, None, None, None, 3.0, "x")


def value(name: str) -> FileUse:
    return FileUse("value", "", name)


def temp(name: str) -> FileUse:
    return FileUse("temp", name, name)


def completion(number: int, seconds: float, *made: tuple[str, int, int], outcome: int = failure.RETURNED) -> Completion:
    return Completion(number, outcome, b"12345", "node-1", 100.0, 101.0 + number, seconds, made)


@pytest.fixture
def record(tmp_path: Path) -> str:
    """A run: two tasks make a small result and a temp file, a third reads them, a fourth raises, a fifth has no end."""
    path = str(tmp_path / "record.msgpack")
    recorder = Recorder(path)
    recorder.submitted(
        [PLAIN, WIDE],
        [
            Invocation(0, 0, b"", (), (value("r0"),)),
            Invocation(1, 1, b"", (), (value("r1"), temp("my file"))),
            Invocation(2, 0, b"", (value("r0"), temp("my file")), (value("r2"),)),
            Invocation(3, 0, b"", (value("r2"),), (value("r3"),)),
            Invocation(4, 0, b"", (value("r3"),)),
        ],
    )
    node = {"name": "node-1", "cores": 4.0, "memory": 1000.0, "disk": 1.0, "gpus": 0, "slots": None}
    recorder.note("nodes", [node, {**node, "name": "unused"}])
    recorder.done([completion(0, 1.5), completion(1, 2.0, ("my file", 2000, 7))])
    recorder.done([completion(2, 0.5), completion(3, 9.0, outcome=failure.RAISED)])
    recorder.close()
    return path


def test_tasks_and_files(record: str) -> None:
    written = as_instance(read_record(record), "letters")
    assert (written["name"], written["schemaVersion"]) == ("letters", "1.5")
    assert written["runtimeSystem"] == {"name": "TaskVineExecutor", "version": VERSION}
    first, second, third = written["workflow"]["specification"]["tasks"]
    assert [each["id"] for each in (first, second, third)] == [
        "_lambda__ID0000000",
        "bash_tool_ID0000001",
        "_lambda__ID0000002",
    ]
    assert first["children"] == second["children"] == [third["id"]]
    assert third["parents"] == [first["id"], second["id"]]
    assert second["outputFiles"] == ["r1", "my_file"]
    assert third["inputFiles"] == ["r0", "my_file"]
    sizes = {each["id"]: each["sizeInBytes"] for each in written["workflow"]["specification"]["files"]}
    assert sizes == {"r0": 5, "r1": 5, "my_file": 2000, "r2": 5}


def test_the_execution(record: str) -> None:
    read = read_record(record)
    execution = as_instance(read, "letters")["workflow"]["execution"]
    assert execution["makespanInSeconds"] == read.done[2].time - read.submitted[0].time
    assert execution["tasks"][1] == {
        "id": "bash_tool_ID0000001",
        "runtimeInSeconds": 2.0,
        "executedAt": "1970-01-01T00:01:42+00:00",
        "command": {"program": "bash/tool"},
        "coreCount": 2.0,
        "priority": 3.0,
        "machines": ["node-1"],
    }
    assert "coreCount" not in execution["tasks"][0]
    assert execution["machines"] == [
        {"nodeName": "node-1", "system": "linux", "memoryInBytes": 1000 << 20, "cpu": {"coreCount": 4}}
    ]


def test_an_instance_is_simulated_as_its_record(record: str, tmp_path: Path) -> None:
    read = read_record(record)
    del read.submitted[3], read.submitted[4], read.done[3]
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(as_instance(read, "letters")))
    nodes = Cluster(2, 2)
    again = instances.workload(read_instance(path))
    assert again.measured == recorded(read).measured
    assert simulate(again, nodes).makespan == pytest.approx(
        simulate(recorded(read, paced=False), nodes).makespan, rel=0.01
    )


def written_by(tmp_path: Path, *tasks: tuple[list[FileUse], list[FileUse]]) -> list[dict[str, Any]]:
    """Return the tasks of an instance, from what each has read and written."""
    recorder = Recorder(str(tmp_path / "record.msgpack"))
    calls = [Invocation(number, 0, b"", tuple(reads), tuple(writes)) for number, (reads, writes) in enumerate(tasks)]
    recorder.submitted([PLAIN], calls)
    recorder.done([completion(number, 1.0) for number in range(len(tasks))])
    recorder.close()
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(as_instance(read_record(tmp_path / "record.msgpack"), "x")))
    read_instance(path)  # it is consistent
    structures: list[dict[str, Any]] = json.loads(path.read_text())["workflow"]["specification"]["tasks"]
    return structures


def test_each_write_makes_another_file(tmp_path: Path) -> None:
    """Tasks may append to a log, change a file, or read a file before another task writes it."""
    log = FileUse("local", "out", str(tmp_path / "log"))
    (tmp_path / "log").write_bytes(b"12")
    id = str(tmp_path / "log")
    first, second, third, fourth = written_by(tmp_path, ([log], []), ([], [log]), ([log], [log]), ([log], []))
    assert (first["inputFiles"], first["parents"]) == ([id], [])
    assert (second["outputFiles"], second["parents"]) == ([f"{id}#2"], [])
    assert (third["inputFiles"], third["outputFiles"], third["parents"]) == ([f"{id}#2"], [f"{id}#3"], [second["id"]])
    assert (fourth["inputFiles"], fourth["parents"]) == ([f"{id}#3"], [third["id"]])


def test_names_that_differ_only_in_special_characters(tmp_path: Path) -> None:
    first, second, third = written_by(
        tmp_path, ([], [temp("a b")]), ([], [temp("a\udc80b")]), ([temp("a b"), temp("a\udc80b")], [])
    )
    assert first["outputFiles"] + second["outputFiles"] == third["inputFiles"] == ["a_b", "a_b#2"]
    assert third["parents"] == [first["id"], second["id"]]


def test_a_run_in_which_nothing_returned(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "record.msgpack"))
    recorder.submitted([PLAIN], [Invocation(0, 0, b"")])
    recorder.close()
    with pytest.raises(BadRecord, match="no task has returned"):
        as_instance(read_record(tmp_path / "record.msgpack"), "x")
