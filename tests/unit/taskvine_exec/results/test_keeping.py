"""Results that stay readable without their executor."""

from __future__ import annotations

import errno
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from taskvine_exec.errors import FileLost, FileUnreadable
from taskvine_exec.results import keeping
from taskvine_exec.results.keeping import Keeper
from taskvine_exec.values import Value, Where
from taskvine_manager.runtime import mapping, payload

TEXT = "x" * (payload.INLINE_LIMIT + 1)


def written(directory: Path, content: Any = TEXT) -> Where:
    path = payload.encode(content, str(directory), pickle.dumps)
    assert isinstance(path, str)
    status = os.stat(path)
    return Where("node", path, status.st_size, status.st_ctime_ns)


def value_at(where: Where | None, number: int = 0) -> Value:
    value = Value(f"result-{number}", number)
    value.stays(lambda value, timeout: None, where)
    return value


def answered(answer: Any) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(answer, Exception):
        future.set_exception(answer)
    elif answer is not None:
        future.set_result(answer)
    return future


class Manager:
    """Answers requests in order, except where the answer is None. ``asked`` lists the requests."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Where | None]] = []

    def locate(self, number: str, where: Where | None, seconds: float) -> Future[Any]:
        self.asked.append((number, where))
        return answered(self.answers.pop(0))

    def keeper(self, seconds: float = 30.0) -> Keeper:
        return Keeper(self.locate, lambda answer: answer, seconds)


def test_local_result_is_mapped_and_outlives_its_file(tmp_path: Path) -> None:
    manager = Manager()
    wheres = [written(tmp_path, TEXT + str(number)) for number in range(3)]
    values = [value_at(where, number) for number, where in enumerate(wheres)]
    manager.keeper().keep(values)
    assert not manager.asked
    for where in wheres:
        os.unlink(where.path)
    assert [value.load() for value in values] == [TEXT + str(number) for number in range(3)]
    assert values[0].load() is values[0].load()


def test_remote_result_is_requested_once(tmp_path: Path) -> None:
    home = written(tmp_path)
    gone = written(tmp_path)
    os.unlink(gone.path)
    manager = Manager(home, pickle.dumps("small"))
    lost, remote = value_at(gone, 0), value_at(None, 1)
    manager.keeper().keep([lost, remote])
    assert sorted(manager.asked, key=str) == sorted([("result-0", gone), ("result-1", None)], key=str)
    assert {value.load() for value in (lost, remote)} == {TEXT, "small"}


def test_moved_result_is_requested_again(tmp_path: Path) -> None:
    """TaskVine makes links to a file, which change its stamp."""
    where = written(tmp_path)
    stale = where._replace(stamp=1)
    manager = Manager(stale, stale, where)
    value = value_at(stale)
    manager.keeper().keep([value])
    assert len(manager.asked) == 3
    assert value.load() == TEXT


def test_missing_result_is_given_up(tmp_path: Path) -> None:
    stale = written(tmp_path)._replace(stamp=1)
    value = value_at(stale)
    Manager(*[stale] * keeping.TRIES).keeper().keep([value])
    with pytest.raises(FileLost, match="could not be read where it was said to be"):
        value.load()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (FileLost(3, "its node has gone", name="result-0"), FileLost, "its node has gone"),
        (ConnectionError("the manager is gone"), FileLost, "its manager had gone"),
        (None, FileLost, "did not come home in time"),
    ],
)
def test_missing_result_has_a_reason(answer: Any, kind: type[Exception], words: str) -> None:
    value = value_at(None)
    begun = time.monotonic()
    Manager(answer).keeper(seconds=0.05).keep([value])
    assert time.monotonic() - begun < 10
    for _ in range(2):
        with pytest.raises(kind, match=words):
            value.load()


def test_number_of_transfers_is_limited(tmp_path: Path) -> None:
    asked: list[Future[Any]] = []
    home = written(tmp_path)

    def locate(number: str, where: Where | None, seconds: float) -> Future[Any]:
        asked.append(Future())
        open_now = [future for future in asked if not future.done()]
        assert len(open_now) <= keeping.AT_ONCE
        if len(open_now) == keeping.AT_ONCE:
            for future in open_now:
                future.set_result(home)
        return asked[-1]

    values = [value_at(None, number) for number in range(3 * keeping.AT_ONCE)]
    Keeper(locate, lambda answer: answer, 30.0).keep(values)
    assert all(value.load() == TEXT for value in values)


def test_smallest_results_are_read_if_mappings_are_scarce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheres = [written(tmp_path, TEXT * (number + 1)) for number in range(5)]
    values = [value_at(where, number) for number, where in enumerate(wheres)]
    before = mapping.count()
    monkeypatch.setattr(mapping, "MOST_MAPPED", before + 2)
    available = 2 * sum(where.size for where in wheres[:3])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    Manager().keeper().keep(values)
    assert mapping.count() == before + 2
    for where in wheres:
        os.unlink(where.path)
    assert [value.load() for value in values] == [TEXT * (number + 1) for number in range(5)]


@pytest.mark.parametrize("lack", ["memory", "permission"])
def test_result_that_cannot_be_kept_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    value, other = value_at(written(tmp_path)), value_at(written(tmp_path), 1)
    with monkeypatch.context() as patched:
        if lack == "memory":
            patched.setattr(mapping, "MOST_MAPPED", 0)
            patched.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
        else:
            patched.setattr(mapping, "bytes_of", _refuse)
        Manager().keeper().keep([value])
    Manager().keeper().keep([other])
    words = "too little memory is left" if lack == "memory" else "Permission denied"
    with pytest.raises(FileUnreadable, match=f"{words}.*could not be kept when the executor ended"):
        value.load()
    assert other.load() == TEXT


def _refuse(path: str, mapped_from: int) -> Callable[..., Any]:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
