"""Files of TaskVine's as the manager process sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskvine_manager.runtime import claims, payload
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.manager.store import OVERUSED, Store
from tests.unit.taskvine_manager.vine.manager import fake


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "spool").mkdir()
    (tmp_path / "nodes" / "n" / "cache").mkdir(parents=True)
    vine = VinePort(fake.module(), port=0, name=None, directory=str(tmp_path), password_file=None, ssl=None, tune={})
    return Store(str(tmp_path), vine, lambda node: str(tmp_path / "nodes" / node) if node == "n" else "")


def put(store: Store, tmp_path: Path, content: bytes) -> Path:
    """Have a worker on this machine make the temp file x."""
    store.declare("x")
    path = tmp_path / "nodes" / "n" / "cache" / "temp-1"
    path.write_bytes(content)
    status = path.stat()
    store.made("x", "n", (status.st_dev, status.st_ino, status.st_size))
    return path


def test_a_shared_buffer_is_declared_once_while_somebody_may_read_it(store: Store, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    (spool / "buffer").write_bytes(b"shared")
    claims.offer(str(spool / "buffer"))
    for name in "ab":
        claims.claim(str(spool / "buffer"), str(spool / name))
    first, second = store.share(str(spool / "a")), store.share(str(spool / "b"))
    assert first is second
    payload.release(str(spool / "a"))
    store.unshare(first)
    store.unshare(second)
    assert first.file.declared, "the second call may have to be tried again"
    assert store.share(str(spool / "b")) is first
    payload.release(str(spool / "b"))
    store.tidy_buffers()
    assert (spool / "buffer").read_bytes() == b"shared"
    assert first.file.declared
    store.unshare(second)
    assert not first.file.declared
    assert os.listdir(spool) == os.listdir(tmp_path / "files") == []
    with pytest.raises(FileNotFoundError):
        store.share(str(spool / "a"))


def test_file_on_this_machine_is_read_where_it_is(store: Store, tmp_path: Path) -> None:
    path = put(store, tmp_path, b"made")
    found = store.found("x")
    assert found == ("n", str(path), 4, path.stat().st_ctime_ns)


def test_other_file_with_its_name_is_not_it(store: Store, tmp_path: Path) -> None:
    path = put(store, tmp_path, b"made")
    path.write_bytes(b"longer than it was")
    assert store.found("x") is None


def test_file_of_a_node_that_is_gone_is_nowhere(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, b"made")
    store.made("x", "other", (1, 2, 3))
    assert store.path("x") is None


def test_file_that_changes_time_and_again_gets_a_copy(store: Store, tmp_path: Path) -> None:
    path = put(store, tmp_path, b"made")
    for _ in range(OVERUSED):
        store.spoiled("x", "n", 1)
    found = store.found("x")
    assert found is not None
    assert found[0] == "manager"
    assert found[1] != str(path)
    assert Path(found[1]).read_bytes() == b"made"
    store.drop("x")
    assert not os.path.exists(found[1])


def test_copy_that_was_written_to_is_not_given_again(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, b"made")
    home = store.spool(b"home")
    store.bring_home("x", home)
    assert store.found("x") == ("manager", home, 4, os.stat(home).st_ctime_ns)
    store.spoiled("x", "manager", os.stat(home).st_ctime_ns - 1)
    assert not os.path.exists(home)
    assert store.found("x") == ("n", *(store.found("x") or ())[1:])


def test_home_of_what_was_dropped_meanwhile_is_removed(store: Store) -> None:
    home = store.spool(b"late")
    store.bring_home("x", home)
    assert not os.path.exists(home)


def test_every_version_of_a_file_is_declared_once(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_text("one")
    first = store.local(str(path))
    assert store.local(str(path)) is first
    path.write_text("another")
    assert store.local(str(path)) is not first
    with pytest.raises(FileNotFoundError):
        store.local(str(tmp_path / "never"))


def test_name_that_taskvine_does_not_take_is_given_another(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "two words"
    path.write_text("text")
    given = store.local(str(path)).content
    assert " " not in given
    assert Path(given).read_text() == "text"
