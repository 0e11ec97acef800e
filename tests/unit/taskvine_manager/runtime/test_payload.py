"""Values arrive as they were sent, belong to their reader, and damaged files are detected."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import struct
import tempfile
from pathlib import Path
from typing import Any

import cloudpickle
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from taskvine_manager.runtime import payload
from taskvine_manager.runtime.mapping import MAPPED_FROM

LARGE = payload.INLINE_LIMIT + 1

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=50)
    | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=10,
)
#: Values that stay in the pickle, values that go out of band, and empty ones.
lengths = st.sampled_from([0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 9000])
limits = st.sampled_from([0, 1, 5, 64, 2048, 20_000, payload.INLINE_LIMIT, payload.LARGEST_INLINE_LIMIT])
types = st.sampled_from(["<f8", ">f8", "<i8", "<c16", "u1", "?", "<U3", "datetime64[s]"])


@given(values, st.sampled_from([pickle.dumps, cloudpickle.dumps]))
@example(b"x" * LARGE, pickle.dumps)
@example({"key": ["x" * LARGE]}, cloudpickle.dumps)
def test_values_round_trip(tmp_path_factory: pytest.TempPathFactory, value: Any, dumps: payload.Dumps) -> None:
    spool = tmp_path_factory.mktemp("spool")
    encoded = payload.encode(value, str(spool), dumps)
    assert payload.decode(encoded) == value
    payload.discard(encoded)
    assert not os.listdir(spool)


@given(st.lists(st.integers(0, 20_000), max_size=6), limits)
def test_limit_decides_between_message_and_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int
) -> None:
    spool = tmp_path_factory.mktemp("spool")
    given_arrays = [np.arange(size, dtype="u1") for size in sizes]
    in_band = len(pickle.dumps(given_arrays, 5))
    encoded = payload.encode(given_arrays, str(spool), pickle.dumps, limit)
    assert isinstance(encoded, bytes) == (in_band <= limit)
    assert isinstance(encoded, str) or len(encoded) <= limit
    for before, after in zip(given_arrays, payload.decode(encoded), strict=True):
        assert np.array_equal(before, after)
        assert after.flags.writeable
    payload.discard(encoded)
    assert not os.listdir(spool)


@given(st.lists(st.tuples(lengths, types), min_size=1, max_size=4), st.booleans())
def test_arrays_round_trip_in_and_out_of_band(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, str]], fortran: bool
) -> None:
    given_arrays = [np.arange(2 * length).astype(kind).reshape(2, length, order="F") for length, kind in shapes]
    if fortran:
        given_arrays = [np.asfortranarray(array) for array in given_arrays]
    encoded = payload.encode(given_arrays, str(tmp_path_factory.mktemp("spool")), pickle.dumps)
    back = payload.decode(encoded)
    for before, after in zip(given_arrays, back, strict=True):
        assert after.dtype == before.dtype
        assert after.tobytes() == before.tobytes()
        assert after.flags.writeable
        assert after.flags.f_contiguous == before.flags.f_contiguous


def test_large_values_are_private_files(tmp_path: Path) -> None:
    assert isinstance(payload.encode("x" * 100, str(tmp_path), pickle.dumps), bytes)
    path = payload.encode("x" * LARGE, str(tmp_path), pickle.dumps)
    assert isinstance(path, str)
    assert os.path.dirname(path) == str(tmp_path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert payload.size(path) == os.path.getsize(path)
    assert payload.size(b"four") == 4


def test_large_buffers_are_laid_out_for_mapping(tmp_path: Path) -> None:
    arrays = [np.arange(5000.0), np.arange(7001, dtype="u1").repeat(3)]
    path = payload.encode(arrays, str(tmp_path), pickle.dumps)
    assert isinstance(path, str)
    whole = Path(path).read_bytes()
    magic, count, length = struct.unpack_from("<8sQQ", whole)
    assert (magic, count) == (payload.MAGIC, 2)
    assert length < 1000, "the arrays are in the pickle"
    for index, array in enumerate(arrays):
        offset, size = struct.unpack_from("<QQ", whole, 24 + 16 * index)
        assert offset % 64 == 0
        assert whole[offset : offset + size] == array.tobytes()


def test_values_are_writable_and_private(tmp_path: Path) -> None:
    path = payload.encode(np.zeros(10_000), str(tmp_path), pickle.dumps)
    before = Path(str(path)).read_bytes()
    first, second = payload.decode(path), payload.decode(path)
    first += 1
    assert not second.any()
    assert not payload.decode(path).any()
    assert Path(str(path)).read_bytes() == before


def test_value_outlives_its_file(tmp_path: Path) -> None:
    path = payload.encode(np.arange(10_000), str(tmp_path), pickle.dumps)
    array = payload.decode(path)[5000:]
    payload.discard(path)
    payload.discard(path)
    gc.collect()
    assert array[0] == 5000


def test_shared_array_stays_shared(tmp_path: Path) -> None:
    array = np.zeros(10_000)
    first, second = payload.decode(payload.encode((array, array), str(tmp_path), pickle.dumps))
    assert first is second


def test_read_only_arrays_stay_read_only(tmp_path: Path) -> None:
    array = np.zeros(10_000)
    array.flags.writeable = False
    assert not payload.decode(payload.encode(array, str(tmp_path), pickle.dumps)).flags.writeable


@pytest.mark.parametrize(
    "value", [["x" * LARGE], (np.arange(4096.0), np.arange(2100)), [np.zeros(20_000, "u1"), "y" * LARGE]]
)
def test_truncated_file_is_a_value_error(tmp_path: Path, value: Any) -> None:
    path = Path(str(payload.encode(value, str(tmp_path), pickle.dumps)))
    whole = path.read_bytes()
    cuts = {*range(200), *range(0, len(whole), 499), *range(len(whole) - 100, len(whole))}
    for cut in sorted(cuts):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError):
            payload.decode(str(path))


@given(st.binary(max_size=300))
@example(b"")
@example(payload.MAGIC + struct.pack("<QQ", 2**64 - 1, 2**64 - 1))
@example(payload.MAGIC + struct.pack("<QQQQ", 1, 0, 2**64 - 1, 1))
@example(payload.MAGIC + struct.pack("<QQQQ", 1, 0, 2**64 - 1, 2**64 - 1))
@example(b"TVXPAY02" + struct.pack("<QQ", 0, 0) + b"N.")
def test_foreign_file_is_a_value_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("spool") / "file"
    path.write_bytes(data)
    with pytest.raises(ValueError):
        payload.decode(str(path))


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        payload.decode(str(tmp_path / "none"))


@pytest.mark.parametrize("fails_at", range(4))
def test_a_full_disk_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    write, calls = os.write, iter(range(99))

    def full(descriptor: int, data: bytes) -> int:
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        payload.encode([np.zeros(5000), np.zeros(6000)], str(tmp_path), pickle.dumps)
    assert not os.listdir(tmp_path)


def test_full_memory_directory_falls_back_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory was filled after the check, or has no more inodes."""
    fast = tmp_path / payload.FAST
    fast.mkdir()
    make = tempfile.mkstemp

    def full(prefix: str, dir: str) -> tuple[int, str]:
        if dir == str(fast):
            raise OSError(errno.ENOSPC, "No space left on device", dir)
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(payload, "roomy", lambda directory, size: str(fast))
    monkeypatch.setattr(tempfile, "mkstemp", full)
    path = payload.encode(np.arange(9000), str(tmp_path), pickle.dumps)
    assert os.path.dirname(str(path)) == str(tmp_path)
    assert np.array_equal(payload.decode(path), np.arange(9000))


