"""A program that only loads local_config()."""

from __future__ import annotations

from pathlib import Path

import parsl
import pytest

from taskvine_exec import local_config


def test_apps_run_and_logs_are_in_the_chosen_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKVINE_TUNE", '{"temp-replica-count": 1}')

    @parsl.python_app
    def double(x: int) -> int:
        return 2 * x

    config = local_config(label="here", cores=1, run_dir=tmp_path / "runs", retries=1, initialize_logging=False)
    with parsl.load(config):
        assert double(double(double(1))).result(30) == 8
    assert (tmp_path / "runs" / "000" / "here" / "manager.log").exists()
