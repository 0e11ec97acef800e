"""The arithmetic of the benchmark suite, on known samples; and its tables, which refer to each other by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.suite import report
from benchmarks.suite.__main__ import main
from benchmarks.suite.cases import CASES
from benchmarks.suite.contenders import CONTENDERS, Contender
from benchmarks.suite.results import IN_TURN, Key, Results, Summary
from benchmarks.suite.targets import TARGETS, verdicts

OURS, THEIRS = Key("a", "rate", 5000, "ours"), Key("a", "rate", 5000, "htex")


def results(samples: dict[Key, list[float]]) -> Results:
    made = Results()
    for key, values in samples.items():
        for turn, value in enumerate(values):
            made.add(key, turn, value)
    return made


def found(samples: dict[Key, float], title: str) -> tuple[float | None, bool | None]:
    verdict = next(each for each in verdicts(results({key: [value] for key, value in samples.items()}))
                   if each.target.title.startswith(title))  # fmt: skip
    return verdict.value, verdict.holds


def test_median_and_spread() -> None:
    made = results({OURS: [3.0, 1.0, 2.0], THEIRS: [4.0, 2.0]})
    assert made.values(OURS) == [3.0, 1.0, 2.0]
    assert made.summary(OURS) == Summary(2.0, 1.0, 3.0)
    assert made.median(THEIRS) == 3.0
    assert made.median(OURS._replace(point=1)) is made.summary(OURS._replace(point=1)) is None


def test_a_ratio_is_of_medians_and_spreads_over_rounds() -> None:
    made = results({OURS: [60.0, 100.0, 80.0], THEIRS: [10.0, 20.0, 40.0]})
    assert made.ratio(OURS, THEIRS) == Summary(4.0, 2.0, 6.0)
    assert made.advantage(OURS, THEIRS, more_is_better=True) == Summary(4.0, 2.0, 6.0)
    assert made.advantage(OURS, THEIRS, more_is_better=False) == Summary(0.25, pytest.approx(1 / 6), 0.5)


def test_incomplete_round_is_in_no_pair() -> None:
    made = Results()
    for turn, value in ((0, 10.0), (1, 1000.0), (2, 20.0)):
        made.add(OURS, turn, value)
    for turn, value in ((0, 10.0), (2, 10.0)):
        made.add(THEIRS, turn, value)
    assert made.ratio(OURS, THEIRS) == Summary(2.0, 1.0, 2.0)


def test_missing_samples_are_not_compared() -> None:
    made = results({OURS: [1.0], THEIRS: [0.0]})
    assert made.ratio(OURS, THEIRS) is None
    assert made.ratio(OURS, OURS._replace(contender="dask")) is None


def test_a_target_holds_on_its_bound() -> None:
    title = "rate through the DFK by HighThroughputExecutor's"
    assert found({OURS: 6000.0, THEIRS: 1000.0}, title) == (6.0, True)
    assert found({OURS: 5999.0, THEIRS: 1000.0}, title) == (pytest.approx(5.999), False)
    assert found({OURS: 6000.0}, title) == (None, None)


def test_a_target_over_sizes_takes_the_worst() -> None:
    samples = {
        Key("f.tree", "time", size, who): seconds
        for size, ours, theirs in ((1, 0.7, 1.0), (16, 1.8, 2.0), (64, 2.0, 4.0))
        for who, seconds in (("ours-dag", ours), ("dask", theirs))
    }
    assert found(samples, "sum tree") == (0.9, False)
    samples.pop(Key("f.tree", "time", 16, "dask"))
    assert found(samples, "sum tree") == (0.7, True)


def test_memory_excludes_that_of_the_dfk() -> None:
    samples = {Key("i.memory", "all", 5000, "ours"): 9400.0, Key("i.memory", "all", 5000, "held"): 5300.0}
    assert found(samples, "bytes for a call that waits") == (4100.0, False)


def test_fall_of_the_rate_is_compared_with_the_ceilings() -> None:
    samples = {
        Key("a", "rate", point, who): rate
        for who, point, rate in (
            ("ours", 1000, 8000.0), ("ours", 100_000, 4000.0), ("null", 1000, 10_000.0), ("null", 100_000, 5000.0),
        )
    }  # fmt: skip
    assert found(samples, "rate at 100,000 by that at 1,000, by") == (1.0, True)


def test_call_with_a_context_is_compared_with_a_local_call() -> None:
    samples = {
        Key("h.shared", "later calls", 0, "ours"): 10.0,
        Key("h.shared", IN_TURN, 0, "ours"): 9.0,
        Key("c", "median", 0, "ours"): 1.0,
    }
    assert found(samples, "call with a context") == (1.0, True)


def test_every_target_can_be_found() -> None:
    """Each target refers only to measurements of a whole run with all contenders."""
    made = Results()
    measured = [
        "all",
        "median",
        "time",
        "in",
        "out",
        "first result",
        "shutdown",
        "later calls",
        "time per call",
        IN_TURN,
    ]
    measured.append("95th percentile beside a long call")
    for name, case in CASES.items():
        for contender in case.contenders:
            for plan in case.plans(contender, quick=False, cores=2):
                for metric in {*case.metrics, *measured} - {"*"}:
                    for point in plan.points:
                        made.add(Key(name, metric, point, contender), 0, 2.0)
    assert len(TARGETS) > 20
    assert [verdict.target.title for verdict in verdicts(made) if verdict.value is None] == []


def test_cases_name_contenders_that_exist() -> None:
    named = {contender for case in CASES.values() for contender in (*case.contenders, *case.only, *case.slow)}
    assert named == CONTENDERS.keys()


def test_slow_contenders_have_limited_sizes() -> None:
    case = CASES["a"]
    assert [plan.points for plan in case.plans("ours", quick=False, cores=2)] == [[1000], [5000], [20_000], [100_000]]
    assert [plan.points for plan in case.plans("ours-dag", quick=False, cores=2)] == [[5000], [20_000]]
    assert [plan.points for plan in case.plans("ours-dag", quick=True, cores=2)] == [[5000]]
    assert [plan.points for plan in case.plans("ours-L1", quick=False, cores=2)] == [[50]]
    assert [plan.points for plan in case.plans("ours-L1", quick=True, cores=2)] == [[50]]
    assert [plan.points for plan in CASES["e"].plans("ours", quick=True, cores=2)] == [[1, 1024, 65_536]]
    assert CASES["b"].plans("htex", quick=True, cores=2) == []


def test_missing_measurements_are_named() -> None:
    def made(*modules: str, programs: tuple[str, ...] = ()) -> Contender:
        return Contender(key="x", title="x", open=CONTENDERS["null"].open, modules=modules, programs=programs)

    assert made("json.decoder", programs=("sh",)).missing() is None
    assert made("no_such_module.inside").missing() == "no_such_module is not installed"
    assert made("json", programs=("no-such-program",)).missing() == "no-such-program is not on the path"


def test_rows_show_sizes_and_advantages() -> None:
    made = results(
        {
            THEIRS: [1000.0, 1100.0],
            OURS: [6000.0, 7700.0],
            OURS._replace(point=1000): [5.0],
        }
    )
    rows = report.rows(made, "a")
    assert [(row.key.point, row.key.contender) for row in rows] == [(1000, "ours"), (5000, "ours"), (5000, "htex")]
    assert rows[2].words == (
        "rate (calls/s)", "5,000 calls", "HighThroughputExecutor", "1,050", "1,000 to 1,100", "6.52 (6 to 7)",
    )  # fmt: skip
    assert rows[0].words[3:] == ("5", "", "")


def test_written_results_can_be_read(tmp_path: Path) -> None:
    made = results({OURS: [6000.0], THEIRS: [1000.0], Key("d", "shutdown", 0, "ours"): [0.5]})
    rounds, skipped = {"a": 1, "d": 1}, {"dask": "x is not installed"}
    facts = {"machine": {"python": "Python 3"}, "rounds": rounds, "cores": 2, "skipped": skipped}
    report.write_json(str(tmp_path / "results.json"), facts, made)
    report.write_markdown(str(tmp_path / "results.md"), facts, made)
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["measured"][1]["advantage"] == {"median": 6.0, "least": 6.0, "most": 6.0}
    assert [each["holds"] for each in read["targets"] if each["value"] is not None] == [True, True]
    text = (tmp_path / "results.md").read_text()
    assert "| d | shutdown, seconds | ≤ 1 | 0.5 | yes |" in text
    assert "Not measured: dask.distributed, because x is not installed." in text


def test_figures_show_comparable_rows(tmp_path: Path) -> None:
    made = results(
        {
            OURS: [6000.0, 7000.0],
            OURS._replace(point=1000): [5000.0, 5500.0],
            THEIRS: [1000.0, 1100.0],
            Key("c", "median", 0, "ours"): [0.5],
            Key("c", "median", 0, "htex"): [1.5],
            Key("d", "shutdown", 0, "ours"): [0.5],
        }
    )
    drawn = report.draw(str(tmp_path), made)
    assert [Path(path).name for path in drawn] == ["a-rate.png", "c-median.png"]
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in drawn)


@pytest.mark.parametrize("words", [["--cases", "z"], ["--contenders", "nobody"], ["--cases", "f.nothing"]])
def test_unknown_names_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert words[1] in capsys.readouterr().err