def test_partial_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1000]))
    array = np.arange(5000)
    assert np.array_equal(payload.decode(payload.encode(array, str(tmp_path), pickle.dumps)), array)


def test_unpicklable_value_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        payload.encode([np.zeros(5000), memoryview(b"")], str(tmp_path), pickle.dumps)
    assert not os.listdir(tmp_path)


def test_mapping_ends_with_its_last_object(tmp_path: Path) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as file:
            return sum(str(tmp_path) in line for line in file)

    path = payload.encode([np.zeros(MAPPED_FROM), np.ones(MAPPED_FROM)], str(tmp_path), pickle.dumps)
    first, second = payload.decode(path)
    assert mapped() == 1
    del first
    assert mapped() == 1
    assert second.sum() == MAPPED_FROM
    del second
    gc.collect()
    assert mapped() == 0


@pytest.mark.parametrize(
    ("number", "lost"),
    [
        *[(number, True) for number in (errno.ENOENT, errno.ESTALE)],
        *[(number, False) for number in (errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.ENOSPC, errno.EIO)],
    ],
)
def test_only_some_errors_mean_that_a_file_is_lost(number: int, lost: bool) -> None:
    assert payload.is_lost(OSError(number, os.strerror(number))) is lost
    assert payload.is_lost(payload.Damaged("cut short"))
    assert not payload.is_lost(ValueError("of the user's class"))
