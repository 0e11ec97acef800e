"""Files in memory that are overwritten with new values; any local file system works here."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from taskvine_manager.runtime import payload, spares

SIZE = 2 * spares.LEAST


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    """The directory that a spool's link to memory points to."""
    (tmp_path / "fast").mkdir()
    return tmp_path / "fast"


def made(fast: Path, name: str = "value-a", size: int = SIZE, byte: bytes = b"a") -> str:
    path = fast / name
    path.write_bytes(byte * size)
    return str(path)


def left(fast: Path) -> list[str]:
    return sorted(str(path.relative_to(fast)) for path in fast.rglob("*") if path.is_file())


def test_spare_file_is_overwritten(fast: Path) -> None:
    inode = os.stat(path := made(fast)).st_ino
    assert spares.give(path)
    assert not os.path.exists(path)
    descriptor, taken = spares.take(str(fast), SIZE, "value-") or pytest.fail("there is one")
    os.close(descriptor)
    assert os.stat(taken).st_ino == inode
    assert os.path.dirname(taken) == str(fast)
    assert spares.take(str(fast), SIZE, "value-") is None
    assert left(fast) == [os.path.basename(taken)]


@pytest.mark.parametrize("how", ["open for reading", "open for writing", "mapped"])
def test_file_in_use_is_not_a_spare(fast: Path, how: str) -> None:
    with open(path := made(fast), "r+b" if how == "open for writing" else "rb") as file:
        if how == "mapped":
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            file.close()
            assert not spares.give(path)
            assert mapping[:1] == b"a"
            mapping.close()
        else:
            assert not spares.give(path)
    assert left(fast) == []


def test_file_with_another_name_is_not_a_spare(fast: Path) -> None:
    path = made(fast)
    os.link(path, other := f"{path}-kept")
    assert not spares.give(path)
    assert spares.take(str(fast), SIZE, "value-") is None
    assert Path(other).read_bytes() == b"a" * SIZE
    assert left(fast) == [os.path.basename(other)]


def test_best_fit_is_chosen(fast: Path) -> None:
    for number, factor in enumerate((1, 4, 2, 3)):
        assert spares.give(made(fast, f"value-{number}", factor * spares.LEAST))
    sizes = []
    for wanted in (1.5, 5, 1, 1):
        descriptor, _ = spares.take(str(fast), int(wanted * spares.LEAST), "v") or pytest.fail("there is one")
        sizes.append(os.fstat(descriptor).st_size // spares.LEAST)
        os.close(descriptor)
    assert sizes == [2, 4, 1, 3]


def test_small_files_and_too_many_are_removed(fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not spares.give(made(fast, size=spares.LEAST - 1))
    monkeypatch.setattr(spares, "MOST", 2 * SIZE)
    assert [spares.give(made(fast, f"value-{number}")) for number in range(3)] == [True, True, False]
    assert len(left(fast)) == 2


def test_removed_spare_is_skipped(fast: Path) -> None:
    assert not spares.give(str(fast / "value-none"))
    assert spares.take(str(fast / "nowhere"), SIZE, "value-") is None


def test_a_spare_that_cannot_be_opened_is_removed(fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spares.give(made(fast))
    real = os.open

    def refuse(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags == os.O_WRONLY:
            raise OSError(24, "Too many open files")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(spares.os, "open", refuse)
    assert spares.take(str(fast), SIZE, "value-") is None
    assert left(fast) == []


def test_values_overwrite_longer_and_shorter_ones(tmp_path: Path, fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "roomy", lambda directory, size: str(fast))
    for count in (1 << 19, 1 << 18, 3 << 18):
        path = payload.encode(array := np.arange(count, dtype=float), str(tmp_path), payload.pickle.dumps)
        assert isinstance(path, str)
        assert (payload.decode(path) == array).all()
        assert os.path.getsize(path) - array.nbytes < 4096
        payload.discard(path)
        assert len(left(fast)) == 1


def test_a_value_that_is_still_mapped_keeps_its_bytes(
    tmp_path: Path, fast: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "roomy", lambda directory, size: str(fast))
    first = payload.encode(np.full(1 << 18, 1.0), str(tmp_path), payload.pickle.dumps)
    read = payload.decode(first)
    payload.discard(first)
    payload.encode(np.full(1 << 18, 2.0), str(tmp_path), payload.pickle.dumps)
    assert (read == 1.0).all()


def test_a_full_disk_leaves_nothing(tmp_path: Path, fast: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "roomy", lambda directory, size: str(fast))
    spares.give(made(fast))

    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(payload.os, "write", refuse)
    with pytest.raises(OSError, match="No space"):
        payload.encode(np.zeros(1 << 18), str(tmp_path), payload.pickle.dumps)
    assert left(fast) == []
