"""Descriptions of how processes died."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pytest

from taskvine_manager.node import deaths
from taskvine_manager.node.calls import Call, Need
from taskvine_manager.node.limits import Kill, Kills
from taskvine_manager.wire.messages import L2, Invocation, Profile

CALL = Call(Invocation(1, 1, b""), Profile(1, "f", "name", L2, None, None, None, None, 0.0, "f"), Need(1.0, 0.0))


@pytest.mark.parametrize(
    ("code", "words"),
    [(3, "exited with status 3"), (-9, "was killed by SIGKILL"), (-1000, "was killed by signal 1000")],
)
def test_exit_codes_are_described(code: int, words: str) -> None:
    assert deaths.describe(code) == words


@pytest.mark.parametrize(("code", "exit_code", "number"), [(3, 3, None), (-9, None, signal.SIGKILL)])
def test_record_of_a_death_has_the_end_of_the_log(
    tmp_path: Path, code: int, exit_code: int | None, number: int | None
) -> None:
    log = tmp_path / "log"
    log.write_text("before\n" * 1000 + "the end\n")
    record = pickle.loads(deaths.died(CALL, code, str(log), Kills([], 0.0, lambda path: None)))
    assert (record["kind"], record["reason"]) == ("slot-died", "while it ran name")
    assert (record["exit_code"], record["signal"]) == (exit_code, number)
    assert record["stderr"].endswith("before\nthe end\n")
    assert len(record["stderr"]) == 2000


def test_death_for_lack_of_memory_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = Kills([], 0.0, lambda path: None)
    monkeypatch.setattr(kills, "explain", lambda now: Kill("/group", 100.0, 99.0))
    record = pickle.loads(deaths.died(CALL, -signal.SIGKILL, "/no/log", kills))
    assert record["kind"] == "memory"
    assert (record["group"], record["limit_mb"], record["used_mb"]) == ("/group", 100.0, 99.0)
    assert deaths.killed("a process", -signal.SIGTERM, kills) is None


def test_log_that_cannot_be_read_is_empty() -> None:
    assert deaths.tail("/no/log") == ""
