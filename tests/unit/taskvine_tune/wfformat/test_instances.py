"""Instances of all versions of WfFormat become the same tasks, and malformed ones are refused with a reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskvine_tune.errors import BadInstance
from taskvine_tune.wfformat.instances import Instance, Task, read_instance

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an instance to a file and return its path."""

    def write(value: Any) -> Path:
        path = tmp_path / "instance.json"
        path.write_text(json.dumps(value))
        return path

    return write


def newest() -> dict[str, Any]:
    """Return an instance of version 1.5: a task splits a file, another reads a part, a third waits for the second."""
    return {
        "name": "letters",
        "schemaVersion": "1.5",
        "workflow": {
            "specification": {
                "tasks": [
                    {"name": "end", "id": "end_ID3", "parents": ["count_ID2"], "children": []},
                    {
                        "name": "split",
                        "id": "split_ID1",
                        "parents": [],
                        "children": ["count_ID2"],
                        "inputFiles": ["text"],
                        "outputFiles": ["a", "b"],
                    },
                    {"name": "count", "id": "count_ID2", "parents": ["split_ID1"], "children": [], "inputFiles": ["a"]},
                ],
                "files": [
                    {"id": "text", "sizeInBytes": 10},
                    {"id": "a", "sizeInBytes": 6},
                    {"id": "b", "sizeInBytes": 4},
                ],
            },
            "execution": {
                "makespanInSeconds": 9.5,
                "executedAt": "2026-01-01T00:00:00Z",
                "tasks": [
                    {"id": "split_ID1", "runtimeInSeconds": 1},
                    {"id": "count_ID2", "runtimeInSeconds": 2.5, "coreCount": 2},
                    {"id": "end_ID3", "runtimeInSeconds": 0},
                ],
                "machines": [{"nodeName": "one", "cpu": {"coreCount": 4}}, {"nodeName": "two"}],
            },
        },
    }


def oldest(version: str) -> dict[str, Any]:
    """Return the same in an older version: parents are named by name, not by id."""
    new = version == "1.4"
    seconds, size, span = (
        ("runtimeInSeconds", "sizeInBytes", "makespanInSeconds") if new else ("runtime", "size", "makespan")
    )

    def file(name: str, number: int, link: str) -> dict[str, Any]:
        return {"name": name, size: number, "link": link}

    return {
        "name": "letters",
        "schemaVersion": version,
        "workflow": {
            span: 9.5,
            "executedAt": "2026-01-01T00:00:00Z",
            "machines": [{"nodeName": "one", "cpu": {"count": 4}}, {"nodeName": "two"}],
            "jobs" if version == "1.2" else "tasks": [
                {"name": "end_ID3", "id": "ID3", "type": "compute", "parents": ["count_ID2"], "files": [], seconds: 0},
                {
                    "name": "split_ID1",
                    "id": "ID1",
                    "type": "compute",
                    "parents": [],
                    "files": [file("text", 10, "input"), file("a", 6, "output"), file("b", 4, "output")],
                    seconds: 1,
                },
                {
                    "name": "count_ID2",
                    "id": "ID2",
                    "type": "compute",
                    "parents": ["split_ID1"],
                    "files": [file("a", 6, "input")],
                    "cores": 2,
                    seconds: 2.5,
                },
            ],
        },
    }


def test_the_newest_version(write: Write) -> None:
    assert read_instance(write(newest())) == Instance(
        "letters",
        {
            "split_ID1": Task("split_ID1", "split", 1.0, None, (), ("text",), ("a", "b")),
            "count_ID2": Task("count_ID2", "count", 2.5, 2.0, ("split_ID1",), ("a",), ()),
            "end_ID3": Task("end_ID3", "end", 0.0, None, ("count_ID2",), (), ()),
        },
        {"text": 10, "a": 6, "b": 4},
        (4, None),
        9.5,
    )


@pytest.mark.parametrize("version", ["1.2", "1.3", "1.4"])
def test_older_versions_hold_the_same(write: Write, version: str) -> None:
    new, old = read_instance(write(newest())), read_instance(write(oldest(version)))
    assert list(old.tasks) == ["ID1", "ID2", "ID3"]
    assert (old.sizes, old.machines, old.makespan) == (new.sizes, new.machines, new.makespan)
    for task, other in zip(old.tasks.values(), new.tasks.values(), strict=True):
        assert task.name == other.id
        assert (task.seconds, task.cores, task.inputs, task.outputs) == other[2:4] + other[5:]
        assert [f"ID{parent[-1]}" for parent in other.parents] == list(task.parents)


def test_tasks_may_have_no_files_and_a_run_no_machines(write: Write) -> None:
    instance = newest()
    del instance["workflow"]["specification"]["files"], instance["workflow"]["execution"]["machines"]
    for task in instance["workflow"]["specification"]["tasks"]:
        task.pop("inputFiles", None), task.pop("outputFiles", None)
    read = read_instance(write(instance))
    assert (read.sizes, read.machines) == ({}, ())
    assert read.tasks["count_ID2"].parents == ("split_ID1",)


