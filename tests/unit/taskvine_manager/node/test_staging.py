"""Sandboxes: inputs, outputs, and the errors for files that cannot be staged."""

from __future__ import annotations

import errno
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.node import cache as cache_module
from taskvine_manager.node import copying, staging, trees
from taskvine_manager.node.cache import Cache, QuotaExceeded
from taskvine_manager.node.replicas import Peer, Source
from taskvine_manager.node.staging import bring_in, bring_out
from taskvine_manager.runtime.payload import FAST
from taskvine_manager.wire.messages import FileUse


class Place:
    """A user's directory, a node's cache of 100 bytes, and a sandbox."""

    def __init__(self, path: Path) -> None:
        self.user, self.directory, self.sandbox = (path / name for name in ("user", "cache", "sandbox"))
        for directory in (self.user, self.directory, self.sandbox):
            directory.mkdir()
        self.cache = Cache(str(self.directory), 100)

    def local(self, name: str, path: str | None = None) -> FileUse:
        return FileUse("local", name, str(self.user / (path or name)))

    def try_to_bring_in(
        self,
        *inputs: FileUse,
        outputs: tuple[FileUse, ...] = (),
        peers: dict[str, Peer] | None = None,
        **sources: Source,
    ) -> bytes | None:
        replicas = {f"{name}@1": source for name, source in sources.items()}
        return bring_in(inputs, outputs, str(self.sandbox), self.cache, replicas, peers or {})

    def bring_in(self, *inputs: FileUse, **more: Any) -> None:
        assert self.try_to_bring_in(*inputs, **more) is None

    def bring_out(
        self, *outputs: FileUse, required: bool = True
    ) -> tuple[list[tuple[str, int]], dict[str, Any] | None]:
        made, record = bring_out(outputs, str(self.sandbox), self.cache, required=required)
        for name, size, stamp in made:
            assert (size, stamp) == self.cache.stamp(name)
            assert stamp == os.stat(self.cache.path(name)).st_ctime_ns
        return [(name, size) for name, size, _ in made], None if record is None else pickle.loads(record)

    def refusal(self, *inputs: FileUse, outputs: tuple[FileUse, ...] = (), **sources: Source) -> dict[str, Any]:
        record = self.try_to_bring_in(*inputs, outputs=outputs, **sources)
        assert record is not None
        self.has_no_pins()
        found: dict[str, Any] = pickle.loads(record)
        return found

    def has_no_pins(self) -> None:
        """Evict all inputs, and fail if one is pinned."""
        self.cache.make_room()
        assert [name for name in os.listdir(self.directory) if "@" not in name] == []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def temp(name: str) -> FileUse:
    return FileUse("temp", name, f"{name}@1")


def replica(path: Path) -> Source:
    """Describe a file on another node, as it was published."""
    status = path.stat()
    return Source(str(path), status.st_size, status.st_ctime_ns)


# --- in ---


def test_inputs_are_writable_copies_in_their_folders(place: Place) -> None:
    (place.user / "a.txt").write_text("user's")
    (place.user / "a.txt").chmod(0o444)
    place.bring_in(place.local("sub/folder/a.txt", "a.txt"))
    inside = place.sandbox / "sub" / "folder" / "a.txt"
    inside.write_text("task's")
    assert (place.user / "a.txt").read_text() == "user's"
    other = place.sandbox / "b.txt"
    place.bring_in(place.local("b.txt", "a.txt"))
    assert other.read_text() == "user's"
    assert len(os.listdir(place.directory)) == 1
    place.has_no_pins()


def test_inputs_stay_executable(place: Place) -> None:
    (place.user / "run.sh").write_text("#!/bin/sh")
    (place.user / "run.sh").chmod(0o755)
    place.bring_in(place.local("run.sh"))
    assert os.access(place.sandbox / "run.sh", os.X_OK)


def test_temp_file_comes_from_the_cache_or_from_another_node(place: Place) -> None:
    elsewhere = place.user / "elsewhere"
    elsewhere.write_text("data")
    source = replica(elsewhere)
    place.bring_in(temp("t"), t=source)
    assert (place.sandbox / "t").read_text() == "data"
    elsewhere.unlink()
    (place.sandbox / "t").unlink()
    place.bring_in(temp("t"), t=source)
    assert (place.sandbox / "t").read_text() == "data"
    assert place.cache.used == 4


def test_value_is_staged_only_into_the_cache(place: Place) -> None:
    elsewhere = place.user / "elsewhere"
    elsewhere.write_text("data")
    place.bring_in(FileUse("value", "", "v@1"), v=replica(elsewhere))
    assert Path(place.cache.path("v@1")).read_text() == "data"
    assert os.listdir(place.sandbox) == []


