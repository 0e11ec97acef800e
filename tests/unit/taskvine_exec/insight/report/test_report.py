"""Whole reports: what is on the page, what it may load, and how large it is."""

from __future__ import annotations

import builtins
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgpack
import pytest

from taskvine_exec.insight import report
from taskvine_exec.insight.report.analysis import Analysis
from taskvine_exec.insight.report.sections import sections
from taskvine_manager.record import VERSION, events
from taskvine_manager.record.events import encoded
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import FileUse, NodeInfo, Profile
from tests.unit.taskvine_exec.insight import synthetic

HOSTILE = "<script>alert('x')</script></script><!--\u2028\udc80"
SECTIONS = [
    *("summary", "running", "timeline", "categories", "slowest", "path", "graph"),
    *("transfers", "storage", "losses", "failures", "nodes", "configuration"),
]


class Parsed(HTMLParser):
    """The ids, texts, scripts and loaded addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.loaded: list[str] = []
        self._attributes: dict[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "section":
            self.sections.append(given["id"] or "")
        self._attributes = given if tag == "script" else None
        self.loaded += [given[name] or "" for name in ("src", "data") if name in given]
        if tag == "link":
            self.loaded.append(given["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._attributes = None

    def handle_data(self, data: str) -> None:
        if self._attributes is not None:
            self.scripts.append((self._attributes, data))
        else:
            self.texts.append(data)

    @property
    def figures(self) -> list[dict[str, Any]]:
        """The charts' data."""
        return [json.loads(data) for given, data in self.scripts if given.get("type") == "application/json"]

    @property
    def text(self) -> str:
        """All that a reader can see, without charts."""
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Parsed]:
    """Makes the page of a record, with a short script in place of plotly.js."""
    monkeypatch.setattr(report, "_plotly", lambda: "const Plotly = {};")
    return lambda path: Parsed(report.render(path))


def written(path: Path, *entries: tuple[Any, ...]) -> Path:
    path.write_bytes(b"".join(msgpack.packb(entry, unicode_errors="surrogateescape") for entry in entries))
    return path


def hostile_run(details: bool = True) -> Iterator[tuple[Any, ...]]:
    """A run in which every name is HTML; one task raised, one was lost with its node, one is on a node."""
    profile = Profile(0, "key", HOSTILE, "L2", None, None, None, None, 0.0, HOSTILE)
    value = FileUse("value", "", HOSTILE)
    info = NodeInfo(HOSTILE, 2.0, 100.0, 100.0, 0, 2, HOSTILE, 77, "/n")
    yield ("run", VERSION, 1.0, {"engine": HOSTILE, "details": details, "tune_parameters": {HOSTILE: 1}})
    yield ("profiles", [profile])
    yield ("nodes", 2.0, [info._asdict()])
    if details:
        block = events.Block(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1)
        yield ("events", 2.0, encoded([events.NodeStarted(*info), block]))
    yield ("submitted", 2.0, [(0, 0, 5, [], [value]), (1, 0, 5, [value], []), (2, 0, 5, [], []), (3, 0, 5, [], [])])
    if details:
        yield ("events", 2.0, encoded([events.Placed(HOSTILE, [0, 2, 3], "spread")]))
    yield ("done", 4.0, [(0, failure.RETURNED, HOSTILE, 2.0, 3.0, 1.0, 5, (), "")])
    if details:
        copy = events.TransferStarted(HOSTILE, HOSTILE, HOSTILE, True)
        yield ("events", 4.0, encoded([events.Made(HOSTILE, HOSTILE, 5), copy]))
        yield ("events", 5.0, encoded([events.TransferEnded(HOSTILE, HOSTILE, 5, 1.0)]))
    yield ("done", 6.0, [(1, failure.RAISED, HOSTILE, 4.0, 5.0, 1.0, 5, (), "")])
    if details:
        yield ("events", 6.0, encoded([events.Failure(1, HOSTILE, HOSTILE)]))
        yield ("events", 7.0, encoded([events.NodeEnded(HOSTILE, HOSTILE, False), events.Lost(HOSTILE, HOSTILE)]))
    yield ("done", 7.0, [(2, failure.LOST, HOSTILE, 0.0, 0.0, 0.0, 5, (), "node-lost")])
    yield ("tuned", 8.0, {HOSTILE: HOSTILE})


@pytest.mark.parametrize("details", [True, False])
def test_names_are_only_names(tmp_path: Path, page: Callable[[Path], Parsed], details: bool) -> None:
    found = page(written(tmp_path / "record.msgpack", *hostile_run(details)))
    assert found.sections == SECTIONS
    executable = [given for given, _ in found.scripts if given.get("type") != "application/json"]
    assert len(executable) == 2
    assert "alert" not in "".join(data for given, data in found.scripts if given in executable)
    assert "<script>alert" in found.text
    assert found.figures
    for text in re.findall(r"<[^>]*>", json.dumps([each["data"] for each in found.figures])):
        assert text in ("<br>", "<extra>", "</extra>")


def test_page_loads_nothing(tmp_path: Path, page: Callable[[Path], Parsed]) -> None:
    found = page(written(tmp_path / "record.msgpack", *hostile_run()))
    assert found.loaded == []
    text = report.render(tmp_path / "record.msgpack")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    (word,) = set(re.findall(r'<script nonce="([^"]*)"', text))
    assert f"script-src 'nonce-{word}'" in policy[1]
    assert report.render(tmp_path / "record.msgpack").count(word) == 0