def test_dependencies_that_only_one_side_names(write: Write) -> None:
    """A parent may be known from its list of children alone, or from a file alone."""
    instance = newest()
    end, split, count = instance["workflow"]["specification"]["tasks"]
    end["parents"], count["parents"], split["children"], count["children"] = [], [], [], ["end_ID3"]
    assert read_instance(write(instance)).tasks == read_instance(write(newest())).tasks


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return an instance with another value, or without it, at a place such as ``a.b.3``."""
    instance = copy.deepcopy(newest())
    *places, last = [int(word) if word.isdecimal() else word for word in path.split(".")]
    table: Any = instance
    for place in places:
        table = table[place]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return instance


FIRST = "workflow.specification.tasks"
RUNS = "workflow.execution.tasks"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("schemaVersion", None, "schemaVersion is missing"),
        ("schemaVersion", "2.0", "it has version 2.0 of WfFormat, but only 1.0 to 1.5 can be read"),
        ("schemaVersion", 1.5, "schemaVersion must be a text, not 1.5"),
        ("name", "", 'name must be a text, not ""'),
        ("workflow", [], "workflow must be an object, not []"),
        ("workflow.execution", None, "it has no workflow.execution"),
        (FIRST, None, "it has no tasks"),
        (FIRST, {}, "workflow.specification.tasks must be a list, not {}"),
        (f"{FIRST}.1", 7, "workflow.specification.tasks[1] must be an object, not 7"),
        (f"{FIRST}.1.id", None, "workflow.specification.tasks[1].id is missing"),
        (f"{FIRST}.1.id", "other", "task other is missing in workflow.execution.tasks"),
        (f"{FIRST}.0.id", "count_ID2", "two tasks have the id count_ID2"),
        (f"{FIRST}.0.parents", "a", 'tasks[0].parents must be a list of texts, not "a"'),
        (f"{FIRST}.0.parents", ["nobody"], "task end_ID3 has the parent nobody, which does not exist"),
        (f"{FIRST}.0.children", ["nobody"], "task end_ID3 has the child nobody, which does not exist"),
        (f"{FIRST}.0.children", ["split_ID1"], "its tasks wait for each other: "),
        (f"{FIRST}.0.outputFiles", ["a"], "file a is written by two tasks, end_ID3 and split_ID1"),
        (f"{FIRST}.0.inputFiles", ["c"], "the size of file c of task end_ID3 is missing"),
        ("workflow.specification.files.0.sizeInBytes", -1, "files[0].sizeInBytes must be a number of at least 0"),
        (f"{RUNS}.2.runtimeInSeconds", None, "tasks[2].runtimeInSeconds is missing"),
        (f"{RUNS}.2.runtimeInSeconds", float("nan"), "must be a number of at least 0, not NaN"),
        (f"{RUNS}.2.runtimeInSeconds", 10**400, "must be a number of at least 0, not 1000"),
        (f"{RUNS}.2.runtimeInSeconds", True, "must be a number of at least 0, not true"),
        (f"{RUNS}.2.id", "count_ID2", "two tasks have the id count_ID2"),
        ("workflow.execution.machines.0.cpu.coreCount", "4", 'coreCount must be a number of at least 0, not "4"'),
    ],
)
def test_malformed_instances_are_refused(write: Write, path: str, value: Any, says: str) -> None:
    file = write(changed(path, value))
    with pytest.raises(BadInstance) as refused:
        read_instance(file)
    assert str(refused.value).startswith(f"{file} cannot be read as an instance of WfFormat: ")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is no JSON file: "),
        (b"\xff\xfe", "it is no JSON file: "),
        (b"{", "it is no JSON file: "),
        (b"[" * 100_000, "it is no JSON file: "),
        (b"[]", "its content must be an object, not []"),
    ],
    ids=["empty", "not text", "cut off", "deep", "list"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "instance.json"
    path.write_bytes(content)
    with pytest.raises(BadInstance, match="instance of WfFormat") as refused:
        read_instance(path)
    assert says in str(refused.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInstance, match="No such file or directory"):
        read_instance(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"link": "inout"}, "file text of task split_ID1: link must be input or output, not inout"),
        ({"size": "10"}, 'files[0].size must be a number of at least 0, not "10"'),
    ],
)
def test_malformed_older_instances_are_refused(write: Write, change: dict[str, Any], says: str) -> None:
    instance = oldest("1.3")
    instance["workflow"]["tasks"][1]["files"][0].update(change)
    with pytest.raises(BadInstance) as refused:
        read_instance(write(instance))
    assert says in str(refused.value)


def test_files_of_older_versions_have_their_largest_size(write: Write) -> None:
    instance = oldest("1.3")
    instance["workflow"]["tasks"][2]["files"][0]["size"] = 0
    assert read_instance(write(instance)).sizes["a"] == 6