def test_users_file_is_copied_from_a_peer_and_not_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.user / "a"
    source.write_text("data")
    other = place.user.parent / "other"
    other.mkdir()
    node = Cache(str(other), 100)
    name = node.obtain(str(source))
    peer = Peer(node.path(name), name, trees.stamp(source.stat()))
    monkeypatch.setattr(cache_module, "copy_named", lambda *_: pytest.fail("the user's file was read"))
    place.bring_in(place.local("a"), peers={str(source): peer})
    assert (place.sandbox / "a").read_text() == "data"
    assert place.cache.used == 4
    assert name in place.cache
    place.has_no_pins()


def test_users_file_changed_since_the_peers_copy_is_read(place: Place) -> None:
    source = place.user / "a"
    source.write_text("new")
    old = place.user / "old"
    old.write_text("old")
    place.bring_in(place.local("a"), peers={str(source): Peer(str(old), "name", (0,))})
    assert (place.sandbox / "a").read_text() == "new"


def test_modified_temp_file_is_lost(place: Place) -> None:
    elsewhere = place.user / "elsewhere"
    elsewhere.write_text("data")
    source = replica(elsewhere)
    elsewhere.write_text("else")
    assert place.refusal(temp("t"), t=source._replace(stamp=source.stamp - 1))["kind"] == "file-lost"
    (place.sandbox / "u").write_text("data")
    place.bring_out(temp("u"))
    Path(place.cache.path("u@1")).write_text("longer data")
    record = place.refusal(temp("u"))
    assert (record["kind"], record["name"]) == ("file-lost", "u@1")
    assert "written to" in record["reason"]
    assert "u@1" not in place.cache


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("kind", ["temp", "value"])
def test_temporarily_unreadable_file_is_not_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    source = place.user / "other"
    source.write_text("data")
    use = FileUse(kind, "t", "t@1")

    def refuse(path: str, target: str) -> None:
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patched:
        patched.setattr(copying, "fill", refuse)
        assert place.refusal(use, t=replica(source))["kind"] == "file-unreadable"
    place.bring_in(use, t=replica(source))
    assert "t@1" in place.cache


def test_only_a_missing_source_is_a_loss(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    source = place.user / "other"
    source.write_text("data")
    use = temp("t")
    place.cache.fetch("t@1", replica(source))
    for path, kind in ((place.cache.path("t@1"), "file-lost"), (str(place.sandbox / "t"), "file-unreadable")):

        def miss(_: str, target: str, path: str = path) -> None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)

        with monkeypatch.context() as patched:
            patched.setattr(copying, "fill", miss)
            assert place.refusal(use, t=replica(source))["kind"] == kind


def test_folders_of_outputs_are_made(place: Place) -> None:
    place.bring_in(outputs=(place.local("deep/er/out.txt"), temp("x/y")))
    assert (place.sandbox / "deep" / "er").is_dir()
    assert (place.sandbox / "x").is_dir()


def test_missing_input_is_reported(place: Place) -> None:
    (place.user / "a").write_text("a")
    record = place.refusal(place.local("a"), place.local("b"))
    assert (record["kind"], record["path"]) == ("file-missing", str(place.user / "b"))
    assert "No such file" in record["reason"]


def test_directory_is_staged_with_its_contents(place: Place) -> None:
    (place.user / "a" / "b" / "empty").mkdir(parents=True)
    (place.user / "a" / "b" / "c").write_text("c")
    place.cache = Cache(str(place.directory), 1000)
    place.bring_in(place.local("x/y", "a"))
    assert (place.sandbox / "x" / "y" / "b" / "c").read_text() == "c"
    assert (place.sandbox / "x" / "y" / "b" / "empty").is_dir()
    assert len(os.listdir(place.directory)) == 1
    place.has_no_pins()


def test_directory_without_space_is_refused(place: Place) -> None:
    (place.user / "a").mkdir()
    for name in "bc":
        (place.user / "a" / name).write_text(name * 60)
    assert place.refusal(place.local("a"))["kind"] == "disk-full"
    assert os.listdir(place.directory) == []


@pytest.mark.parametrize("sources", [{}, {"t": Source("/nowhere/taskvine/t@1", 1, 1)}])
def test_temp_file_without_replica_is_lost_and_names_the_nodes(place: Place, sources: dict[str, Source]) -> None:
    record = place.refusal(temp("t"), **sources)
    assert (record["kind"], record["name"]) == ("file-lost", "t@1")
    assert (sources["t"].path if sources else "no node is known to have it") in record["reason"]


