"""Copies of files equal what was published, or count as lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from taskvine_manager.node.replicas import Source, Spoiled, check, is_lost


def published(path: Path) -> Source:
    path.write_text("data")
    status = path.stat()
    return Source(str(path), status.st_size, status.st_ctime_ns)


def test_unchanged_copy_is_accepted(tmp_path: Path) -> None:
    source = published(tmp_path / "file")
    check(source)
    source = source._replace(node="another")
    check(source)


def test_changed_copy_is_refused(tmp_path: Path) -> None:
    source = published(tmp_path / "file")
    for other in (source._replace(size=3), source._replace(stamp=source.stamp - 1)):
        with pytest.raises(Spoiled, match="it was written to since it was made") as caught:
            check(other)
        assert is_lost(caught.value, source.path)


def test_missing_copy_is_lost(tmp_path: Path) -> None:
    with pytest.raises(Spoiled, match="it no longer exists") as caught:
        check(Source(str(tmp_path / "none"), 1, 1))
    assert caught.value.errno == errno.ENOENT
    assert is_lost(caught.value, str(tmp_path / "none"))
    assert not is_lost(caught.value, str(tmp_path / "another"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOSPC])
def test_copy_that_cannot_be_looked_at_is_not_lost(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        with pytest.raises(OSError) as caught:
            check(Source("/file", 1, 1))
    assert not isinstance(caught.value, Spoiled)
    assert not is_lost(caught.value, "/file")
