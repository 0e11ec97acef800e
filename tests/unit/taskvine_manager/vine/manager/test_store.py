"""Files of TaskVine as the manager process sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskvine_manager.runtime import claims, payload
from taskvine_manager.vine import seals
from taskvine_manager.vine.manager import store as module
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.manager.store import OVERUSED, Store
from tests.unit.taskvine_manager.node.test_config import config as node_config
from tests.unit.taskvine_manager.vine.manager import fake


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "spool").mkdir()
    (tmp_path / "nodes" / "n" / "cache").mkdir(parents=True)
    vine = VinePort(fake.module(), VineConfig(nodes=node_config(), python="", log=str(tmp_path)), None)
    return Store(str(tmp_path), vine, lambda node: str(tmp_path / "nodes" / node) if node == "n" else "")


def put(store: Store, tmp_path: Path, content: bytes) -> Path:
    """Make the temp file x on a worker of this machine."""
    store.declare("x")
    path = tmp_path / "nodes" / "n" / "cache" / "temp-1"
    path.write_bytes(content)
    status = path.stat()
    store.made("x", "n", (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return path


def test_shared_buffer_is_declared_once(store: Store, tmp_path: Path) -> None:
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
    first.file.replicas = 1
    store.renew(str(spool / "b"))
    assert first.file.replicas == 0
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


def test_replaced_file_is_not_read(store: Store, tmp_path: Path) -> None:
    path = put(store, tmp_path, b"made")
    path.write_bytes(b"longer than it was")
    assert store.found("x") is None


def test_file_of_a_lost_node_is_missing(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, b"made")
    store.made("x", "other", (1, 2, 3, 4))
    assert store.path("x") is None


def test_file_that_changes_often_is_copied(store: Store, tmp_path: Path) -> None:
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


def test_modified_copy_is_not_used_again(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, b"made")
    home = store.spool(b"home")
    store.bring_home("x", home)
    assert store.found("x") == ("manager", home, 4, os.stat(home).st_ctime_ns)
    store.spoiled("x", "manager", os.stat(home).st_ctime_ns - 1)
    assert not os.path.exists(home)
    assert store.found("x") == ("n", *(store.found("x") or ())[1:])


def test_result_at_home_is_sealed(store: Store) -> None:
    home = store.spool(b"home")
    store.adopt("x", home)
    assert seals.check(home) == 4
    store.renew("x")
    assert os.path.exists(home), "it is what TaskVine sends to nodes"


def test_result_that_came_home_is_kept_when_it_is_pruned(store: Store) -> None:
    home = store.spool(b"home")
    store.adopt("x", home)
    store.prune("x")
    assert os.path.exists(home), "TaskVine cannot recreate it for a recovery of its readers"
    store.drop("x")
    assert not os.path.exists(home)


def test_fetched_copy_of_a_dropped_file_is_removed(store: Store) -> None:
    home = store.spool(b"late")
    store.bring_home("x", home)
    assert not os.path.exists(home)


def test_replacement_file_is_a_new_version(store: Store, tmp_path: Path) -> None:
    path = put(store, tmp_path, b"made")
    times = path.stat()
    path.write_bytes(b"else")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert store.found("x") is None


# --- files of the user's ---


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the user; whether it has changed does not depend on the clock of the file system."""
    monkeypatch.setattr(module, "SETTLED_NS", 10**18)
    path = tmp_path / "given"
    path.write_text("one")
    return path


def declared(base: Path) -> int:
    """Return the paths that stand for versions."""
    return len([name for name in os.listdir(os.path.join(base, "files")) if name.startswith("input-")])


def test_every_version_of_a_file_is_declared_once(store: Store, given: Path) -> None:
    first = store.local(str(given))
    assert store.local(str(given)) is first
    given.write_text("another")
    assert store.local(str(given)) is not first
    with pytest.raises(FileNotFoundError):
        store.local(str(given.parent / "never"))


def test_versions_with_equal_size_and_second_differ(store: Store, given: Path) -> None:
    first = store.local(str(given))
    status = given.stat()
    for change in ("two", "six"):
        given.write_text(change)
        os.utime(given, ns=(status.st_atime_ns, status.st_mtime_ns))
        second = store.local(str(given))
        assert second.file.content != first.file.content
        assert Path(second.file.content).read_text() == change
        first = second


@pytest.mark.parametrize("changed", [True, False])
def test_recently_changed_file_is_compared_by_content(
    store: Store, given: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    monkeypatch.setattr(module.trees, "stamp", lambda status: (status.st_ino,))  # a clock that never ticks
    first = store.local(str(given))
    given.write_text("two" if changed else "one")
    assert (store.local(str(given)) is first) != changed


def test_settled_file_is_not_read_again(store: Store, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.local(str(given))
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))
    assert store.local(str(given)) is first  # compared for the last time
    monkeypatch.setattr(module, "content_name", lambda path, seen: pytest.fail(f"{path} was read"))
    assert store.local(str(given)) is first


@pytest.mark.parametrize("changed", [True, False])
def test_recently_changed_large_file_is_checked_twice(
    store: Store, given: Path, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(module.time, "sleep", lambda _: given.write_text("longer") if changed else None)
    monkeypatch.setattr(module, "content_name", lambda path, seen: pytest.fail(f"{path} was read"))
    first = store.local(str(given))
    assert first.size == len("longer" if changed else "one")
    assert first.settled != changed


def test_old_version_is_removed_with_its_last_user(store: Store, tmp_path: Path, given: Path) -> None:
    first, again = store.local(str(given)), store.local(str(given))
    given.write_text("two")
    second = store.local(str(given))
    store.leave(first)
    assert (first.file.declared, declared(tmp_path)) == (True, 2)
    store.leave(again)
    assert (first.file.declared, declared(tmp_path)) == (False, 1)
    store.leave(second)
    assert (second.file.declared, declared(tmp_path)) == (True, 1), "the latest is kept for the next user"


def test_directory_is_declared_as_its_archive(store: Store, tmp_path: Path, given: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_text("one")
    first = store.local(str(tree))
    assert first.size == os.path.getsize(first.file.content)
    module.trees.unpack(first.file.content, str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "sub" / "file").read_text() == "one"
    assert store.local(str(tree)) is first
    (tree / "sub" / "file").write_text("two")
    assert store.local(str(tree)) is not first


def test_lost_file_is_removed_from_workers_and_stays_declared(store: Store, tmp_path: Path, given: Path) -> None:
    put(store, tmp_path, b"made")
    version = store.local(str(given))
    for name, file in (("x", store.temp("x")), (str(given), version.file)):
        store.renew(name)
        assert (file.replicas, file.declared) == (0, True)
    assert store.found("x") is None
    store.renew("never")


def test_name_unsupported_by_taskvine_is_replaced(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "two words"
    path.write_text("text")
    plain = store.local(str(path)).file.content
    assert " " not in plain
    assert Path(plain).read_text() == "text"