def test_numbers_of_a_run(tmp_path: Path, page: Callable[[Path], Parsed]) -> None:
    text = page(written(tmp_path / "record.msgpack", *hostile_run())).text
    assert "7 s duration" in text
    assert "4 tasks" in text
    assert "2 failed" in text
    assert "1 not finished" in text
    assert "1 nodes lost" in text
    assert "Its record has no end" in text
    assert "Losses cost at most 5 s of run time, which is 250 % of the run time of all tasks." in text
    assert "The longest chain of dependent tasks has 2 tasks, which ran for 2 s in all" in text


def test_record_without_details_says_so(tmp_path: Path, page: Callable[[Path], Parsed]) -> None:
    text = page(written(tmp_path / "record.msgpack", *hostile_run(details=False))).text
    assert "This record has no details" in text
    assert "No transfers were recorded." in text
    assert "– nodes lost" in text  # it does not say whether a node was told to leave


def test_taskvine_does_not_say_what_it_runs_again(tmp_path: Path, page: Callable[[Path], Parsed]) -> None:
    info = NodeInfo("n1", 2.0, 100.0, 100.0, 0, 2, "0", 77, "/n")
    path = written(
        tmp_path / "record.msgpack",
        ("run", VERSION, 1.0, {"engine": "taskvine", "details": True}),
        ("events", 2.0, encoded([events.NodeStarted(*info)])),
        ("events", 3.0, encoded([events.NodeEnded("n1", "gone", False), events.Recoveries(6)])),
    )
    text = page(path).text
    assert "TaskVine ran 6 tasks again for lost files. It does not say which, or how long they ran." in text
    assert "TaskVine copies files by itself." in text
    assert "– bytes transferred" in text


def test_run_without_tasks(tmp_path: Path, page: Callable[[Path], Parsed]) -> None:
    found = page(written(tmp_path / "record.msgpack", ("run", VERSION, 1.0, {"engine": "embedded", "details": True})))
    assert found.sections == SECTIONS
    assert found.figures == []
    assert "No task was submitted." in found.text


def test_killed_manager_leaves_a_report(tmp_path: Path, page: Callable[[Path], Parsed]) -> None:
    whole = b"".join(map(msgpack.packb, synthetic.run(500, 3, 2)))
    (tmp_path / "record.msgpack").write_bytes(whole[: len(whole) // 2])
    text = page(tmp_path / "record.msgpack").text
    assert "Its record has no end" in text


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of more tasks, slots, nodes and dependencies than are shown one by one."""
    return synthetic.write(tmp_path_factory.mktemp("large") / "record.msgpack", 12_000, 300, 4)


def test_page_does_not_grow_with_the_run(large: Path, page: Callable[[Path], Parsed]) -> None:
    report.render(large)
    assert len(report.render(large)) < 2_000_000


def test_parts_that_are_left_out_are_named(large: Path, page: Callable[[Path], Parsed]) -> None:
    text = page(large).text
    assert "There are too many tasks to show each" in text
    assert "Each row is one node, or several." in text
    assert "Only the 50 widest arrows are drawn." in text
    assert "The table has the first 200 of 300 rows." in text
    assert "<lambda>" in text


def test_charts_are_valid_for_plotly(large: Path, tmp_path: Path) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    small = synthetic.write(tmp_path / "record.msgpack", 300, 3, 2)
    hostile = written(tmp_path / "hostile.msgpack", *hostile_run())
    for path in (large, small, hostile):
        parsed = Parsed("".join(section.html() for section in sections(Analysis.of(path))))
        assert len(parsed.figures) == 6
        for figure in parsed.figures:
            graph_objects.Figure(figure)  # raises for unknown properties and values


def test_plotly_is_inside(tmp_path: Path) -> None:
    offline = pytest.importorskip("plotly.offline")
    record = synthetic.write(tmp_path / "record.msgpack", 30, 2, 2)
    report.write(record, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert offline.get_plotlyjs() in text
    assert len(text) < 15_000_000


def test_missing_plotly_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("plotly"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"taskvine-exec\[report\]"):
        report.write(tmp_path, tmp_path / "report.html")


def test_failed_report_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_plotly", lambda: "")
    (tmp_path / "record.msgpack").write_bytes(b"\x00")
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ValueError, match="not the record of a run"):
        report.write(tmp_path, tmp_path / "report.html")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["record.msgpack", "report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_full_disk_leaves_no_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_plotly", lambda: "")
    synthetic.write(tmp_path / "record.msgpack", 5, 1, 1)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        report.write(tmp_path, tmp_path / "report.html")
    assert [each.name for each in tmp_path.iterdir()] == ["record.msgpack"]


def test_run_directory_with_one_record(tmp_path: Path) -> None:
    log = tmp_path / "000" / "data"
    log.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="neither a record nor a directory"):
        report.find_record(tmp_path / "000")
    record = synthetic.write(log / "record.msgpack", 1, 1, 1)
    assert report.find_record(tmp_path / "000") == report.find_record(log) == report.find_record(record) == record
    (tmp_path / "000" / "more").mkdir()
    synthetic.write(tmp_path / "000" / "more" / "record.msgpack", 1, 1, 1)
    with pytest.raises(FileNotFoundError, match="several records; name one"):
        report.find_record(tmp_path / "000")


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(report, "_plotly", lambda: "")
    record = synthetic.write(tmp_path / "record.msgpack", 5, 1, 1)
    output = tmp_path / "out.html"
    for run, status in ((str(record), 0), (str(tmp_path / "nothing"), 1)):
        monkeypatch.setattr(sys, "argv", ["report", run, "-o", str(output)])
        with pytest.raises(SystemExit) as end:
            runpy.run_module("taskvine_exec.insight.report", run_name="__main__", alter_sys=True)
        assert end.value.code == status
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert "neither a record nor a directory" in capsys.readouterr().err
