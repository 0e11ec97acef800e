"""Equal buffers are stored once as long as a value needs them, and every value keeps its own bytes."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from taskvine_exec.submission.buffers import Buffers
from taskvine_exec.submission.functions import encode_arguments
from taskvine_manager.runtime import claims, payload

SIZE = payload.SHARED_FROM
COUNT = SIZE // 8


@pytest.fixture
def store() -> Buffers:
    return Buffers()


@pytest.fixture
def encode(store: Buffers, tmp_path: Path) -> Any:
    def encode(*args: Any, **kwargs: Any) -> str:
        path = encode_arguments(args, kwargs, str(tmp_path), buffers=store)
        assert isinstance(path, str)
        return path

    return encode


def stored(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("buffer-*") if not path.suffix]


def decode(path: str) -> Any:
    args, _ = payload.decode(path)
    return args[0]


def test_one_array_is_stored_once(store: Buffers, encode: Any, tmp_path: Path) -> None:
    array = np.arange(COUNT, dtype=float)
    paths = [encode(array, number) for number in range(10)]
    assert len(stored(tmp_path)) == 1
    assert sum(os.stat(path).st_blocks * 512 for path in tmp_path.rglob("*")) < 1.1 * SIZE
    assert store.stored() == SIZE
    assert store.shared == 9 * SIZE
    for number, path in enumerate(paths):
        (back, other), _ = payload.decode(path)
        assert other == number
        assert np.array_equal(back, array)
        assert payload.size(path) > SIZE
    for path in paths:
        assert store.stored() == SIZE
        payload.discard(path)
    assert store.stored() == 0
    assert os.listdir(tmp_path) == []


def test_only_equal_arrays_share(encode: Any, tmp_path: Path) -> None:
    array = np.arange(COUNT, dtype=float)
    paths = [encode(array), encode(array.copy())]
    assert len(stored(tmp_path)) == 1
    expected = [array.copy(), array.copy()]
    for place in [0, 1, 1000, COUNT // 2, COUNT // 2 + 1, COUNT - 500, COUNT - 1]:
        array[place] = -1  # in place
        paths.append(encode(array))
        expected.append(array.copy())
    assert len(stored(tmp_path)) == 8
    for path, before in zip(paths, expected, strict=True):
        assert np.array_equal(decode(path), before)


def test_arrays_of_different_length_do_not_share(encode: Any, tmp_path: Path) -> None:
    paths = [encode(np.zeros(COUNT + extra)) for extra in range(3)]
    assert [decode(path).size for path in paths] == [COUNT, COUNT + 1, COUNT + 2]
    assert len(stored(tmp_path)) == 3


def test_equal_samples_are_not_trusted(
    encode: Any, store: Buffers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More different buffers than a new one is compared with."""
    monkeypatch.setattr(store, "sample", lambda buffer: b"same")
    paths = [encode(np.full(COUNT, number)) for number in range(10)]
    again = [encode(np.full(COUNT, number)) for number in (9, 8, 7)]
    assert len(stored(tmp_path)) == 10
    assert store.stored() == 10 * SIZE
    assert [decode(path)[5] for path in (*paths, *again)] == [*range(10), 9, 8, 7]


def test_readers_get_private_copies(encode: Any) -> None:
    array = np.zeros(COUNT)
    first, second = encode(array), encode(array)
    one, other = decode(first), decode(second)
    one += 1
    assert not other.any()
    assert not decode(first).any()
    assert not decode(encode(array)).any()


def test_buffer_in_use_outlives_its_values(encode: Any, tmp_path: Path) -> None:
    path = encode(np.full(COUNT, 5.0))
    array = decode(path)
    payload.discard(path)
    encode(np.full(COUNT, 6.0))
    assert (array == 5).all()


def test_other_buffers_are_stored(store: Buffers, encode: Any, tmp_path: Path) -> None:
    """Bytes, read-only arrays, Fortran's order, and arrays in containers."""
    fixed = np.arange(COUNT)
    fixed.flags.writeable = False
    kinds = [os.urandom(SIZE), fixed, np.asfortranarray(np.arange(2.0 * COUNT).reshape(2, -1)), [{"a": np.ones(COUNT)}]]
    for count, value in enumerate(kinds, 1):
        first, second = decode(encode(value)), decode(encode(value))
        assert len(stored(tmp_path)) == count
        assert pickle.dumps(first) == pickle.dumps(second) == pickle.dumps(value)
        assert type(first) is type(value)
    data = os.urandom(SIZE)
    before = len(stored(tmp_path))
    _, kwargs = payload.decode(encode(1, key=data))
    assert kwargs == {"key": data}
    encode(data)
    assert len(stored(tmp_path)) == before + 1


def test_several_buffers_in_one_value(encode: Any, tmp_path: Path) -> None:
    small, one, other = np.arange(5000.0), np.arange(COUNT), np.ones(COUNT)
    encode(other)
    path = encode([small, one, small + 1, other, one])
    assert len(stored(tmp_path)) == 2
    back = decode(path)
    assert all(np.array_equal(*pair) for pair in zip(back, [small, one, small + 1, other, one], strict=True))
    payload.discard(path)
    assert len(stored(tmp_path)) == 1


def test_small_buffers_are_not_shared(encode: Any, tmp_path: Path) -> None:
    path = encode(np.zeros(COUNT - 1))
    assert os.listdir(tmp_path) == [os.path.basename(path)]
    assert payload.shared_by(path) == []


def test_removed_buffer_is_stored_again(store: Buffers, encode: Any, tmp_path: Path) -> None:
    array = np.arange(COUNT)
    for _ in range(3):
        path = encode(array)
        assert np.array_equal(decode(path), array)
        payload.discard(path)
        assert os.listdir(tmp_path) == []
    assert store.shared == 0