@pytest.mark.parametrize("name", ["..", "../a", "a/../../b", "", "/etc/passwd"])
def test_names_outside_of_the_sandbox_are_refused(place: Place, name: str) -> None:
    (place.user / "a").write_text("a")
    before = sorted(os.listdir(place.user.parent))
    assert place.refusal(place.local(name, "a"))["kind"] == "file-missing"
    assert place.refusal(outputs=(place.local(name, "a"),))["kind"] == "output-missing"
    assert sorted(os.listdir(place.user.parent)) == before


def test_impossible_names_are_refused(place: Place) -> None:
    assert place.refusal(FileUse("local", "a", "/tmp/nul\0"))["kind"] == "file-missing"
    (place.user / "file").write_text("")
    place.bring_in(place.local("file"))
    assert place.refusal(outputs=(place.local("file/below"),))["kind"] == "output-missing"


def test_input_above_the_quota_is_refused(place: Place) -> None:
    (place.user / "big").write_text("x" * 101)
    record = place.refusal(place.local("big"))
    assert record["kind"] == "disk-full"
    assert "no room for big" in record["reason"]
    assert str(place.directory) in record["path"]


# --- out ---


def test_outputs_are_moved_to_their_places(place: Place) -> None:
    place.bring_in(outputs=(place.local("deep/out.txt", "new/folder/out.txt"), temp("t")))
    (place.sandbox / "deep" / "out.txt").write_text("out")
    (place.sandbox / "t").write_text("temp")
    (place.sandbox / "else").write_text("not declared")
    made, record = place.bring_out(place.local("deep/out.txt", "new/folder/out.txt"), temp("t"))
    assert (made, record) == ([("t@1", 4)], None)
    assert (place.user / "new" / "folder" / "out.txt").read_text() == "out"
    assert os.listdir(place.user) == ["new"]


def test_outputs_stay_executable(place: Place) -> None:
    (place.sandbox / "tool").touch(0o700)
    place.bring_out(place.local("tool"))
    assert stat.S_IMODE((place.user / "tool").stat().st_mode) == 0o700


def test_missing_output_is_reported(place: Place) -> None:
    (place.sandbox / "b").write_text("b")
    (place.sandbox / "t").write_text("temp")
    made, record = place.bring_out(place.local("a"), place.local("b"), temp("t"), temp("u"))
    assert record is not None
    assert (record["kind"], record["path"]) == ("output-missing", "a")
    assert made == []
    assert "t@1" not in place.cache, "a consumer would take it for whole"
    assert os.listdir(place.user) == ["b"]


def test_failed_task_brings_home_only_users_files(place: Place) -> None:
    (place.sandbox / "log").write_text("why")
    (place.sandbox / "t").write_text("half")
    assert place.bring_out(place.local("log"), place.local("a"), temp("t"), required=False) == ([], None)
    assert (place.user / "log").read_text() == "why"
    assert place.cache.used == 0


def test_temp_file_waits_for_space(place: Place) -> None:
    (place.user / "big").write_text("x" * 30)
    place.bring_in(place.local("big"))
    (place.sandbox / "t").write_text("t" * 60)
    (place.sandbox / "u").write_text("u" * 60)
    with pytest.raises(QuotaExceeded):
        place.bring_out(temp("t"), temp("u"))
    assert (place.sandbox / "u").read_text() == "u" * 60
    (place.sandbox / "u").write_text("u" * 40)
    assert place.bring_out(temp("t"), temp("u")) == ([("t@1", 60), ("u@1", 40)], None)
    assert place.cache.used == 100


