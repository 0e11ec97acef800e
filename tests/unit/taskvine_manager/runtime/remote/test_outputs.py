"""Remote outputs of the current task."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.runtime import execution, failure
from taskvine_manager.runtime.limits import Limits
from taskvine_manager.runtime.remote import outputs, transfer


class Output:
    """As a File of Parsl."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.local_path: str | None = None


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Contents of the outputs that were sent, by URL."""
    found: dict[str, str] = {}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(transfer, "put", lambda path, url: found.__setitem__(url, Path(path).read_text()))
    yield found
    assert not outputs.expected()
    assert os.listdir(tmp_path) == []


class _Argument:
    def __init__(self, url: str) -> None:
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return outputs.locate, (Output, self.url, "name", {"kept": 1})


def run(function: Any, *urls: str) -> tuple[int, Any]:
    encoded = pickle.dumps((tuple(_Argument(url) for url in urls), {}))
    outcome, body, _, _ = execution.call(function, encoded, "", Limits())
    return outcome, pickle.loads(body) if isinstance(body, bytes) else body


def write(*files: Output) -> str:
    for number, file in enumerate(files):
        Path(str(file.local_path)).write_text(str(number))
    return "result"


def test_outputs_with_one_name_are_sent(sent: dict[str, str]) -> None:
    assert run(write, "s3://b/x/name", "s3://b/y/name") == (failure.RETURNED, "result")
    assert sent == {"s3://b/x/name": "0", "s3://b/y/name": "1"}


def test_an_output_that_is_named_twice_has_one_path(sent: dict[str, str]) -> None:
    run(write, "s3://b/name", "s3://b/name")
    assert sent == {"s3://b/name": "1"}


def write_and_raise(file: Output) -> None:
    write(file)
    raise KeyError("no")


def test_nothing_is_sent_for_a_task_that_failed(sent: dict[str, str]) -> None:
    assert run(write_and_raise, "s3://b/name")[0] == failure.RAISED
    assert sent == {}


def test_a_missing_output_is_a_failure(sent: dict[str, str]) -> None:
    outcome, record = run(lambda _: None, "s3://me:secret@b/name")
    assert (outcome, record["kind"], record["path"]) == (failure.LOST, "output-missing", "s3://me:...@b/name")


def test_a_directory_is_a_failure(sent: dict[str, str]) -> None:
    outcome, record = run(lambda file: os.mkdir(file.local_path), "s3://b/name")
    assert (outcome, record["kind"], record["url"]) == (failure.LOST, "remote-output", "s3://b/name")


def test_a_refused_output_is_a_failure(sent: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, url: str) -> None:
        raise failure.Lost(failure.lost("remote-output", "no", url=url, status=403))

    monkeypatch.setattr(transfer, "put", refuse)
    outcome, record = run(write, "s3://b/name")
    assert (outcome, record["kind"], record["status"]) == (failure.LOST, "remote-output", 403)
