"""Copies of files: they appear whole, and keep their permissions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskvine_manager.node.copying import copy


def test_copy_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new" * 1000)
    target.write_bytes(b"old")
    with open(target, "rb") as reader:
        assert copy(str(source), str(target)) == 3000
        assert reader.read() == b"old"  # a reader that has it open still reads the old bytes
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
