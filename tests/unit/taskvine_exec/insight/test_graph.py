"""The graph of a run: its nodes and edges, and files that other programs can read."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import networkx
import pytest
from hypothesis import given

from taskvine_exec.insight import graph as graph_module
from taskvine_manager.record import Done, Record, Submitted
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import FileUse, Profile

PROFILE = Profile(0, "key", "f", "L2", None, None, None, None, 0.0, "category")


def submitted(number: int, inputs: tuple[FileUse, ...] = (), outputs: tuple[FileUse, ...] = ()) -> Submitted:
    return Submitted(number, 0, 10, inputs, outputs, 1.0)


def done(number: int, outcome: int = failure.RETURNED, made: tuple[tuple[str, int], ...] = (), kind: str = "") -> Done:
    return Done(number, outcome, "node", 2.0, 3.0, 0.5, 20, made, kind, 4.0)


def of(*invocations: Submitted, ended: float | None = None, **fields: Any) -> Record:
    known = {each.number: each for each in invocations}
    return Record(started=1.0, profiles={0: PROFILE}, submitted=known, ended=ended, **fields)


def run() -> networkx.DiGraph:
    """Task 0 makes a temp file and a result; 1 reads both; 2 reads the result of 1, which does not exist yet."""
    temp, result, later = (
        FileUse("temp", "a", "a@t0"),
        FileUse("value", "", "result-0"),
        FileUse("value", "", "result-1"),
    )
    local = FileUse("local", "in.txt", "/data/in.txt")
    record = of(
        submitted(0, (local,), (temp, result)),
        submitted(1, (temp, result), (later,)),
        submitted(2, (later,)),
        done={0: done(0, made=(("a@t0", 5), ("result-0", 70)))},
    )
    live = {
        "tasks": [(1, "assigned", "node", 0), (2, "waiting", "", 0)],
        "files": [("a@t0", 5, ["n1", "n2"]), ("result-0", 70, ["manager"])],
    }
    return graph_module.build(record, live)


def test_nodes_and_edges() -> None:
    graph = run()
    assert set(graph.edges) == {
        (0, "a@t0"),
        (0, "result-0"),
        ("a@t0", 1),
        ("result-0", 1),
        (1, "result-1"),
        ("result-1", 2),
    }
    assert graph.nodes[0] == {
        "kind": "task",
        "name": "f",
        "category": "category",
        "mode": "L2",
        "submitted": 1.0,
        "argument_bytes": 10,
        "node": "node",
        "result_bytes": 20,
        "dispatched": 2.0,
        "started": 3.0,
        "seconds": 0.5,
        "state": "done",
        "outcome": "returned",
        "attempts": 1,
    }
    assert (graph.nodes[1]["state"], graph.nodes[2]["state"]) == ("assigned", "waiting")
    assert graph.nodes["a@t0"] == {
        "kind": "temp file",
        "name": "a@t0",
        "size": 5,
        "places": "n1,n2",
        "state": "there",
    }
    assert graph.nodes["result-1"] == {"kind": "result", "name": "result-1", "places": "", "state": "pending"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"done": {0: done(0, failure.RAISED)}}, {"state": "done", "outcome": "raised", "attempts": 1}),
        (
            {"done": {0: done(0, failure.LOST, kind="slot-died")}, "again": {0: 2}},
            {"state": "done", "outcome": "lost", "reason": "slot-died", "attempts": 3},
        ),
        ({"cancelled": {0}}, {"state": "done", "outcome": "cancelled", "attempts": 0}),
        ({"ended": 9.0}, {"state": "done", "outcome": "cancelled", "attempts": 0}),  # the end of the run came first
        ({}, {"state": "unknown", "attempts": 0}),  # the manager was killed
    ],
)
def test_ends_of_tasks(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    graph = graph_module.build(of(submitted(0), **fields), None)
    assert {key: graph.nodes[0].get(key) for key in expected} == expected
    assert ("outcome" in graph.nodes[0]) == ("outcome" in expected)


def test_file_without_replicas_is_gone() -> None:
    record = of(submitted(0, (), (FileUse("temp", "a", "a@t0"),)), done={0: done(0, made=(("a@t0", 5),))})
    graph = graph_module.build(record, {"tasks": [], "files": []})
    assert graph.nodes["a@t0"]["state"] == "gone"
    assert graph.nodes["a@t0"]["size"] == 5


def test_attributes_are_plain() -> None:
    for _, facts in run().nodes.items():
        assert {type(value) for value in facts.values()} <= {str, int, float}


#: A string of the DOT language: only a quotation mark is escaped in it; a backslash stays as it is.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_LINE = re.compile(r"^  (\w+)(?: -> (\w+)| \[(.*)\]);$", re.DOTALL)


def shown(text: str) -> str:
    """Return what a viewer shows for a quoted string: escString's escapes, then entities."""
    plain = re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), text, flags=re.DOTALL)
    return html.unescape(plain)


anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
awkward = st.sampled_from(
    ['a"b', "a\\", '\\"', "\\N", "a\nb", "a\\\\", '"]; t0 -> t0;', "&lt;", "<b>", "}", "//", "é漢"]
)


@given(st.lists(anything | awkward, min_size=1, max_size=5, unique=True))
def test_dot_strings_are_escaped(names: list[str]) -> None:
    outputs = tuple(FileUse("temp", name, name) for name in names)
    graph = graph_module.build(of(submitted(0, (), outputs)), None)
    first, *lines, last = graph_module.dot(graph)
    assert (first, last) == ("digraph run {\n", "}\n")
    labels, edges = {}, set()
    for line in lines:
        found = _LINE.match(line.removesuffix("\n"))
        assert found is not None, line
        name, end, attributes = found.groups()
        if end is not None:
            edges.add((name, end))
            continue
        # Without the strings, no text remains that belongs inside one.
        assert re.fullmatch(r"(\w+=\"\"(, )?)+", _TOKEN.sub('""', attributes)), attributes
        labels[name] = shown(_TOKEN.findall(attributes)[0])
    assert labels.pop("t0") == "f #0"
    assert sorted(labels.values()) == sorted(names)
    assert edges == {("t0", name) for name in labels}


@given(st.lists(st.text(max_size=10) | st.sampled_from(["a\x01", "a\ufffd", "a\udc80", "0"]), max_size=5, unique=True))
def test_graphml_is_read_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    graph = graph_module.build(of(submitted(0, (), tuple(FileUse("temp", n, f"{n}@t") for n in names))), None)
    path = tmp_path_factory.mktemp("graph") / "run.GraphML"
    graph_module.write(graph, path)
    back = networkx.read_graphml(path)
    assert len(back) == len(graph)
    assert networkx.is_isomorphic(back, graph)
    assert back.nodes["0"]["submitted"] == 1.0


def test_a_whole_run_as_graphml(tmp_path: Path) -> None:
    graph = run()
    graph_module.write(graph, tmp_path / "run.graphml")
    back = networkx.read_graphml(tmp_path / "run.graphml")
    assert {str(node): facts for node, facts in graph.nodes.items()} == dict(back.nodes.items())
    assert {(str(start), str(end)) for start, end in graph.edges} == set(back.edges)


@pytest.mark.parametrize("name", ["run.png", "run", "dot", "graphml"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.dot, \.gv, \.graphml"):
        graph_module.write(run(), tmp_path / name)
    assert not list(tmp_path.iterdir())
