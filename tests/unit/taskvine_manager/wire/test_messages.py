"""Messages arrive as they were sent, however they are cut, and malformed ones are refused."""

from __future__ import annotations

import itertools
import os
import typing
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import (
    Completion,
    Decoder,
    FileUse,
    Invocation,
    Library,
    NodeInfo,
    Profile,
    decode,
    encode,
)

RECORDS = (Profile, Library, FileUse, Invocation, Completion, NodeInfo)

numbers = st.integers(0, 2**63 - 1)
amounts = st.none() | st.floats(0, allow_nan=False)
times = st.floats(0, 1e12)
payloads = st.binary(max_size=64) | st.text(max_size=64)
uses = st.builds(
    FileUse, st.sampled_from(["local", "temp", "value"]), st.text(max_size=9), st.text(max_size=9), st.integers(0, 9)
)
invocations = st.builds(
    Invocation, numbers, numbers, payloads, st.lists(uses, max_size=3).map(tuple), st.lists(uses, max_size=3).map(tuple)
)
made = st.lists(st.tuples(st.text(max_size=9), numbers, numbers), max_size=3).map(tuple)
completions = st.builds(Completion, numbers, st.integers(0, 2), payloads, st.text(), times, times, times, made)
gpus = st.integers(0, 64) | st.floats(0, 1)
profiles = st.builds(
    Profile,
    *(numbers, st.text(), st.text(), st.sampled_from([messages.L1, messages.L2])),
    *(amounts, amounts, amounts, st.none() | gpus, st.floats(allow_nan=False), st.text()),
    *(st.booleans(), amounts, st.booleans()),
    st.none() | st.builds(Library, st.text(), st.none() | st.integers(1, 99), amounts, gpus, times),
    amounts,
)
infos = st.builds(
    NodeInfo,
    *(st.text(), times, times, times, st.integers(0, 8), st.none() | st.integers(1, 99), st.text(), numbers, st.text()),
    st.lists(times, max_size=3).map(tuple),
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
said = st.tuples(st.text(), plain, plain)


def fed(decoder: Decoder, data: bytes) -> Iterator[tuple[Any, ...]]:
    decoder.feed(data)
    while (message := decoder.next()) is not None:
        yield message


def feed_in_pieces(stream: bytes, cuts: list[int]) -> list[tuple[Any, ...]]:
    decoder = Decoder()
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    return [message for piece in pieces for message in fed(decoder, piece)]


@given(said)
def test_messages_round_trip(message: tuple[Any, ...]) -> None:
    assert decode(encode(*message)) == message


def test_paths_need_not_be_text() -> None:
    path = os.fsdecode(b"/data/\xff\xfe")
    told = ("located", 1, path)
    assert decode(encode(*told)) == told
    assert feed_in_pieces(encode(*told), [12, 14, 20]) == [told]


@given(st.lists(said, max_size=5), st.lists(st.integers(0, 500)))
def test_stream_may_be_cut_anywhere(told: list[tuple[Any, ...]], cuts: list[int]) -> None:
    assert feed_in_pieces(b"".join(encode(*message) for message in told), cuts) == told


def test_stream_may_be_cut_everywhere() -> None:
    told = [("submit", ("key", b"\0" * 300), (1.5, None)), ("stop",), ("cancel", tuple(range(70000, 70020)))]
    stream = b"".join(encode(*message) for message in told)
    assert feed_in_pieces(stream, list(range(len(stream)))) == told


@given(st.lists(invocations, max_size=4))
def test_invocations_round_trip(given_out: list[Invocation]) -> None:
    (_, items) = decode(encode("run", given_out))
    back = messages.invocations(items)
    assert back == given_out
    assert all(type(use) is FileUse for item in back for use in (*item.inputs, *item.outputs))


@pytest.mark.parametrize(
    ("kind", "records"),
    [(Completion, completions), (lambda *item: messages.profile(item), profiles), (NodeInfo, infos)],
)
def test_records_round_trip(kind: Any, records: st.SearchStrategy[Any]) -> None:
    @given(records)
    def check(record: Any) -> None:
        (_, item) = decode(encode("tag", record))
        assert kind(*item) == record

    check()


def test_all_records_are_tested() -> None:
    tuples = {
        each
        for each in vars(messages).values()
        if isinstance(each, type) and issubclass(each, tuple) and each is not tuple
    }
    assert tuples - {typing.NamedTuple} == set(RECORDS)


NONSENSE = [
    b"\xc1",  # msgpack never uses it
    b"\x90",  # ()
    b"\x01",
    b"\xa3tag",
    b"\x91\x01",  # (1,)
    b"\x91\xc4\x03tag",  # (b"tag",)
    b"\x81\xa3tag\x01",  # {"tag": 1}
    b"\x91\xa2\xff\xfe",  # not UTF-8
    b"\x91" * 5000,
    b"\xdd\xff\xff\xff\xff",  # a list of 2**32 - 1
    b"\xdd\x02\x00\x00\x00",  # a list of 2**25
    b"\xdf\xff\xff\xff\xff",  # a dict of this size
    b"\xc7\x05\xff12345",  # no time stamp
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda data: data[:8].hex())
def test_malformed_message_is_a_value_error(nonsense: bytes) -> None:
    with pytest.raises(ValueError):
        list(fed(Decoder(), nonsense))
    with pytest.raises(ValueError):
        decode(nonsense)


def test_messages_before_a_malformed_one_are_read() -> None:
    stream = fed(Decoder(), encode("stop") + b"\xc1")
    assert next(stream) == ("stop",)
    with pytest.raises(ValueError):
        next(stream)


@given(st.binary())
def test_random_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    for heard in (lambda: [decode(data)], lambda: list(fed(Decoder(), data))):
        try:
            told = heard()
        except ValueError:
            continue
        assert all(isinstance(message, tuple) and isinstance(message[0], str) for message in told)


@given(said)
def test_truncated_message_is_a_value_error(message: tuple[Any, ...]) -> None:
    whole = encode(*message)
    for end in {0, 1, len(whole) // 2, len(whole) - 1}:
        with pytest.raises(ValueError):
            decode(whole[:end])
