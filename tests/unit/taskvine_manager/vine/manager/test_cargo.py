"""The contents of one parcel."""

from __future__ import annotations

from taskvine_manager.vine.manager.cargo import Cargo
from taskvine_manager.vine.manager.events import Staged
from taskvine_manager.vine.manager.tasks import Task
from taskvine_manager.wire.messages import FileUse, Invocation
from tests.unit.taskvine_manager.vine.manager.cores import PROFILE


def task(number: int, arguments: bytes | str = b"", *inputs: FileUse, outputs: tuple[FileUse, ...] = ()) -> Task:
    return Task(Invocation(number, 0, arguments, inputs, outputs), PROFILE, number)


def test_shared_parts_travel_once() -> None:
    cargo = Cargo(7, [("f", b"code")], {"r": b"value"})
    for number in range(3):
        cargo.add(task(number, b"", FileUse("value", "", "r"), FileUse("local", "a", "/a")), [])
    parcel = cargo.parcel(brief=True)
    assert (parcel.kind, parcel.number, parcel.brief) == ("run", 7, True)
    assert parcel.functions == (("f", b"code"),)
    assert parcel.profiles == (tuple(PROFILE),)
    assert [item[0] for item in parcel.invocations] == [0, 1, 2]
    assert (parcel.values, parcel.staged) == ({"r": b"value"}, {"/a": "i0"})
    assert cargo.inputs == [Staged("local", "/a", "i0")]
    assert cargo.reads == ()


def test_files_on_this_machine_are_named_by_path() -> None:
    cargo = Cargo(7, [("f", "/spool/f")], {})
    cargo.add(task(1, "/spool/a"), [])
    assert (cargo.inputs, cargo.parcel().staged) == ([], None)


def test_files_for_other_machines_travel() -> None:
    cargo = Cargo(7, [("f", "/spool/f")], {}, local=False)
    cargo.add(task(1, "/spool/a"), [])
    assert cargo.inputs == [Staged("local", "/spool/f", "f0"), Staged("arguments", "/spool/a", "a1")]


def test_shared_buffers_travel_beside_arguments() -> None:
    outputs = [FileUse("temp", "x", "x@1")]
    cargo = Cargo(7, [], {}, local=False)
    cargo.add(task(1, "/spool/sharing2-a"), [])
    cargo.add(task(2, "/spool/sharing1-b", outputs=tuple(outputs)), outputs)
    assert cargo.inputs == [
        Staged("arguments", "/spool/sharing2-a", "a0"),
        Staged("shared", "/spool/sharing2-a.0", "a0.0"),
        Staged("shared", "/spool/sharing2-a.1", "a0.1"),
        Staged("kept", "/spool/sharing1-b", "a1"),
        Staged("shared", "/spool/sharing1-b.0", "a1.0"),
    ]
    here = Cargo(7, [], {})
    here.add(task(2, "/spool/sharing1-b", outputs=tuple(outputs)), outputs)
    assert here.inputs == [Staged("kept", "/spool/sharing1-b", "/spool/sharing1-b-7")]


def test_arguments_are_kept_for_recreations() -> None:
    outputs = (FileUse("temp", "x", "x@1"), FileUse("local", "y", "/y"), FileUse("local", "log", "/log", 0, "a"))
    cargo = Cargo(7, [], {})
    cargo.add(task(1, "/spool/a", FileUse("temp", "w", "w@0"), outputs=outputs), list(outputs))
    assert cargo.inputs == [Staged("kept", "/spool/a", "/spool/a-7"), Staged("temp", "w@0", "i1")]
    assert cargo.outputs == [Staged("temp", "x@1", "o2"), Staged("brought", "/y", "o3"), Staged("added", "/log", "o4")]
    assert cargo.reads == ("w@0",)
    assert cargo.parcel().staged == {"/spool/a": "/spool/a-7", "w@0": "i1", ">x@1": "o2", ">/y": "o3", ">/log": "o4"}
