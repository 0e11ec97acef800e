"""The output of ``list``, ``explain`` and ``check``, for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.parameters import PARAMETERS, honoured
from taskvine_tune.command import INVALID, main

GOOD = "temp_replica_count = 2\nhungry-minimum = 3\n[executor]\nlibrary-slots = 2\n"
BAD = "temp-replica-count = 4\nmax-workers = 3\nhungry = 2\nprefer-dispatch = 7\n"


def test_list_shows_every_parameter_with_its_effect(run: Any) -> None:
    shown = run("list")
    words = " ".join(shown.split())
    for parameter in PARAMETERS.values():
        assert parameter.name in words
    assert "native" in shown
    assert "choice of a node" in " ".join(shown.split())
    assert [each["name"] for each in run("list", "--json")] == list(PARAMETERS)


def test_list_of_some(run: Any) -> None:
    assert {each["name"] for each in run("list", "--engine", "embedded", "--json")} == honoured("embedded")
    assert [each["name"] for each in run("list", "Replica_", "--json")] == [
        "temp-replica-count",
        "transfer-replica-per-cycle",
    ]
    assert [each["name"] for each in run("list", "asynchrony", "--json")] == ["resource-submit-multiplier"]
    assert run("list", "nothing-such", "--json") == []


def test_list_on_a_narrow_terminal_leaves_the_effects_out(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = run("list").splitlines()
    assert len(lines) == 1 + len(PARAMETERS)
    assert "effect" not in lines[0].split()


def test_explain(run: Any) -> None:
    shown = run("explain", "asynchrony_multiplier")
    for text in ("resource-submit-multiplier", "asynchrony-multiplier", "at least 1", "cctools 7.5.0", "native"):
        assert text in shown
    assert "before the start" in run("explain", "executor.library-slots")
    assert "0 means" in run("explain", "monitor-interval")
    told = run("explain", "transfer_temps_recovery", "--json")
    assert told["engines"]["taskvine"]["support"] == "no effect"
    assert told["engines"]["embedded"] == {"support": "emulated", "note": ""}
    assert (told["type"], told["default"], told["since"]) == ("flag", False, "7.11.0")


def test_explain_of_an_unknown_name(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "temp-replicas"]) == INVALID
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "did you mean 'temp-replica-count'" in captured.err


def test_check_of_a_valid_file(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    shown = run("check", str(path))
    assert f"{path}: valid (3 parameters)" in shown
    assert run("check", str(path), "--engine", "embedded", "--json") == {
        "file": str(path),
        "valid": True,
        "parameters": {"temp-replica-count": 2, "hungry-minimum": 3, "executor.library-slots": 2},
        "problems": [],
        "no_effect": {"embedded": ["hungry-minimum"]},
    }
    assert "the manager already has the whole graph" in run("check", str(path), "--engine", "embedded")


def test_check_names_all_errors(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    shown = run("check", str(path), code=INVALID)
    assert shown.count("error: ") == 3
    told = run("check", str(path), "--nodes", "2", "--no-peer-transfers", "--json", code=INVALID)
    assert not told["valid"]
    assert [each["error"] for each in told["problems"]] == [
        "UnknownParameter",
        "WrongType",
        "Conflict",
        "Conflict",
        "Conflict",
    ]
    assert len({each["message"] for each in told["problems"]}) == 5


def test_check_of_an_unreadable_file(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("absent.toml", "tuning.ini"):
        assert main(["check", str(tmp_path / name)]) == INVALID
        assert name in capsys.readouterr().err


def test_help_shows_every_parameter_as_it_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["explain", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for parameter in PARAMETERS.values():
        (line,) = [line for line in lines if line.split()[:1] == [parameter.name]]
        assert parameter.bounds in line