def test_buffer_removed_during_the_search(encode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(COUNT)
    first = encode(array)
    claim = claims.claim

    def late(file: str, path: str) -> None:
        payload.discard(first)
        claim(file, path)

    monkeypatch.setattr(claims, "claim", late)
    assert np.array_equal(decode(encode(array)), array)
    assert len(stored(tmp_path)) == 1


def test_buffer_is_copied_when_no_more_claims_fit(encode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are two files then; each is removed with its last claim."""
    array = np.arange(COUNT)
    first = encode(array)
    claim, refused = claims.claim, [OSError(errno.EMLINK, "Too many links")]

    def refuse(file: str, path: str) -> None:
        if refused:
            raise refused.pop()
        claim(file, path)

    monkeypatch.setattr(claims, "claim", refuse)
    second, third = encode(array), encode(array)
    assert len(stored(tmp_path)) == 2
    payload.discard(first)
    assert len(stored(tmp_path)) == 1
    assert np.array_equal(decode(second), array)
    payload.discard(second)
    assert np.array_equal(decode(third), array)


def test_threads_share_one_array(store: Buffers, encode: Any, tmp_path: Path) -> None:
    array, other = np.arange(COUNT), np.arange(COUNT) + 1
    gate = threading.Barrier(8)
    paths: list[tuple[int, str]] = []

    def submit(number: int) -> None:
        gate.wait(10)
        for _ in range(5):
            given = (array, other)[number % 2]
            paths.append((number % 2, encode(given)))

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored(tmp_path)) == 2
    assert store.shared == 38 * SIZE
    for which, path in paths:
        assert np.array_equal(decode(path), (array, other)[which])
        payload.discard(path)
    assert os.listdir(tmp_path) == []


def test_concurrent_submissions_and_removals(encode: Any, tmp_path: Path) -> None:
    array = np.arange(COUNT)
    wrong: list[str] = []

    def use() -> None:
        for _ in range(30):
            path = encode(array)
            if not np.array_equal(decode(path), array):
                wrong.append(path)
            payload.discard(path)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert os.listdir(tmp_path) == []


def test_unused_buffers_in_memory_are_overwritten(encode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = tmp_path / payload.FAST
    fast.mkdir()
    monkeypatch.setattr(payload, "roomy", lambda directory, size: str(fast))
    paths = [encode(np.zeros(COUNT)) for _ in range(2)]
    (file,) = stored(fast)
    inode = file.stat().st_ino
    payload.discard(paths[0])
    held = decode(paths[1])
    assert stored(fast) == [file]
    del held
    payload.discard(paths[1])
    path = encode(np.ones(COUNT))
    (file,) = stored(fast)
    assert file.stat().st_ino == inode
    assert decode(path).all()


def test_all_claims_are_on_the_file_system_of_the_buffer(
    encode: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When memory has become scarce in between, there is no second copy."""
    fast = tmp_path / payload.FAST
    fast.mkdir()
    monkeypatch.setattr(payload, "roomy", lambda directory, size: str(fast))
    array = np.zeros(COUNT)
    encode(array)
    monkeypatch.setattr(payload, "roomy", lambda directory, size: directory)
    assert os.path.dirname(encode(array)) == str(fast)
    assert len(stored(tmp_path)) == 1


@pytest.mark.parametrize("fails_at", range(5))
def test_a_full_disk_leaves_nothing(
    encode: Any, store: Buffers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    write, calls = os.write, iter(range(99))

    def full(descriptor: int, data: Any) -> int:
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    kept = encode(array := np.ones(COUNT))
    monkeypatch.setattr(os, "write", full)
    if fails_at < 4:
        words = "No space left on device"
        with pytest.raises(OSError, match=words if fails_at < 2 else f"{words}: an argument of 1 MB cannot be stored"):
            encode([array, np.zeros(COUNT), np.zeros(COUNT + 1)])
    payload.discard(kept)
    assert os.listdir(tmp_path) == []
    assert store.stored() == 0


def test_samples_of_removed_buffers_are_forgotten(store: Buffers, encode: Any) -> None:
    kept = encode(np.arange(COUNT))
    for number in range(200):
        payload.discard(encode(np.full(COUNT, float(number))))
    assert store.known < 100
    assert store.stored() == SIZE
    payload.discard(kept)


def test_sharing_value_may_be_renamed(encode: Any, tmp_path: Path) -> None:
    path = encode(array := np.arange(COUNT))
    payload.link(path, f"{path}-7")
    payload.discard(path)
    assert np.array_equal(decode(f"{path}-7"), array)
    payload.discard(f"{path}-7")
    assert os.listdir(tmp_path) == []


def test_copied_value_finds_its_buffers_beside_it(encode: Any, tmp_path: Path) -> None:
    arrays = [np.arange(COUNT), np.ones(COUNT)]
    path = encode(arrays)
    away = tmp_path / "away"
    away.mkdir()
    os.link(path, away / "a0")
    for claim in payload.shared_by(path):
        os.link(claims.claimed(claim), away / claim.replace(path, "a0"))
    payload.discard(path)
    for before, after in zip(arrays, decode(str(away / "a0")), strict=True):
        assert np.array_equal(before, after)
        after += 1
    assert np.array_equal(np.fromfile(away / "a0.0", dtype=arrays[0].dtype), arrays[0])


def test_without_a_store_values_are_single_files(tmp_path: Path) -> None:
    encode_arguments((np.zeros(COUNT),), {}, str(tmp_path))
    payload.encode(np.zeros(COUNT), str(tmp_path), cloudpickle.dumps)
    assert len(os.listdir(tmp_path)) == 2
