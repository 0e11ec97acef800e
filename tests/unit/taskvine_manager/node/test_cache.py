"""The node's cache: what it holds, what it lets go, and what it leaves when something fails."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from taskvine_manager.node import cache as module
from taskvine_manager.node.cache import Cache, Peer, QuotaExceeded, Source, Spoiled, check, copy, deliver, file_name
from tests.conftest import eventually


class Files:
    """A cache of 100 bytes, and files to put into it."""

    def __init__(self, path: Path) -> None:
        self.home = path / "home"
        self.directory = path / "cache"
        self.home.mkdir()
        self.directory.mkdir()
        self.cache = Cache(str(self.directory), 100)

    def write(self, name: str, size: int, letter: str | None = None) -> str:
        """A file of the user's, or of a task's."""
        path = self.home / name
        path.write_text((letter or name[0]) * size)
        return str(path)

    def obtain(self, name: str, size: int, letter: str | None = None) -> str:
        """Have a user's file cached, used and let go."""
        cached = self.cache.obtain(self.write(name, size, letter))
        self.cache.unpin(cached)
        return cached

    def adopt(self, name: str, size: int) -> None:
        self.cache.adopt(name, self.write("made", size, name[0]))

    def source(self, name: str, size: int, letter: str | None = None) -> Source:
        """What is said of another node's replica."""
        path = self.write(name, size, letter)
        return Source(path, size, os.stat(path).st_ctime_ns)

    def on_disk(self) -> dict[str, int]:
        return {entry.name: entry.stat().st_size for entry in os.scandir(self.directory)}

    def read(self, name: str) -> str:
        return Path(self.cache.path(name)).read_text()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def old(path: str) -> str:
    """Make a file look long unchanged: a change time cannot be set, so the clock that it is compared with is."""
    eventually(lambda: time.time_ns() - os.stat(path).st_ctime_ns > module.SETTLED_NS)
    return path


# --- what is there ---


def test_user_file_is_cached_by_content_and_left_where_it_is(files: Files) -> None:
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
    for reader in ("_content_name", "_copy_named"):
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
def test_changed_file_is_read_again_even_with_its_old_size_and_times(files: Files, restored: bool) -> None:
    source = old(files.write("a.txt", 10))
    before = os.stat(source)
    first = files.cache.obtain(source)
    with open(source, "r+") as file:
        file.write("b" * 10)
    if restored:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = files.cache.obtain(source)
    assert (files.read(first), files.read(second)) == ("a" * 10, "b" * 10)


def test_file_written_twice_within_a_tick_of_the_clock_is_read_twice(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.trees, "stamp", lambda status: (status.st_ino,))  # a clock that never ticks
    source = files.write("a.txt", 10, "1")
    first = files.cache.obtain(source)
    files.write("a.txt", 10, "2")
    assert files.read(files.cache.obtain(source)) == "2" * 10
    assert files.read(first) == "1" * 10


