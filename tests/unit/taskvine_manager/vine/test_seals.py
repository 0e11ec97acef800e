"""Seals: they show whether a file is complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskvine_manager.vine import seals


@pytest.fixture(params=[b"", b"x", b"x" * 100_000], ids=len)
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.write_bytes(request.param)
    assert seals.seal(str(path)) == len(request.param)
    return path


def test_seal_contains_the_length(sealed: Path) -> None:
    length = seals.check(str(sealed))
    assert sealed.read_bytes()[:length].count(b"x") == length


def test_truncated_file_is_noticed(sealed: Path) -> None:
    whole = sealed.stat().st_size
    for left in {0, 1, 7, 8, 15, 16, whole // 2, whole - 1} - {whole}:
        content = sealed.read_bytes()
        os.truncate(sealed, min(left, whole - 1))
        with pytest.raises(seals.Cut) as caught:
            seals.check(str(sealed))
        assert caught.value.filename == str(sealed)
        sealed.write_bytes(content)


def test_extended_file_is_noticed(sealed: Path) -> None:
    with sealed.open("ab") as file:
        file.write(b"more")
    with pytest.raises(seals.Cut):
        seals.check(str(sealed))


def test_missing_file_is_not_truncated(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        seals.check(str(tmp_path / "never"))
