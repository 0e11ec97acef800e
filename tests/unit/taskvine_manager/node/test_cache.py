"""The node's cache: what it contains, what it evicts, and what failures leave."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from taskvine_manager.node import cache as module
from taskvine_manager.node import copying, trees
from taskvine_manager.node.cache import Cache, QuotaExceeded, file_name
from taskvine_manager.node.copying import copy, deliver
from taskvine_manager.node.replicas import Peer, Source, Spoiled, check
from tests.conftest import eventually
from tests.unit.taskvine_manager.node.files import Files, pins


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def old(path: str) -> str:
    """Make a file count as unchanged for long. Change times cannot be set, so the clock is moved."""
    eventually(lambda: time.time_ns() - os.stat(path).st_ctime_ns > module.SETTLED_NS)
    return path


# --- what is there ---


def test_users_file_is_cached_by_content(files: Files) -> None:
    source = files.write("a.txt", 10)
    name = files.cache.obtain(source)
    assert files.read(name) == "a" * 10
    assert Path(source).read_text() == "a" * 10
    assert os.stat(source).st_ino != os.stat(files.cache.path(name)).st_ino
    assert files.cache.used == 10


def test_same_content_under_two_paths_is_cached_once(files: Files) -> None:
    assert files.obtain("a.txt", 10, "x") == files.obtain("b.txt", 10, "x")
    assert len(files.on_disk()) == 1
    assert files.cache.used == 10


def test_unchanged_file_is_not_read_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    source = old(files.write("a.txt", 10))
    name = files.cache.obtain(source)
    for reader in ("content_name", "copy_named"):
        monkeypatch.setattr(module, reader, lambda path, *_: pytest.fail(f"{path} was read"))
    assert files.cache.obtain(source) == name


def test_evicted_file_is_read_again(files: Files) -> None:
    source = old(files.write("a.txt", 10))
    name = files.cache.obtain(source)
    files.cache.unpin(name)
    files.cache.drop(name)
    assert files.cache.obtain(source) == name
    assert files.read(name) == "a" * 10


@pytest.mark.parametrize("restored", [False, True])
def test_change_with_the_same_size_and_times_is_noticed(files: Files, restored: bool) -> None:
    source = old(files.write("a.txt", 10))
    before = os.stat(source)
    first = files.cache.obtain(source)
    with open(source, "r+") as file:
        file.write("b" * 10)
    if restored:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = files.cache.obtain(source)
    assert (files.read(first), files.read(second)) == ("a" * 10, "b" * 10)


def test_changes_within_a_tick_of_the_clock_are_noticed(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "stamp", lambda status: (status.st_ino,))  # a clock that never ticks
    source = files.write("a.txt", 10, "1")
    first = files.cache.obtain(source)
    files.write("a.txt", 10, "2")
    assert files.read(files.cache.obtain(source)) == "2" * 10
    assert files.read(first) == "1" * 10


def test_file_changed_while_it_is_hashed_is_cached_as_copied(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.obtain("other.txt", 10)  # a file of this size exists, so the source is compared before it is copied
    source = files.write("a.txt", 10)
    digest = module.content_name
    read: list[str] = []

    def and_then_change(path: str, status: trees.Survey) -> str:
        name = digest(path, status)
        if not read:
            files.write("a.txt", 20, "b")
        read.append(path)
        return name

    monkeypatch.setattr(module, "content_name", and_then_change)
    name = files.cache.obtain(source)
    assert name == digest(source, trees.survey(source))
    assert files.read(name) == "b" * 20
    assert files.cache.used == 30
    assert files.on_disk()[name] == 20


def test_file_that_changes_after_it_was_copied_is_read_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    source = old(files.write("a.txt", 10))
    copied = module.copy_named
    changed: list[str] = []

    def and_then_change(path: str, target: str, status: trees.Survey) -> str:
        name = copied(path, target, status)
        if not changed:
            changed.append(files.write("a.txt", 20, "b"))
        return name

    monkeypatch.setattr(module, "copy_named", and_then_change)
    assert files.read(files.cache.obtain(source)) == "a" * 10
    assert files.read(files.cache.obtain(source)) == "b" * 20


def test_executable_and_plain_file_are_cached_separately(files: Files) -> None:
    source = files.write("run.sh", 10, "x")
    os.chmod(source, 0o755)
    program = files.obtain("other.sh", 10, "x")
    name = files.cache.obtain(source)
    assert name != program
    assert os.access(files.cache.path(name), os.X_OK)
    assert not os.access(files.cache.path(program), os.X_OK)


def test_temp_file_is_moved_in(files: Files) -> None:
    made = files.write("out", 10)
    os.chmod(made, 0o400)
    assert files.cache.adopt("data@t1", made) == 10
    assert not os.path.exists(made)
    assert files.read("data@t1") == "o" * 10
    assert "data@t1" in files.cache
    assert os.stat(files.cache.path("data@t1")).st_mode & 0o777 == 0o600


def test_inserting_a_name_again_replaces_its_bytes(files: Files) -> None:
    for size in (60, 80, 20, 90):
        files.adopt("data@t1", size)
        assert files.cache.used == size
        assert files.on_disk() == {"data@t1": size}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_temp_file_that_is_a_link_is_copied(files: Files, link: Callable[[str, str], None]) -> None:
    target = files.write("target", 10)
    made = str(files.home / "made")
    link(target, made)
    files.cache.adopt("data@t1", made)
    files.write("target", 10, "x")
    assert files.read("data@t1") == "t" * 10


def test_temp_file_on_another_file_system_is_copied(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    made, rename = files.write("made", 10), os.rename

    def no_way(source: str, target: str) -> None:
        if source == made:
            raise OSError(errno.EXDEV, "another file system")
        rename(source, target)

    monkeypatch.setattr(os, "rename", no_way)
    assert files.cache.adopt("data@t1", made) == 10
    assert files.on_disk() == {"data@t1": 10}


def test_replica_is_fetched_once(files: Files) -> None:
    source = files.source("elsewhere", 10)
    assert files.cache.fetch("data@t1", source) == 10
    os.unlink(source.path)
    assert files.cache.fetch("data@t1", source) == 10
    assert files.cache.used == 10


@pytest.mark.parametrize("what", ["gone", "longer", "touched"])
def test_wrong_replica_is_not_fetched(files: Files, what: str) -> None:
    source = files.source("elsewhere", 10)
    if what == "gone":
        os.unlink(source.path)
    elif what == "longer":
        files.write("elsewhere", 11)
    else:

        def touched() -> bool:
            os.utime(source.path, (0, 0))
            return os.stat(source.path).st_ctime_ns != source.stamp

        eventually(touched)
    with pytest.raises(Spoiled) as caught:
        files.cache.fetch("data@t1", source)
    assert caught.value.errno == errno.ENOENT
    assert files.cache.used == 0
    assert files.on_disk() == {}


def test_replica_modified_during_its_copy_is_not_kept(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    source = files.source("elsewhere", 10)
    fill = copying.fill

    def and_then_change(path: str, target: str) -> None:
        fill(path, target)
        files.write("elsewhere", 12)

    monkeypatch.setattr(copying, "fill", and_then_change)
    with pytest.raises(Spoiled):
        files.cache.fetch("data@t1", source)
    assert files.cache.used == 0
    assert files.on_disk() == {}


def test_damaged_file_is_dropped(files: Files) -> None:
    files.adopt("data@t1", 10)
    path = files.cache.checked("data@t1")
    size, stamp = files.cache.stamp("data@t1")
    check(Source(path, size, stamp))
    with open(path, "a") as file:
        file.write("more")
    with pytest.raises(Spoiled, match="written to"):
        files.cache.checked("data@t1")
    assert "data@t1" not in files.cache
    assert files.cache.stamp("data@t1") == (0, 0)
    assert files.cache.used == 0
    with pytest.raises(Spoiled):
        files.cache.checked("data@t1")


def test_stamp_belongs_to_the_published_file(files: Files) -> None:
    for size in (10, 20):
        files.adopt("data@t1", size)
        assert files.cache.stamp("data@t1") == (size, os.stat(files.cache.path("data@t1")).st_ctime_ns)
    files.cache.drop("data@t1")
    assert files.cache.stamp("data@t1") == (0, 0)


# --- copies of users' files on other nodes ---


class Pair:
    """The caches of two nodes, and a file of the user that one of them has."""

    def __init__(self, files: Files) -> None:
        directory = files.home.parent / "second"
        directory.mkdir()
        self.second = Cache(str(directory), 100)
        self.source = old(files.write("a.txt", 10))
        name = files.cache.obtain(self.source)
        size, known, stamp = files.cache.known(self.source) or (0, "", ())
        assert (size, known) == (10, name)
        self.peer = Peer(files.cache.path(name), name, stamp)


def test_peers_copy_is_used_instead_of_the_file(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(files)
    for reader in ("content_name", "copy_named"):
        monkeypatch.setattr(module, reader, lambda path, *_: pytest.fail(f"{path} was read"))
    name = pair.second.obtain(pair.source, pair.peer)
    assert Path(pair.second.path(name)).read_text() == "a" * 10
    assert pair.second.known(pair.source) == files.cache.known(pair.source)
    assert pair.second.obtain(pair.source, pair.peer) == name
    assert pins(pair.second, name) == 2


@pytest.mark.parametrize("why", ["changed", "gone"])
def test_file_is_read_without_a_peer(files: Files, why: str) -> None:
    pair = Pair(files)
    if why == "changed":
        files.write("a.txt", 10, "b")
    else:
        os.unlink(pair.peer.path)
    name = pair.second.obtain(pair.source, pair.peer)
    assert Path(pair.second.path(name)).read_text() == ("b" if why == "changed" else "a") * 10
    assert pins(pair.second, name) == 1


def test_recently_changed_file_is_not_offered_to_peers(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLED_NS", 10**18)
    source = files.write("a.txt", 10)
    name = files.cache.obtain(source)
    assert files.cache.known(source) is None
    monkeypatch.setattr(module, "SETTLED_NS", -1)
    assert files.cache.obtain(source) == name
    assert files.cache.known(source) is not None
    files.cache.unpin(name)
    files.cache.unpin(name)
    files.cache.drop(name)
    assert files.cache.known(source) is None


@pytest.mark.parametrize("what", ["pipe", "pipe in a directory", "missing"])
def test_only_files_and_directories_are_accepted(files: Files, what: str) -> None:
    path = files.home / what
    if what == "pipe":
        os.mkfifo(path)
    elif what != "missing":
        path.mkdir()
        os.mkfifo(path / "pipe")
    for put in (files.cache.obtain, lambda path: files.cache.adopt("a@1", path)):
        with pytest.raises(OSError) as caught:
            put(str(path))
        assert caught.value.errno == (errno.ENOENT if what == "missing" else errno.EINVAL)
    assert files.cache.used == 0
    assert files.on_disk() == {}


@pytest.mark.parametrize("name", ["a/b@1", "ä ö@1", "x" * 300 + "@1", "\udcff@1", "../up@1"])
def test_any_name_is_one_file_in_the_directory(files: Files, name: str) -> None:
    files.cache.adopt(name, files.write("made", 10))
    assert list(files.on_disk()) == [file_name(name)]
    assert file_name(name) != file_name(name + "0")


# --- failures ---


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(source: str, target: str) -> None:
        Path(target).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(copying, "fill", write_half)
    monkeypatch.setattr(copying, "clone", lambda source, target: False)
    monkeypatch.setattr(module, "copy_named", lambda source, target, status: write_half(source, target))


@pytest.mark.usefixtures("full_disk")
def test_failed_copy_leaves_nothing(files: Files, tmp_path: Path) -> None:
    replica = files.source("a", 60)
    source = replica.path
    link = str(files.home / "link")
    os.symlink(source, link)
    for put in (
        lambda: files.cache.obtain(source),
        lambda: files.cache.fetch("t@1", replica),
        lambda: files.cache.adopt("t@1", link),
        lambda: copy(source, str(tmp_path / "target")),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            put()
        assert not isinstance(caught.value, QuotaExceeded)
        assert files.cache.used == 0
        assert files.on_disk() == {}
    assert sorted(os.listdir(tmp_path)) == ["cache", "home"]


def test_failed_replacement_keeps_the_old_file(files: Files) -> None:
    files.adopt("t@1", 60)
    with pytest.raises(QuotaExceeded):
        files.adopt("t@1", 101)
    assert files.read("t@1") == "t" * 60
    assert files.cache.used == 60


# --- directories ---


def make_tree(files: Files, text: str = "x") -> str:
    tree = files.home / "tree"
    (tree / "sub" / "empty").mkdir(parents=True, exist_ok=True)
    (tree / "sub" / "file").write_text(text)
    return str(tree)


def test_directory_is_cached_by_content(files: Files, tmp_path: Path) -> None:
    files.cache = Cache(str(files.directory), 1000)
    names = []
    for text in ("x", "x", "y"):
        names.append(files.cache.obtain(make_tree(files, text)))
        files.cache.unpin(names[-1])
    assert names[0] == names[1] != names[2]
    assert files.cache.used == sum(files.on_disk().values())
    deliver(files.cache.path(names[2]), str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "sub" / "file").read_text() == "y"
    assert (tmp_path / "copy" / "sub" / "empty").is_dir()


def test_unchanged_directory_is_not_archived_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.cache = Cache(str(files.directory), 1000)
    tree = make_tree(files)
    monkeypatch.setattr(module, "SETTLED_NS", -1)
    name = files.cache.obtain(tree)
    monkeypatch.setattr(trees, "pack", lambda path, *_: pytest.fail(f"{path} was read"))
    assert files.cache.obtain(tree) == name


def test_archive_of_the_user_stays_a_file(files: Files, tmp_path: Path) -> None:
    files.cache = Cache(str(files.directory), 1000)
    source = files.home / "a"
    for put in (files.cache.obtain, lambda path: files.cache.adopt("a@1", path)):
        source.write_bytes(trees.MAGIC)
        put(str(source))
    assert len(files.on_disk()) == 2
    for name in files.on_disk():
        deliver(files.cache.path(name), str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == trees.MAGIC
    assert files.cache.used == sum(files.on_disk().values())


def test_same_bytes_with_other_permissions_are_another_file(files: Files) -> None:
    names = set()
    source = files.write("a", 10)
    for mode in (0o600, 0o640, 0o755):
        os.chmod(source, mode)
        name = files.cache.obtain(source)
        names.add(name)
        assert stat.S_IMODE(os.stat(files.cache.path(name)).st_mode) == mode
    assert len(names) == 3


# --- what somebody does to the cache ---


@pytest.mark.parametrize("harm", [lambda path: os.truncate(path, 1), os.unlink], ids=["cut short", "deleted"])
def test_damaged_copy_of_a_users_file_is_replaced(files: Files, harm: Callable[[str], None]) -> None:
    source = old(files.write("a", 10))
    name = files.cache.obtain(source)
    files.cache.unpin(name)
    harm(files.cache.path(name))
    assert files.cache.obtain(source) == name
    assert files.read(name) == "a" * 10
    assert files.cache.used == 10


def test_modified_peers_copy_is_not_used(files: Files) -> None:
    pair = Pair(files)
    Path(pair.peer.path).write_text("b" * 10)
    name = pair.second.obtain(pair.source, pair.peer)
    assert Path(pair.second.path(name)).read_text() == "a" * 10


@pytest.mark.parametrize("grows", [True, False])
def test_only_a_growing_quota_grows_after_a_full_disk(files: Files, grows: bool) -> None:
    files.cache = Cache(str(files.directory), 0, grows=grows)
    if grows:
        files.adopt("a@1", 40)
        assert files.cache.used == 40
    else:
        with pytest.raises(QuotaExceeded):
            files.adopt("a@1", 40)


def test_quota_does_not_grow_beyond_the_disk(files: Files) -> None:
    files.cache = Cache(str(files.directory), 0, grows=True)
    there = os.statvfs(files.directory)
    with open(files.home / "large", "wb") as large:
        large.truncate(2 * there.f_blocks * there.f_frsize)  # a sparse file
    with pytest.raises(QuotaExceeded):
        files.cache.obtain(str(files.home / "large"))
