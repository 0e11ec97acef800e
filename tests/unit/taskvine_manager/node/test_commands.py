"""Commands with and without the user's init_command, and the environment of their processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskvine_manager.node.commands import INIT_FAILED, bound_to, open_log, start_directory, with_init

COMMAND = ["/bin/sh", "-c", 'echo "$VALUE $1"', "sh", "an argument"]


def run(init_command: str) -> tuple[int, str]:
    ran = subprocess.run(with_init(init_command, COMMAND), check=False, capture_output=True, text=True)
    return ran.returncode, ran.stdout


def test_command_without_init_command_is_run_as_it_is() -> None:
    assert with_init("", COMMAND) == COMMAND


def test_command_is_run_in_the_shell_of_the_init_command() -> None:
    assert run("export VALUE=set; cd /") == (0, "set an argument\n")
    assert run('export VALUE="$#"') == (0, "0 an argument\n")


@pytest.mark.parametrize("init_command", ["false", "exit 0", "exit 3", "export VALUE='", "if"])
def test_init_command_that_fails_or_ends_the_shell_is_reported(init_command: str) -> None:
    assert run(init_command) == (INIT_FAILED, "")


def test_process_starts_in_the_users_directory_if_it_is_there(tmp_path: Path) -> None:
    assert start_directory(str(tmp_path), "/own") == str(tmp_path)
    assert start_directory(str(tmp_path / "none"), "/own") == "/own"
    assert start_directory(None, "/own") == "/own"


def test_log_is_appended_to_and_need_not_be_there(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        with open_log(str(tmp_path / "log")) as log:
            log.write(text)
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert os.stat(tmp_path / "log").st_mode & 0o777 == 0o600
    with open_log(str(tmp_path / "none" / "log")) as log:
        log.write(b"lost")


def test_processes_are_bound_while_they_start() -> None:
    allowed = os.sched_getaffinity(0)
    look = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    with bound_to([min(allowed)]):
        assert subprocess.check_output(look, text=True) == f"[{min(allowed)}]\n"
    assert os.sched_getaffinity(0) == allowed
    with bound_to(()):
        assert os.sched_getaffinity(0) == allowed


def test_impossible_cpus_leave_a_process_as_it_was() -> None:
    allowed = os.sched_getaffinity(0)
    with pytest.raises(OSError, match="Invalid argument"), bound_to([60_000]):
        pass
    assert os.sched_getaffinity(0) == allowed
