"""The benchmark suite runs: small sizes, few contenders."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from benchmarks import apart, hooks, noop_apps
from benchmarks.suite import processes
from benchmarks.suite.__main__ import main
from benchmarks.suite.cases import CASES
from taskvine_exec.parsl_hooks.switches import HOOKS, VARIABLE

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_run_writes_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "a", dataclasses.replace(CASES["a"], quick=(20, 40)))
    monkeypatch.setitem(CASES, "i.dfk", dataclasses.replace(CASES["i.dfk"], quick=(100,)))
    words = ["--quick", "--cases", "a,i.dfk", "--contenders", "null,ours", "--output", str(tmp_path / "out")]
    assert main([*words, "--no-figures"]) == 0  # matplotlib keeps its fonts open
    read = json.loads((tmp_path / "out" / "results.json").read_text())
    rates = {(each["point"], each["contender"]): each for each in read["measured"] if each["case"] == "a"}
    assert rates.keys() == {(point, who) for point in (20, 40) for who in ("null", "ours")}
    ours, ceiling = rates[20, "ours"]["values"], rates[20, "null"]["values"]
    assert rates[20, "null"]["advantage"]["median"] == pytest.approx(ours[0] / ceiling[0])
    used = {
        each["metric"]: each["median"]
        for each in read["measured"]
        if each["contender"] == "ours" and each["case"] == "i.dfk"
    }
    assert {processes.MAIN, processes.LAUNCHING, processes.RESULTS, "manager", "node", "slots"} <= used.keys()
    assert used["slots"] > 0
    assert used["all"] == pytest.approx(sum(used.values()) - used["all"])
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".md"}


def test_failures_are_reported_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, "g.chain", dataclasses.replace(CASES["g.chain"], quick=(0,)))  # no such chain exists
    words = ["--quick", "--cases", "d,g.chain", "--contenders", "threads", "--output", str(tmp_path), "--no-figures"]
    assert main(words) == 1
    assert "g.chain threads [0] failed" in capsys.readouterr().out
    read = json.loads((tmp_path / "results.json").read_text())
    assert {each["case"] for each in read["measured"]} == {"d"}


def test_endless_measurement_is_killed_with_its_children() -> None:
    with pytest.raises(apart.MeasurementFailed, match=r"did not end within 0\.5 s"):
        apart.measure("http.server", "0", timeout=0.5, quiet=True)


def test_memory_of_every_process_is_measured() -> None:
    sizes = ("--functions", 5, "--size", 100_000, "--apps", 20)
    tables = apart.measure("benchmarks.memory", "--inner", "--engine", "embedded", *sizes, timeout=100, quiet=True)
    assert len(tables["functions"]) == 3
    assert len(tables["apps"]) == 11
    for table in (*tables["functions"], *tables["apps"]):
        assert {"user", "manager", "node", "library", "slots"} <= table.keys()
        assert all(table.values())


@pytest.mark.parametrize("work", sorted(set(hooks.WORK.values())))
def test_each_workload_of_the_hooks_is_measured(work: str) -> None:
    figures = apart.measure("benchmarks.hooks", "--inner", work, "--apps", 20, timeout=100, quiet=True)
    assert figures.keys() == hooks.FIGURES.keys()
    assert figures["cpu"] > 0


def test_the_measured_hooks_exist() -> None:
    assert hooks.WORK.keys() <= {hook.name for hook in HOOKS}


def test_noop_apps_are_measured_beside_parsl_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    words = ["noop_apps", "--apps", "20", "--rounds", "1", "--contenders", "null,ours,off"]
    monkeypatch.setattr(sys, "argv", words)
    assert noop_apps.main() == 0
    shown = capsys.readouterr().out
    for title in ("finished futures", "TaskVineExecutor, hooks off", "ours by finished futures", "20 apps by 20"):
        assert title in shown
