"""A cache of 100 bytes: what it evicts, and threads that need more than it has."""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from taskvine_manager.node.cache import Cache, QuotaExceeded
from tests.unit.taskvine_manager.node.files import Files, pins


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# --- quota ---


def test_least_recently_used_goes_first(files: Files) -> None:
    a, b, c = (files.obtain(name, 30) for name in "abc")
    files.cache.unpin(files.cache.obtain(str(files.home / "a")))
    d = files.obtain("d", 30)
    assert [name in files.cache for name in (a, b, c, d)] == [True, False, True, True]
    # The same content under another name counts as a use.
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


def test_impossible_file_evicts_nothing(files: Files) -> None:
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


def test_dropped_file_frees_its_space(files: Files) -> None:
    files.adopt("t@1", 60)
    files.cache.drop("t@1")
    files.cache.drop("t@1")
    files.cache.drop("never@1")
    assert files.cache.used == 0
    assert files.on_disk() == {}
    files.adopt("t@1", 100)


def test_full_disk_evicts_below_the_quota(files: Files) -> None:
    files.adopt("t@1", 30)
    pinned = files.cache.obtain(files.write("a", 20))
    files.obtain("b", 40)
    assert files.cache.make_room() == 40
    assert files.cache.make_room() == 0
    assert files.on_disk() == {"t@1": 30, pinned: 20}


def test_empty_file_fits_a_full_cache(files: Files) -> None:
    files.adopt("t@1", 100)
    assert files.obtain("a", 0) in files.cache


# --- threads ---


def test_file_wanted_by_many_threads_is_copied_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [files.write(name, 50, "x") for name in ("a", "b")]
    publish, published = Cache._publish, []

    def slowly(cache: Cache, name: str, *args: Any, **kwargs: Any) -> None:
        published.append(name)
        time.sleep(0.01)
        publish(cache, name, *args, **kwargs)

    monkeypatch.setattr(Cache, "_publish", slowly)
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
    assert pins(files.cache, *names) == 0


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
    """After any operations on a cache, its count of bytes is the sum of its files, and within the quota."""

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
