"""Transfers that are tried again, checked, and reported."""

from __future__ import annotations

import errno
import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.runtime.remote import tasks, transfer
from taskvine_manager.runtime.remote.problems import Problem, Version


class Storage:
    """A storage service whose answers are given: problems to raise, or bytes."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)

    def get(self, url: str, target: str) -> Version:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        Path(target).write_bytes(answer)
        return Version(len(answer), "tag")


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*answers: bytes | Exception) -> Storage:
        made = Storage(*answers)
        monkeypatch.setattr(transfer, "_fetch", made.get)
        return made

    return install


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waited.append)
    return waited


def refusal(url: str, target: Path) -> dict[str, Any]:
    with pytest.raises(failure.Lost) as caught:
        transfer.get(url, str(target))
    record: dict[str, Any] = pickle.loads(caught.value.record)
    return record


def test_failures_that_may_pass_are_tried_again(storage: Any, waits: list[float], tmp_path: Path) -> None:
    storage(Problem("busy", 503, may_pass=True), Problem("busy", 503, may_pass=True, wait=9.0), b"data")
    assert transfer.get("s3://bucket/a", str(tmp_path / "a")) == Version(4, "tag")
    assert waits == [0.5, 9.0]


def test_each_attempt_starts_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(url: str, target: str) -> Version:
        Path(target).mkdir()  # fails if the directory of the first attempt is there
        if not attempts:
            attempts.append(target)
            raise Problem("cut", may_pass=True)
        return Version(0)

    attempts: list[str] = []
    monkeypatch.setattr(transfer, "_fetch", fetch)
    assert transfer.get("s3://bucket/a/", str(tmp_path / "a")) == Version(0)


def test_the_last_failure_is_reported(storage: Any, waits: list[float], tmp_path: Path) -> None:
    left = storage(*[Problem("busy", 503, may_pass=True)] * 10)
    record = refusal("https://me:secret@host/a", tmp_path / "a")
    assert record == {
        "kind": "remote-input",
        "reason": "busy (4 attempts)",
        "url": "https://me:...@host/a",
        "status": 503,
    }
    assert (len(left.answers), waits) == (6, [0.5, 1.0, 2.0])


def test_messages_of_libraries_show_no_secrets(storage: Any, tmp_path: Path) -> None:
    url = "sftp://me:secret@host/a?token=hidden"
    storage(Problem(f"cannot open {url}"), Problem("no user me with the password secret"))
    for _ in range(2):
        reason = refusal(url, tmp_path / "a")["reason"]
        assert "secret" not in reason
        assert "hidden" not in reason


def test_failures_that_last_are_reported_at_once(storage: Any, waits: list[float], tmp_path: Path) -> None:
    storage(Problem("none", 404))
    assert refusal("s3://bucket/a", tmp_path / "a")["reason"] == "none"
    assert waits == []


def test_a_full_disk_is_no_fault_of_the_server(storage: Any, tmp_path: Path) -> None:
    storage(OSError(errno.ENOSPC, "No space left on device"))
    assert refusal("s3://bucket/a", tmp_path / "a")["kind"] == "disk-full"


def test_the_users_checksum(storage: Any, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"data").hexdigest()
    storage(b"data", b"date")
    assert transfer.get(f"s3://bucket/a#sha256={digest.upper()}", str(tmp_path / "a")).size == 4
    record = refusal(f"s3://bucket/a#sha256={digest}", tmp_path / "a")
    assert f"should be {digest}" in record["reason"]


def test_a_file_is_the_same_each_time_in_a_run(storage: Any, tmp_path: Path) -> None:
    storage(b"data", b"data", b"other", b"other", b"other")
    target, spool = str(tmp_path / "a"), str(tmp_path)
    for _ in range(2):
        assert tasks.fetch("s3://bucket/a", target, spool, "a@1")[:2] == (4, "tag")
    with pytest.raises(failure.Lost) as caught:
        tasks.fetch("s3://bucket/a", target, spool, "a@1")
    assert "it has changed" in pickle.loads(caught.value.record)["reason"]
    assert tasks.fetch("s3://bucket/a", target, spool, "a@2")[0] == 5  # forgotten, then fetched again
    assert tasks.fetch("s3://bucket/a", target, str(tmp_path / "elsewhere"), "a@1")[0] == 5
