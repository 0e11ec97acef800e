"""Files and buffers with equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskvine_exec.parsl_hooks import comparison
from taskvine_exec.parsl_hooks.switches import COMPARISON
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch

SIZE = 3 * comparison.PIECE + 5


@pytest.mark.parametrize("make", [bytes, bytearray, lambda data: np.frombuffer(data, np.uint8)])
def test_equal_bytes_are_found(make: Any, tmp_path: Path, switch: Switch) -> None:
    switch(COMPARISON)
    data = np.random.default_rng(1).bytes(SIZE)
    (tmp_path / "file").write_bytes(data)
    assert comparison.holds(str(tmp_path / "file"), memoryview(make(data)))


@pytest.mark.parametrize("place", [0, comparison.PIECE - 1, comparison.PIECE, SIZE - 1])
def test_single_different_byte_is_found(place: int, tmp_path: Path, switch: Switch) -> None:
    switch(COMPARISON)
    data = bytearray(SIZE)
    (tmp_path / "file").write_bytes(data)
    data[place] = 1
    assert not comparison.holds(str(tmp_path / "file"), memoryview(data))


def test_different_length_is_found(tmp_path: Path, switch: Switch) -> None:
    switch(COMPARISON)
    (tmp_path / "file").write_bytes(bytes(SIZE))
    assert not comparison.holds(str(tmp_path / "file"), memoryview(bytes(SIZE - 1)))
