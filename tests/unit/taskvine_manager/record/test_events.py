"""Events of a record: each type comes back as it was written."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import given

from taskvine_manager.record import Recorder, entries, events
from taskvine_manager.record.events import TEXT, TYPES, Event, Failure, Made, decoded, encoded
from taskvine_manager.record.failures import MOST_TEXTS, Failures
from taskvine_manager.runtime import failure, payload
from taskvine_manager.wire.messages import Completion

names = st.text(max_size=8) | st.just("surrogate\udc80")
numbers = st.integers(-(1 << 40), 1 << 40)
others = st.tuples(names, st.floats(allow_nan=False), numbers, numbers)
pairs = st.tuples(names, names)
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    str: names,
    int: numbers,
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    int | None: st.none() | numbers,
}
LISTS = {
    "numbers": numbers,
    "others": others,
    "lacking": pairs,
    "names": names,
    ("recovery", "files"): pairs,
    ("evicted", "files"): names,
    ("forgotten", "files"): names,
    ("node", "gpu_memory"): st.floats(allow_nan=False),
}


def field(tag: str, name: str, kind: Any) -> st.SearchStrategy[Any]:
    if kind in FIELDS:
        return FIELDS[kind]
    return st.lists(LISTS[name] if name in LISTS else LISTS[tag, name], max_size=3).map(tuple)


def any_of(tag: str) -> st.SearchStrategy[Any]:
    kind = TYPES[tag]
    hints = get_type_hints(kind)
    return st.tuples(*(field(tag, name, hints[name]) for name in kind._fields)).map(lambda values: kind(*values))


any_event = st.sampled_from(sorted(TYPES)).flatmap(any_of)


def test_every_type_has_a_tag() -> None:
    assert set(TYPES.values()) == set(get_args(Event))
    assert len(set(TYPES.values())) == len(TYPES)


@pytest.mark.parametrize("tag", TYPES)
@given(data=st.data())
def test_each_type_comes_back(tag: str, data: st.DataObject) -> None:
    event = data.draw(any_of(tag))
    packed = msgpack.packb(encoded([event]), unicode_errors="surrogateescape")
    (item,) = msgpack.unpackb(packed, use_list=False, unicode_errors="surrogateescape")
    assert item[0] == tag
    assert decoded([item]) == [event]


@given(batches=st.lists(st.lists(any_event, max_size=4), max_size=4))
def test_events_come_back_from_a_record(tmp_path_factory: pytest.TempPathFactory, batches: list[list[Any]]) -> None:
    path = tmp_path_factory.mktemp("record") / "record"
    recorder = Recorder(str(path), details=True)
    for batch in batches:
        recorder.events(batch)
    recorder.close()
    assert [decoded(rest[1]) for tag, *rest in entries(path) if tag == "events"] == batches


def test_unknown_types_and_fields_are_skipped() -> None:
    assert decoded([("weather", "fair"), ("made", "file", "node", 3, "more")]) == [Made("file", "node", 3)]


def test_missing_field_is_an_error() -> None:
    with pytest.raises(TypeError):
        decoded([("made", "file")])


def test_nothing_is_recorded_without_details(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "record"))
    recorder.events([Made("file", "node", 3)])
    recorder.done([Completion(1, failure.LOST, failure.lost("node-lost", "gone"), "n", 0.0, 0.0, 0.0)])
    recorder.close()
    assert [tag for tag, *_ in entries(tmp_path / "record")] == ["run", "done", "end"]


# --- failures ---


def raised(text: str) -> bytes:
    try:
        raise ValueError(text)
    except ValueError as error:
        return failure.raised(error, ())


def test_failures_are_recorded_with_their_ends(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "record"), details=True)
    lost = failure.lost("slot-died", "it was killed", stderr="Killed")
    recorder.done(
        [
            Completion(1, failure.RETURNED, b"", "n", 1.0, 1.0, 1.0),
            Completion(2, failure.RAISED, raised("no"), "n", 1.0, 1.0, 1.0),
            Completion(3, failure.LOST, lost, "n", 1.0, 1.0, 1.0),
        ]
    )
    recorder.close()
    first, second = (
        event for tag, *rest in entries(tmp_path / "record") if tag == "events" for event in decoded(rest[1])
    )
    assert (first.number, first.kind) == (2, "ValueError")
    assert first.text.startswith("Traceback")
    assert first.text.rstrip().endswith("ValueError: no")
    assert second == Failure(3, "slot-died", "it was killed\nKilled")


def test_equal_texts_are_recorded_once() -> None:
    failures = Failures()
    first = failures.event(1, raised("no"))
    assert failures.event(2, raised("no")) == Failure(2, first.kind, "", 1)
    assert failures.event(3, raised("yes")).text


def test_texts_are_bounded() -> None:
    text = failure.lost("slot-died", "a" * 10_000 + "b")
    event = Failures().event(1, text)
    assert TEXT - 10 < len(event.text) <= TEXT
    assert event.text.startswith("a")
    assert event.text.endswith("b")


def test_number_of_remembered_texts_is_bounded() -> None:
    failures = Failures()
    for number in range(MOST_TEXTS):
        failures.event(number, failure.lost("slot-died", str(number)))
    assert failures.event(-1, failure.lost("slot-died", "another")).text
    assert failures.event(-2, failure.lost("slot-died", "another")).text
    assert failures.event(-3, failure.lost("slot-died", "0")).same == 0


@pytest.mark.parametrize("body", [b"damaged", "/no/such/file", pickle.dumps(5)])
def test_failure_that_cannot_be_read(body: payload.Payload) -> None:
    event = Failures().event(1, body)
    assert event.kind == ""
    assert "cannot be read" in event.text


def test_failure_in_a_file(tmp_path: Path) -> None:
    path = payload.encode(pickle.loads(raised("no")), str(tmp_path), pickle.dumps, 0)
    assert isinstance(path, str)
    assert Failures().event(1, path).kind == "ValueError"


def test_every_reason_is_described() -> None:
    assert events.REASONS["full"]
    assert all(text and why == why.lower() for why, text in events.REASONS.items())