def test_full_disk_takes_back_all_temp_files_of_the_task(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    adopt = place.cache.adopt

    def no_space(name: str, made: str, within: str) -> int:
        if name == "u@1":
            raise OSError(errno.ENOSPC, "No space left on device", made)
        return adopt(name, made, within)

    monkeypatch.setattr(place.cache, "adopt", no_space)
    (place.sandbox / "t").write_text("t" * 10)
    (place.sandbox / "u").write_text("u" * 10)
    made, record = place.bring_out(temp("t"), temp("u"))
    assert made == []
    assert record is not None
    assert (record["kind"], "no room for u" in record["reason"]) == ("disk-full", True)
    assert place.cache.used == 0


def test_output_may_be_a_directory(place: Place) -> None:
    place.cache = Cache(str(place.directory), 1000)
    place.bring_in(outputs=(place.local("new"), place.local("old")._replace(directory=True)))
    assert os.listdir(place.sandbox) == ["old"], "a directory that the user has is there for the task"
    (place.user / "old").mkdir()
    (place.user / "old" / "mine").write_text("mine")
    (place.user / "old" / "b").write_text("to be replaced")
    for name in ("new", "old"):
        (place.sandbox / name / "empty").mkdir(parents=True)
        (place.sandbox / name / "b").write_text("b")
    (place.sandbox / "t").mkdir()
    (place.sandbox / "t" / "b").write_text("b")
    made, record = place.bring_out(place.local("new"), place.local("old"), temp("t"))
    assert record is None
    assert [name for name, _ in made] == ["t@1"]
    assert place.cache.used == made[0][1] == os.path.getsize(place.cache.path("t@1"))
    assert sorted(os.listdir(place.user / "new")) == ["b", "empty"]
    assert sorted(os.listdir(place.user / "old")) == ["b", "empty", "mine"]
    assert (place.user / "old" / "b").read_text() == "b"
    place.bring_in(FileUse("temp", "again", "t@1"))
    assert (place.sandbox / "again" / "b").read_text() == "b"


@pytest.mark.parametrize("made", ["file", "directory"])
def test_file_and_directory_do_not_replace_each_other(place: Place, made: str) -> None:
    if made == "file":
        (place.sandbox / "a").write_text("a")
        (place.user / "a").mkdir()
    else:
        (place.sandbox / "a").mkdir()
        (place.user / "a").write_text("mine")
    _, record = place.bring_out(place.local("a"))
    assert record is not None
    assert (record["kind"], record["path"], "is a" in record["reason"].lower()) == ("output-missing", "a", True)
    assert (place.user / "a").is_dir() == (made == "file")


def test_unwritable_output_is_reported(place: Place) -> None:
    (place.sandbox / "a").write_text("a")
    (place.user / "file").write_text("")
    _, record = place.bring_out(place.local("a", "file/below"))
    assert record is not None
    assert record["kind"] == "output-missing"


# --- a full disk ---


def test_full_disk_is_tried_again_when_there_is_space(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = copying.fill

    def disk_of_70_bytes(source: str, target: str) -> None:
        used = sum(path.stat().st_size for path in (*place.directory.iterdir(), *place.sandbox.iterdir()))
        if used + os.path.getsize(source) > 70:
            raise OSError(errno.ENOSPC, "No space left on device", target)
        fill(source, target)

    monkeypatch.setattr(copying, "fill", disk_of_70_bytes)
    for name in ("a", "b"):
        (place.user / name).write_text(name * 30)
        place.bring_in(place.local(name))
        (place.sandbox / name).unlink()
    assert place.cache.used == 30
    (place.user / "c").write_text("c" * 40)
    assert place.refusal(place.local("c"))["kind"] == "disk-full"  # 40 in the cache and 40 in the sandbox
    assert os.listdir(place.sandbox) == []


# --- the end of a run ---


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The private directory of a run, and its directory in memory."""
    base, memory = tmp_path / "taskvine-run", tmp_path / "memory"
    (base / "spool").mkdir(parents=True)
    memory.mkdir()
    monkeypatch.setenv(staging.MEMORY_VARIABLE, str(memory))
    monkeypatch.setattr(staging, "_LEAST_MEMORY", 0)
    directory = staging.keep_in_memory(str(base))
    assert directory is not None
    (Path(directory) / "value").touch()
    return base, Path(directory)


def test_run_is_removed_with_its_files_in_memory(run: tuple[Path, Path]) -> None:
    base, memory = run
    staging.remove_run(str(base))
    assert not base.exists()
    assert not memory.exists()


def test_link_planted_by_a_task_is_not_followed(run: tuple[Path, Path], tmp_path: Path) -> None:
    base, memory = run
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").touch()
    (base / "spool" / FAST).unlink()
    (base / "spool" / FAST).symlink_to(tmp_path / "home")
    staging.remove_run(str(base))
    assert not base.exists()
    assert not memory.exists()
    assert (tmp_path / "home" / "thesis").exists()


def test_files_in_memory_are_found_without_their_link(run: tuple[Path, Path]) -> None:
    base, memory = run
    (base / "spool").rename(base / "moved")
    assert staging.memory_of(str(base)) == str(memory)


def test_files_of_other_runs_in_memory_stay(run: tuple[Path, Path]) -> None:
    base, memory = run
    (memory / staging.MARK).write_text("/tmp/another")
    staging.remove_run(str(base))
    assert memory.exists()


def test_only_the_runs_files_are_released_with_a_cache(run: tuple[Path, Path], tmp_path: Path) -> None:
    base, memory = run
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "thesis").touch()
    (cache / "result").symlink_to(memory / "value")
    (cache / "planted").symlink_to(tmp_path / "thesis")
    cache_module.release(str(cache), staging.memory_of(str(base)))
    assert not (memory / "value").exists()
    assert (tmp_path / "thesis").exists()
