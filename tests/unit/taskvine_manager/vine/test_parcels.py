"""Parcels for nodes."""

from __future__ import annotations

from pathlib import Path

from taskvine_manager.messages import Invocation
from taskvine_manager.vine import parcels
from taskvine_manager.vine.parcels import Parcel


def test_small_parcel_rides_in_the_command(tmp_path: Path) -> None:
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
