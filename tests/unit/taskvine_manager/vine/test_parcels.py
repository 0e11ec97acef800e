"""Parcels for nodes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from taskvine_manager.vine import parcels
from taskvine_manager.vine.parcels import Answer, Parcel
from taskvine_manager.wire.messages import Invocation


def test_small_parcel_is_in_the_command(tmp_path: Path) -> None:
    parcel = Parcel("run", 3, invocations=(tuple(Invocation(1, 2, b"args")),), values={"x": b"y"})
    command, data = parcels.pack(parcel)
    assert data is None
    assert not set(command) & set(" \n")  # the worker's pipe has no quoting
    assert parcels.unpack(command, str(tmp_path)) == parcel


def test_large_parcel_is_a_file(tmp_path: Path) -> None:
    parcel = Parcel("run", 3, invocations=(tuple(Invocation(1, 2, bytes(parcels.IN_COMMAND))),))
    command, data = parcels.pack(parcel)
    assert command == "-"
    assert data is not None
    (tmp_path / parcels.IN).write_bytes(data)
    assert parcels.unpack(command, str(tmp_path)) == parcel


@pytest.mark.parametrize("size", [0, 1, 600, 760, 5000])
def test_only_a_small_answer_is_output(size: int) -> None:
    answer = Answer("node", ((1, 0, b"\0" * size),))
    data, is_output = parcels.to_output(answer)
    assert is_output is (size <= 600)
    if is_output:
        assert len(data) <= parcels.IN_OUTPUT
        data = parcels.from_output(data.decode("ascii"))
    assert Answer(*pickle.loads(data)) == answer


def test_no_output_is_no_answer() -> None:
    assert parcels.from_output("") == parcels.from_output(None) == b""