def test_file_that_changes_while_it_is_looked_at_is_cached_as_what_was_copied(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.obtain("other.txt", 10)  # something of its size is there, so that it is looked at before it is copied
    source = files.write("a.txt", 10)
    digest = module._content_name
    read: list[str] = []

    def and_then_change(path: str, status: module.trees.Survey) -> str:
        name = digest(path, status)
        if not read:
            files.write("a.txt", 20, "b")
        read.append(path)
        return name

    monkeypatch.setattr(module, "_content_name", and_then_change)
    name = files.cache.obtain(source)
    assert name == digest(source, module.trees.survey(source))
    assert files.read(name) == "b" * 20
    assert files.cache.used == 30
    assert files.on_disk()[name] == 20


def test_file_that_changes_after_it_was_copied_is_read_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    source = old(files.write("a.txt", 10))
    copied = module._copy_named
    changed: list[str] = []

    def and_then_change(path: str, target: str, status: module.trees.Survey) -> str:
        name = copied(path, target, status)
        if not changed:
            changed.append(files.write("a.txt", 20, "b"))
        return name

    monkeypatch.setattr(module, "_copy_named", and_then_change)
    assert files.read(files.cache.obtain(source)) == "a" * 10
    assert files.read(files.cache.obtain(source)) == "b" * 20


def test_program_and_file_with_the_same_bytes_are_told_apart(files: Files) -> None:
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


def test_temp_file_from_another_file_system(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_replica_that_is_not_what_was_made_is_not_fetched(files: Files, what: str) -> None:
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


def test_replica_that_is_written_to_while_it_is_copied_is_not_kept(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = files.source("elsewhere", 10)
    fill = module._fill

    def and_then_change(path: str, target: str) -> None:
        fill(path, target)
        files.write("elsewhere", 12)

    monkeypatch.setattr(module, "_fill", and_then_change)
    with pytest.raises(Spoiled):
        files.cache.fetch("data@t1", source)
    assert files.cache.used == 0
    assert files.on_disk() == {}


def test_cached_file_is_checked_and_dropped_when_it_was_spoiled(files: Files) -> None:
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


def test_the_stamp_is_that_of_the_file_that_was_published(files: Files) -> None:
    for size in (10, 20):
        files.adopt("data@t1", size)
        assert files.cache.stamp("data@t1") == (size, os.stat(files.cache.path("data@t1")).st_ctime_ns)
    files.cache.drop("data@t1")
    assert files.cache.stamp("data@t1") == (0, 0)


# --- copies of users' files on other nodes ---


class Pair:
    """Two nodes' caches, and the user's file that one of them has."""

    def __init__(self, files: Files) -> None:
        directory = files.home.parent / "second"
        directory.mkdir()
        self.second = Cache(str(directory), 100)
        self.source = old(files.write("a.txt", 10))
        name = files.cache.obtain(self.source)
        size, known, stamp = files.cache.known(self.source) or (0, "", ())
        assert (size, known) == (10, name)
        self.peer = Peer(files.cache.path(name), name, stamp)


def test_copy_of_a_peer_is_taken_and_the_file_is_not_read(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(files)
    for reader in ("_content_name", "_copy_named"):
        monkeypatch.setattr(module, reader, lambda path, *_: pytest.fail(f"{path} was read"))
    name = pair.second.obtain(pair.source, pair.peer)
    assert Path(pair.second.path(name)).read_text() == "a" * 10
    assert pair.second.known(pair.source) == files.cache.known(pair.source)
    assert (pair.second.used, pair.second._pins) == (10, {name: 1})
    assert pair.second.obtain(pair.source, pair.peer) == name
    assert pair.second._pins == {name: 2}


@pytest.mark.parametrize("why", ["changed", "gone"])
def test_file_is_read_where_no_peer_can_give_it(files: Files, why: str) -> None:
    pair = Pair(files)
    if why == "changed":
        files.write("a.txt", 10, "b")
    else:
        os.unlink(pair.peer.path)
    name = pair.second.obtain(pair.source, pair.peer)
    assert Path(pair.second.path(name)).read_text() == ("b" if why == "changed" else "a") * 10
    assert (pair.second.used, pair.second._pins) == (10, {name: 1})


def test_what_may_still_change_unseen_is_offered_to_nobody(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_is_no_file_is_refused(files: Files, what: str) -> None:
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
def test_any_name_becomes_one_file_of_the_directory(files: Files, name: str) -> None:
    files.cache.adopt(name, files.write("made", 10))
    assert list(files.on_disk()) == [file_name(name)]
    assert file_name(name) != file_name(name + "0")


# --- quota ---


def test_least_recently_used_goes_first(files: Files) -> None:
    a, b, c = (files.obtain(name, 30) for name in "abc")
    files.cache.unpin(files.cache.obtain(str(files.home / "a")))
    d = files.obtain("d", 30)
    assert [name in files.cache for name in (a, b, c, d)] == [True, False, True, True]
    # The same content under another name is a use as well.
    assert files.obtain("other", 30, "c") == c
    e = files.obtain("e", 30)
    assert [name in files.cache for name in (a, c, d, e)] == [False, True, True, True]
    assert files.cache.used == sum(files.on_disk().values()) == 90


def test_temp_files_are_never_evicted(files: Files) -> None:
    files.adopt("t@1", 60)
    a = files.obtain("a", 30)
    files.adopt("u@1", 20)
    assert a not in files.cache
    with pytest.raises(QuotaExceeded) as caught:
        files.obtain("b", 21)
    assert caught.value.errno == errno.ENOSPC
    assert files.on_disk() == {"t@1": 60, "u@1": 20}


def test_what_cannot_fit_evicts_nothing(files: Files) -> None:
    files.adopt("t@1", 60)
    a = files.obtain("a", 30)
    for put in (lambda: files.obtain("b", 50), lambda: files.adopt("u@1", 101)):
        with pytest.raises(QuotaExceeded, match="can provide 40 bytes"):
            put()
    assert a in files.cache
    assert files.cache.used == 90


def test_pinned_file_is_waited_for_and_not_evicted(files: Files) -> None:
    held = files.cache.obtain(files.write("a", 60))
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(files.obtain, "b", 60)
        assert not second.done()
        files.cache.pin(held)
        files.cache.unpin(held)
        assert files.cache.obtain(str(files.home / "a")) == held  # pinned twice now
        files.cache.unpin(held)
        assert held in files.cache
        files.cache.unpin(held)
        assert second.result(10) in files.cache
    assert held not in files.cache
    assert files.cache.used == 60


def test_pins_of_temp_files_are_not_waited_for(files: Files) -> None:
    files.adopt("t@1", 60)
    files.cache.pin("t@1")
    with pytest.raises(QuotaExceeded):
        files.obtain("b", 50)


def test_dropped_file_gives_its_room_back(files: Files) -> None:
    files.adopt("t@1", 60)
    files.cache.drop("t@1")
    files.cache.drop("t@1")
    files.cache.drop("never@1")
    assert files.cache.used == 0
    assert files.on_disk() == {}
    files.adopt("t@1", 100)


def test_room_is_made_when_the_disk_is_full_before_the_quota_is(files: Files) -> None:
    files.adopt("t@1", 30)
    pinned = files.cache.obtain(files.write("a", 20))
    files.obtain("b", 40)
    assert files.cache.make_room() == 40
    assert files.cache.make_room() == 0
    assert files.on_disk() == {"t@1": 30, pinned: 20}


def test_empty_file_fits_a_full_cache(files: Files) -> None:
    files.adopt("t@1", 100)
    assert files.obtain("a", 0) in files.cache


# --- failures ---


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(source: str, target: str) -> None:
        Path(target).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(module, "_fill", write_half)
    monkeypatch.setattr(module, "_clone", lambda source, target: False)
    monkeypatch.setattr(module, "_copy_named", lambda source, target, status: write_half(source, target))


@pytest.mark.usefixtures("full_disk")
def test_failed_copy_leaves_nothing_and_gives_its_room_back(files: Files, tmp_path: Path) -> None:
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


def test_failed_replacement_keeps_what_was_there(files: Files) -> None:
    files.adopt("t@1", 60)
    with pytest.raises(QuotaExceeded):
        files.adopt("t@1", 101)
    assert files.read("t@1") == "t" * 60
    assert files.cache.used == 60


def test_copy_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new" * 1000)
    target.write_bytes(b"old")
    with open(target, "rb") as reader:
        assert copy(str(source), str(target)) == 3000
        assert reader.read() == b"old"  # who had it open reads on in what was there
    assert target.read_bytes() == b"new" * 1000
    with pytest.raises(FileNotFoundError):
        copy(str(tmp_path / "missing"), str(target))
    assert target.read_bytes() == b"new" * 1000
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


@pytest.mark.parametrize(("mode", "expected"), [(0o755, 0o755), (0o400, 0o600), (0o640, 0o640), (0o4755, 0o755)])
def test_copy_keeps_permissions_and_is_writable(tmp_path: Path, mode: int, expected: int) -> None:
    source = tmp_path / "source"
    source.touch()
    source.chmod(mode)
    copy(str(source), str(tmp_path / "target"))
    assert (tmp_path / "target").stat().st_mode & 0o7777 == expected


def test_name_of_any_length_can_be_copied(tmp_path: Path) -> None:
    source, target = tmp_path / ("a" * 255), tmp_path / ("b" * 255)
    source.write_text("long")
    copy(str(source), str(target))
    assert target.read_text() == "long"


# --- threads ---


def test_file_wanted_by_many_threads_is_copied_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [files.write(name, 50, "x") for name in ("a", "b")]
    publish, published = module.Cache._publish, []

    def slowly(cache: Cache, name: str, *args: Any, **kwargs: Any) -> None:
        published.append(name)
        time.sleep(0.01)
        publish(cache, name, *args, **kwargs)

    monkeypatch.setattr(module.Cache, "_publish", slowly)
    barrier = threading.Barrier(8)

    def obtain(number: int) -> str:
        barrier.wait(10)
        name = files.cache.obtain(sources[number % 2])
        assert files.read(name) == "x" * 50
        files.cache.unpin(name)
        return name

    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(obtain, range(8)))
    assert len(names) == len(published) == 1
    assert files.cache.used == 50
    assert files.cache._busy == {}
    assert files.cache._pins == {}


def test_threads_that_need_more_than_the_quota_together_take_turns(files: Files) -> None:
    sources = [files.write(f"{number:02}", 60, str(number % 10)) for number in range(20)]

    def obtain(source: str) -> None:
        name = files.cache.obtain(source)
        assert files.cache.used <= 100
        assert files.read(name) == Path(source).read_text()
        files.cache.unpin(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(obtain, sources))
    assert files.cache.used == 60


class CacheMachine(RuleBasedStateMachine):
    """Whatever is done to a cache: its count is the sum of its files, and within the quota."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.root = tempfile.TemporaryDirectory()
        self.files = Files(Path(self.root.name))
        self.temp: dict[str, int] = {}

    def teardown(self) -> None:
        self.root.cleanup()

    @rule(name=st.sampled_from("abcd"), size=st.integers(0, 120), letter=st.sampled_from("xy"))
    def obtain(self, name: str, size: int, letter: str) -> None:
        try:
            cached = self.files.obtain(name, size, letter)
        except QuotaExceeded:
            assert size + sum(self.temp.values()) > 100
        else:
            assert self.files.read(cached) == letter * size

    @rule(name=st.sampled_from("tuv"), size=st.integers(0, 120))
    def adopt(self, name: str, size: int) -> None:
        others = sum(self.temp.values()) - self.temp.get(name, 0)
        try:
            self.files.adopt(f"{name}@1", size)
        except QuotaExceeded:
            assert size + others > 100
        else:
            self.temp[name] = size

    @rule(name=st.sampled_from("tuv"), size=st.integers(0, 120))
    def fetch(self, name: str, size: int) -> None:
        source = self.files.source("elsewhere", size, name)
        try:
            fetched = self.files.cache.fetch(f"{name}@1", source)
        except QuotaExceeded:
            assert name not in self.temp
            assert size + sum(self.temp.values()) > 100
        else:
            assert fetched == self.temp.setdefault(name, size)

    @rule(name=st.sampled_from("tuv"))
    def drop(self, name: str) -> None:
        self.files.cache.drop(f"{name}@1")
        self.temp.pop(name, None)

    @rule()
    def make_room(self) -> None:
        self.files.cache.make_room()

    @invariant()
    def counts(self) -> None:
        on_disk = self.files.on_disk()
        assert self.files.cache.used == sum(on_disk.values()) <= 100
        assert {name: size for name, size in on_disk.items() if "@" in name} == {
            f"{name}@1": size for name, size in self.temp.items()
        }


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


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


def test_unchanged_directory_is_not_packed_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.cache = Cache(str(files.directory), 1000)
    tree = make_tree(files)
    monkeypatch.setattr(module, "SETTLED_NS", -1)
    name = files.cache.obtain(tree)
    monkeypatch.setattr(module.trees, "pack", lambda path, *_: pytest.fail(f"{path} was read"))
    assert files.cache.obtain(tree) == name


def test_file_that_could_be_taken_for_an_archive(files: Files, tmp_path: Path) -> None:
    files.cache = Cache(str(files.directory), 1000)
    source = files.home / "a"
    for put in (files.cache.obtain, lambda path: files.cache.adopt("a@1", path)):
        source.write_bytes(module.trees.MAGIC)
        put(str(source))
    for name in files.cache._sizes:
        deliver(files.cache.path(name), str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == module.trees.MAGIC
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
def test_users_file_that_was_spoiled_in_the_cache_is_read_again(files: Files, harm: Callable[[str], None]) -> None:
    source = old(files.write("a", 10))
    name = files.cache.obtain(source)
    files.cache.unpin(name)
    harm(files.cache.path(name))
    assert files.cache.obtain(source) == name
    assert files.read(name) == "a" * 10
    assert files.cache.used == 10


def test_peers_copy_that_somebody_has_written_to_is_not_taken(files: Files) -> None:
    pair = Pair(files)
    Path(pair.peer.path).write_text("b" * 10)
    name = pair.second.obtain(pair.source, pair.peer)
    assert Path(pair.second.path(name)).read_text() == "a" * 10
