"""The benchmark suite runs: small sizes, few contenders."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import apart, argument, dask_graphs, hooks, latency, noop_apps, stored
from benchmarks.metg import __main__ as metg
from benchmarks.metg.measure import Inputs, timed
from benchmarks.metg.patterns import Graph
from benchmarks.suite import processes
from benchmarks.suite.__main__ import main
from benchmarks.suite.cases import CASES
from benchmarks.suite.contenders import CONTENDERS, Setting
from taskvine_exec.parsl_hooks.switches import HOOKS, VARIABLE
from tests.engines import ENGINES

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


@pytest.mark.parametrize("engine", ENGINES)
def test_latency_is_measured_step_by_step(
    engine: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["latency", "--calls", "6", "--rounds", "2", "--contenders", engine])
    assert latency.main() == 0
    shown = capsys.readouterr().out
    ends = [int(shown.split(step)[1].split()[0]) for step in latency.STEPS]
    assert ends[0] > 0
    assert ends[-1] == max(ends)
    assert latency.TITLES[engine] in shown


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


def test_smallest_tasks_are_found(tmp_path: Path) -> None:
    words = ["--patterns", "tree", "--contenders", "threads", "--steps", "3", "--width", "4", "--target", "0.02"]
    assert metg.main([*words, "--quick", "--output", str(tmp_path)]) == 0
    read = json.loads((tmp_path / "metg.json").read_text())
    assert [(each["contender"], each["pattern"], each["tasks"]) for each in read["samples"]] == [("threads", "tree", 7)]
    (median,) = read["medians"]
    assert median["median"] == pytest.approx(read["samples"][0]["metg"] * 1e6)


@pytest.mark.parametrize("name", ["threads", "ours-dag"])
def test_a_graph_gives_the_right_results(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with CONTENDERS[name].open(Setting(cores=2)) as session:
        assert timed(session, Inputs.of(Graph("fft", 4, 4)), 10, 1000) > 0


def test_parsl_perf_runs_with_the_configuration() -> None:
    found = apart.measure(
        "benchmarks.parsl_perf", "--inner", "taskvine.py", "--iterate", "5,20", timeout=100, quiet=True
    )
    assert [count for count, _ in found] == [5, 20]


# HighThroughputExecutor alone would take seconds to start.
@pytest.mark.parametrize(("name", "way"), [("ours", "context"), ("threads", "loads"), ("threads", "global")])
def test_inferences_are_counted(name: str, way: str) -> None:
    words = ("--seconds", 0.01, "--tasks", 3, "--inner", name, way)
    found = apart.measure("benchmarks.inference", *words, timeout=100, quiet=True)
    assert found["tasks"] == 3
    assert found["rate"] > 0


def test_a_large_argument_is_measured_and_its_changes_are_seen(tmp_path: Path) -> None:
    words = ["--megabytes", "2", "--calls", "3", "--contenders", "ours", "--repeat", "1"]
    assert argument.main([*words, "--json", str(tmp_path / "argument.json")]) == 0
    (found,) = json.loads((tmp_path / "argument.json").read_text())["rounds"]["ours"]
    assert found["changed"] == 3
    assert found["calls"] == 3


def test_a_process_that_stores_too_much_is_ended(tmp_path: Path) -> None:
    program = f"""
from benchmarks.stored import Watch
with Watch([{str(tmp_path)!r}], 1_000_000):
    open({str(tmp_path / "large")!r}, "wb").write(bytes(2_000_000))
raise AssertionError("it goes on")
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=apart.ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (stored.LIMIT_STATUS, "more than 1 MB were stored on the node\n")


def test_files_with_two_names_count_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 100_000)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert stored.size_of([str(tmp_path), str(tmp_path)]) == (tmp_path / "one").stat().st_blocks * 512


def test_dask_graphs_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("dask.array")
    words = ["--megabytes", "1", "--cases", "tree,stencil", "--contenders", "ours,threads", "--repeat", "1"]
    assert dask_graphs.main([*words, "--json", str(tmp_path / "dask.json")]) == 0
    found = json.loads((tmp_path / "dask.json").read_text())["rounds"]
    digests = {name: [each["digest"] for each in rounds[0]["cases"].values()] for name, rounds in found.items()}
    assert digests["ours"] == pytest.approx(digests["threads"])
    assert digests["ours"][0] == 1024 * 1025 / 2
