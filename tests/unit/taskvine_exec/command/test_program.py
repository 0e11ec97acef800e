"""The command line, its exit codes, and the command as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import taskvine_exec
import taskvine_manager
import taskvine_tune
from taskvine_exec.command import main, program
from taskvine_exec.command.program import COMMANDS
from taskvine_exec.insight.why import KINDS
from tests.unit.taskvine_exec.insight.stories import Story

PACKAGES = (taskvine_exec, taskvine_tune, taskvine_manager)
ROOT = Path(__file__).resolve().parents[4]
ROOTS = os.pathsep.join(str(Path(package.__file__ or "").parents[1]) for package in PACKAGES)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["explain"],
        ["replay", "run"],
        ["replay", "--until", "noon"],
        ["replay", "--until", "nan"],
        ["status", "--watch", "0"],
        ["status", "a", "b"],
        ["logs", "--task", "1", "--node", "n1"],
        ["logs", "-n", "0"],
    ],
)
def test_invalid_command_lines_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: taskvine-exec" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert COMMANDS[command][0].split()[0].capitalize() in capsys.readouterr().out


def test_command_runs_as_a_program(tmp_path: Path) -> None:
    story = Story().node()
    story.runs(story.task())
    record = story.write(tmp_path / "record.msgpack")
    command = [sys.executable, "-m", "taskvine_exec", "status", str(record)]
    environment = {"PATH": os.defpath, "PYTHONPATH": ROOTS, "PYTHONUTF8": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 task: 1 returned" in done.stdout


def test_closed_output_is_no_error(tmp_path: Path) -> None:
    record = Story().node().write(tmp_path / "record.msgpack")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "taskvine_exec", "status", "--json", str(record)],
            env={"PATH": os.defpath, "PYTHONPATH": ROOTS},
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_interrupt_has_the_exit_code_of_shells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Any) -> int:
        raise KeyboardInterrupt

    does, add, _ = COMMANDS["status"]
    monkeypatch.setitem(program.COMMANDS, "status", (does, add, interrupted))
    assert main(["status"]) == 130


@pytest.mark.parametrize(
    "command", [["status"], ["why"], ["trace"], ["dot"], ["replay", "--until", "1"], ["logs", "--task", "0"]]
)
@pytest.mark.parametrize("content", [b"", b"no record", b"\x95\xa3run"])
def test_file_that_is_no_record_is_an_error(run: Any, tmp_path: Path, command: list[str], content: bytes) -> None:
    path = tmp_path / "record.msgpack"
    path.write_bytes(content)
    name, *options = command
    if content == b"no record":
        assert "not the record of a run" in run(name, str(path), *options, code=1)
    elif name in ("status", "why"):
        assert "is empty" in run(name, str(path), *options, code=1)
    else:
        assert main([name, str(path), *options]) in (0, 1)


@pytest.mark.parametrize("command", [["status"], ["why"], ["why", "0"], ["trace"], ["dot"], ["graphml"]])
def test_torn_record_is_read_up_to_its_last_entry(run: Any, tmp_path: Path, command: list[str]) -> None:
    story = Story().node()
    story.runs(story.task(), story.task())
    path = story.write(tmp_path / "runinfo/000/label/record.msgpack")
    whole = path.read_bytes()
    for cut in range(len(whole) - 1, len(whole) - 60, -7):
        path.write_bytes(whole[:cut])
        assert run(*command)


def test_names_that_are_no_text_are_shown(run: Any, tmp_path: Path) -> None:
    story = Story().node("n\x1b[31m")
    story.task(name="bad\x1b]0;title\x07")
    story.write(tmp_path / "record.msgpack")
    for command in ("status", "why"):
        assert "\x1b" not in run(command, str(tmp_path))
    assert run("status", "--json", str(tmp_path))["nodes"][0]["name"] == "n\x1b[31m"


def test_page_has_every_command_and_kind() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text()
    for command in COMMANDS:
        assert f"    taskvine-exec {command} " in page
    for kind, meaning in KINDS.items():
        assert f"| `{kind}` | {meaning} |" in page
