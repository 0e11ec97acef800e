"""``report``, ``trace``, ``dot`` and ``graphml``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import networkx
import pytest

from tests.unit.taskvine_exec.insight.stories import Story


@pytest.fixture
def record(tmp_path: Path) -> Path:
    story = Story().node()
    first = story.task(name="first")
    second = story.task(first, name="second")
    story.runs(first).placed(second)
    return story.write(tmp_path / "record.msgpack")


def test_report(run: Any, record: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    assert run("report", str(record)) == ""
    assert "<title>Run " in (tmp_path / "report.html").read_text()


def test_report_without_plotly(run: Any, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert "taskvine-exec[report]" in run("report", str(record), code=1)


def test_trace(run: Any, record: Path, tmp_path: Path) -> None:
    assert run("trace", str(record), "-o", "trace.json") == ""
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert [event["name"] for event in trace["traceEvents"] if event["ph"] == "X"] == ["first", "second"]
    assert json.loads(run("trace", str(record))) == trace


def test_dot(run: Any, record: Path, tmp_path: Path) -> None:
    out = run("dot", str(record))
    assert out.startswith("digraph run {\n")
    assert 'label="first #0"' in out
    assert "t0 -> f1" in out
    assert run("dot", str(record), "-o", "graph.dot") == ""
    assert (tmp_path / "graph.dot").read_text() == out


def test_graphml_of_a_run_that_may_go_on(run: Any, record: Path) -> None:
    graph = networkx.parse_graphml(run("graphml", str(record)))
    assert set(graph.edges) == {("0", "result-0"), ("result-0", "1"), ("1", "result-1")}
    assert (graph.nodes["1"]["state"], graph.nodes["1"]["node"]) == ("assigned", "n1")
    assert (graph.nodes["result-0"]["state"], graph.nodes["result-0"]["places"]) == ("there", "manager")


def test_file_that_cannot_be_written(run: Any, record: Path) -> None:
    assert "No such file or directory" in run("trace", str(record), "-o", "nowhere/trace.json", code=1)
