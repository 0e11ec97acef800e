"""The record of a run: read as it was written, and up to the place where it was cut."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import given

from taskvine_manager.record import VERSION, Recorder, entries, read_record, writer
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import Completion, FileUse, Invocation, Profile

PROFILE = Profile(0, "key", "f", "L2", None, None, None, None, 0.0, "f")

names = st.text(max_size=8) | st.just("surrogate\udc80")
uses = st.builds(
    FileUse,
    st.sampled_from(["local", "temp", "value"]),
    names,
    names,
    st.integers(0, 9),
    st.sampled_from(["", "a", "w"]),
)
invocations = st.builds(
    Invocation,
    st.integers(0, 1 << 40),
    st.just(0),
    st.binary(max_size=8),
    st.lists(uses, max_size=3).map(tuple),
    st.lists(uses, max_size=3).map(tuple),
)


def write(path: Path) -> None:
    """A run with one entry of each kind."""
    recorder = Recorder(str(path), engine="embedded", tune_parameters={"temp-replica-count": 2})
    recorder.note("nodes", [{"name": "node-1", "cores": 2.0}])
    recorder.submitted([PROFILE], [Invocation(number, 0, b"12345") for number in range(4)])
    recorder.done([Completion(0, failure.RETURNED, b"123", "node-1", 1.0, 2.0, 0.5, (("f@t0", 10, 1),))])
    recorder.note("again", [1], "node node-1 left")
    recorder.done([Completion(1, failure.LOST, failure.lost("node-lost", "gone"), "node-1", 0.0, 0.0, 0.0)])
    recorder.note("cancelled", (2,))
    recorder.note("forgotten", ("f@t0",))
    recorder.note("tuned", {"temp-replica-count": 1})
    recorder.close()


def test_record_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "record"
    write(path)
    record = read_record(path)
    assert record.facts == {
        "engine": "embedded",
        "tune_parameters": {"temp-replica-count": 2},
        "details": False,
        "pid": os.getpid(),
        "host": os.uname().nodename,
    }
    assert record.profiles == {0: PROFILE}
    assert list(record.submitted) == [0, 1, 2, 3]
    assert record.submitted[0].size == 5
    assert record.done[0][:9] == (0, 0, "node-1", 1.0, 2.0, 0.5, 3, (("f@t0", 10),), "")
    assert record.done[1].kind == "node-lost"
    assert record.again == {1: 1}
    assert record.cancelled == {2}
    assert record.forgotten["f@t0"] >= record.started > 0
    assert record.nodes[0][1] == [{"name": "node-1", "cores": 2.0}]
    assert record.ended is not None
    assert path.stat().st_mode & 0o777 == 0o600


def test_truncated_record_is_read_up_to_the_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "record"
    write(path)
    data, whole = path.read_bytes(), list(entries(path))
    ends = [0]
    for entry in whole:
        ends.append(ends[-1] + len(msgpack.packb(entry, unicode_errors="surrogateescape")))
    assert ends[-1] == len(data)
    cut = tmp_path / "cut"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        assert list(entries(cut)) == whole[: sum(end <= length for end in ends) - 1]
        caplog.clear()
        assert read_record(cut).ended is None
        assert ("its last entry is cut off" in caplog.text) == (length not in ends)


@given(st.lists(st.lists(invocations, max_size=5), max_size=5))
def test_invocations_come_back(tmp_path_factory: pytest.TempPathFactory, batches: list[list[Invocation]]) -> None:
    path = tmp_path_factory.mktemp("record") / "record"
    recorder = Recorder(str(path))
    for batch in batches:
        recorder.submitted([], batch)
    recorder.flush()
    expected = {
        each.number: (each.profile, len(each.arguments), each.inputs, each.outputs) for b in batches for each in b
    }
    found = read_record(path).submitted
    assert {number: each[1:5] for number, each in found.items()} == expected
    recorder.close()


def test_sizes_of_values_in_files_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(bytes(1000))
    recorder = Recorder(str(tmp_path / "record"))
    recorder.submitted([PROFILE], [Invocation(0, 0, str(tmp_path / "value")), Invocation(1, 0, str(tmp_path / "gone"))])
    recorder.done([Completion(0, failure.RETURNED, str(tmp_path / "value"), "n", 1.0, 1.0, 1.0)])
    recorder.close()
    record = read_record(tmp_path / "record")
    assert [each.size for each in record.submitted.values()] == [1000, 0]
    assert record.done[0].size == 1000


def test_entries_are_written_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(writer.time, "monotonic", lambda: clock[0])
    path = tmp_path / "record"
    recorder = Recorder(str(path))
    recorder.note("cancelled", [1])
    assert path.stat().st_size == 0
    recorder.flush()
    assert len(list(entries(path))) == 2
    assert recorder.flush_due() is None
    clock[0] = 10.0
    recorder.note("cancelled", [2])
    assert recorder.flush_due() == writer.BATCH_SECONDS
    clock[0] += writer.BATCH_SECONDS
    assert len(list(entries(path))) == 2
    assert recorder.flush_due() is None
    assert len(list(entries(path))) == 3
    recorder.note("cancelled", list(range(writer.BATCH_BYTES)))
    assert len(list(entries(path))) == 4
    recorder.close()


def test_full_disk_ends_only_the_record(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "no" / "record"))
    recorder.note("cancelled", [1])
    recorder.close()
    recorder = Recorder("/dev/full")
    recorder.note("cancelled", [1])
    recorder.flush()
    recorder.note("cancelled", [2])
    recorder.close()


def test_unknown_entries_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "record"
    entries_: list[Any] = [
        ("run", VERSION, 1.0, {}, "more"),
        ("weather", "fair"),
        ("profiles", [(*PROFILE, "more")]),
        ("submitted", 2.0, [(5, 0, 1, [("temp", "a", "a@t1", 2, "", False, "more")], [], "more")]),
        ("done", 3.0, [(5, 0, "n", 1.0, 1.0, 1.0, 7, [], "", "more")]),
    ]
    path.write_bytes(b"".join(map(msgpack.packb, entries_)))
    record = read_record(path)
    assert record.submitted[5].inputs == (FileUse("temp", "a", "a@t1", 2),)
    assert record.done[5].time == 3.0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (msgpack.packb(("run", VERSION + 1, 1.0, {})), "version 2"),
        (msgpack.packb(("done", 1.0, [])), "not the record"),
        (b"\xc1", "not the record"),
        (pickle.dumps({"a": 1}), "not the record"),
        (b"text", "not the record"),
    ],
)
def test_foreign_file_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "record").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        read_record(tmp_path / "record")


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
_TAGS = ("run", "profiles", "submitted", "done", "again", "cancelled", "forgotten", "nodes", "end", "other")


@given(st.lists(st.tuples(st.sampled_from(_TAGS), st.lists(_values, max_size=4)), max_size=4))
def test_damaged_entries_are_value_errors(
    tmp_path_factory: pytest.TempPathFactory, damaged: list[tuple[str, list[Any]]]
) -> None:
    path = tmp_path_factory.mktemp("record") / "record"
    written = [("run", VERSION, 1.0, {}), *((tag, *rest) for tag, rest in damaged)]
    path.write_bytes(b"".join(map(msgpack.packb, written)))
    with contextlib.suppress(ValueError):
        read_record(path)


def test_writer_keeps_nothing_of_ended_tasks(tmp_path: Path) -> None:
    recorded = tmp_path / "record"
    recorder = Recorder(str(recorded))
    for start in range(0, 200_000, 1000):
        if start == 20_000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        recorder.submitted([], [Invocation(number, 0, b"12345") for number in range(start, start + 1000)])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # KiB
    written = recorded.stat().st_size
    recorder.close()
    assert recorded.stat().st_size - written < 2 * writer.BATCH_BYTES
    assert len(read_record(recorded).submitted) == 200_000
