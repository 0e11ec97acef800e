"""The messages between a sweep and its program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taskvine_tune.environment import (
    PARAMETERS_VARIABLE,
    QUANTITIES,
    REPORT_VARIABLE,
    RunReport,
    parameters_from_environment,
    read_reports,
)
from taskvine_tune.errors import BadFile, OutOfRange


def test_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARAMETERS_VARIABLE, raising=False)
    assert parameters_from_environment() == {}
    monkeypatch.setenv(PARAMETERS_VARIABLE, '{"temp_replica_count": 2, "executor": {"batch": 3}}')
    assert parameters_from_environment() == {"temp-replica-count": 2, "executor.batch": 3}
    assert parameters_from_environment({PARAMETERS_VARIABLE: " "}) == {}
    with pytest.raises(BadFile, match=PARAMETERS_VARIABLE):
        parameters_from_environment({PARAMETERS_VARIABLE: "temp-replica-count=2"})
    with pytest.raises(OutOfRange):
        parameters_from_environment({PARAMETERS_VARIABLE: '{"temp-replica-count": 0}'})


def test_reports(tmp_path: Path) -> None:
    path = tmp_path / "report"
    environment = {REPORT_VARIABLE: str(path)}
    assert not RunReport(1.0).write({})
    assert read_reports(str(path)) == RunReport()
    assert RunReport(1.5, 100, 2000, 3, 1.25, 2).write(environment)
    assert json.loads(path.read_text()) == {
        "version": 1,
        "wall_seconds": 1.5,
        "bytes_moved": 100,
        "storage_peak_bytes": 2000,
        "reexecutions": 3,
        "makespan_seconds": 1.25,
        "losses": 2,
    }
    assert read_reports(str(path)) == RunReport(1.5, 100, 2000, 3, 1.25, 2)
    assert path.stat().st_mode & 0o777 == 0o600


def test_reports_of_several_executors(tmp_path: Path) -> None:
    environment = {REPORT_VARIABLE: str(tmp_path / "report")}
    for report in (RunReport(1.5, 100, None, 0, 1.2, 1), RunReport(2.5, 50, None, 1, 1.1, 2), RunReport()):
        report.write(environment)
    with open(environment[REPORT_VARIABLE], "a") as file:
        file.write('\n{"bytes_moved": 1, "later": "more"}\n')
    assert read_reports(environment[REPORT_VARIABLE]) == RunReport(2.5, 151, None, 1, 1.2, 3)


@pytest.mark.parametrize("text", ["{", "[]", '{"bytes_moved": "many"}', '{"wall_seconds": -1}', '{"bytes_moved": NaN}'])
def test_invalid_reports_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report"
    path.write_text(text)
    with pytest.raises(BadFile, match="report"):
        read_reports(str(path))


def test_a_report_has_every_quantity() -> None:
    assert set(QUANTITIES) == set(RunReport.__dataclass_fields__)
