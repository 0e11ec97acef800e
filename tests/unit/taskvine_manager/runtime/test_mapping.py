"""The bytes of files: mapped or read, private to their reader, and without open descriptors."""

from __future__ import annotations

import errno
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.runtime import mapping
from taskvine_manager.runtime.mapping import MAPPED_FROM, bytes_of


def write(path: Path, size: int) -> str:
    path.write_bytes(b"x" * size)
    return str(path)


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """Leave this process only a few descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, before[1]))
    yield 8
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def use_up_descriptors() -> list[int]:
    used = []
    try:
        while True:
            used.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    return used


@pytest.mark.parametrize("size", [0, 1, MAPPED_FROM - 1, MAPPED_FROM, MAPPED_FROM + 1])
def test_bytes_are_writable_and_private(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "file", size)
    before = mapping.count()
    whole = bytes_of(path)
    assert mapping.count() - before == (size >= MAPPED_FROM)
    assert whole == b"x" * size
    whole[:1] = b"y" * min(1, size)
    assert bytes_of(path) == b"x" * size
    os.unlink(path)
    assert len(bytes(whole)) == size


def test_mapped_files_keep_no_descriptors(tmp_path: Path, few_descriptors: int) -> None:
    paths = [write(tmp_path / str(number), MAPPED_FROM) for number in range(10 * few_descriptors)]
    assert len([bytes_of(path) for path in paths]) == len(paths)


@pytest.mark.parametrize("why", ["refused", "too many"])
def test_unmappable_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOMEM, "too many mappings")

    path = write(tmp_path / "file", 2 * MAPPED_FROM)
    if why == "refused":
        monkeypatch.setattr(mmap, "mmap", refuse)
    else:
        monkeypatch.setattr(mapping, "MOST_MAPPED", mapping.count())
    before = mapping.count()
    whole = bytes_of(path)
    assert mapping.count() == before
    assert whole == b"x" * 2 * MAPPED_FROM
    whole[0] = 7


def test_spare_descriptor_is_used_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_descriptors: int
) -> None:
    path = write(tmp_path / "file", 10)
    spare: list[int] = []
    monkeypatch.setattr(mapping, "_spare", spare)
    mapping.keep_spare()
    used = use_up_descriptors()
    try:
        for _ in range(3):
            assert bytes_of(path) == b"x" * 10
        os.close(spare.pop())
        used += use_up_descriptors()
        with pytest.raises(OSError, match="Too many open files"):
            bytes_of(path)
    finally:
        for descriptor in used:
            os.close(descriptor)
    assert bytes_of(path) == b"x" * 10
