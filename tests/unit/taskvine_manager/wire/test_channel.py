"""A channel loses nothing, never blocks, and notices when the other end is closed."""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from taskvine_manager.wire.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    yield one, other
    one.close()
    other.close()


def heard(channel: Channel) -> list[tuple[Any, ...]]:
    channel.read()
    messages = []
    while (message := channel.next()) is not None:
        messages.append(message)
    return messages


def test_messages_arrive_in_order(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send("first", 1)
    one.queue("second", b"\0" * 10)
    one.send("third")
    assert heard(other) == [("first", 1), ("second", b"\0" * 10), ("third",)]
    assert not other.read()
    assert not other.ended


def test_unsent_bytes_follow_later(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    told = [("load", number, bytes([number % 251]) * 100_000) for number in range(30)]
    for message in told:
        one.send(*message)
    assert one.full
    came: list[tuple[Any, ...]] = []
    while len(came) < len(told):
        came += heard(other)
        one.push()
    assert came == told
    assert not one.full


def test_selector_reports_when_the_rest_can_be_sent(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, "mine")
        one.queue("load", b"\0" * 1_000_000)
        one.push_with(selector)
        assert selector.select(0) == []  # there is none
        while other.next() is None:
            other.read()
            for key, events in selector.select(0):
                assert (key.data, events) == ("mine", selectors.EVENT_WRITE)
                one.push_with(selector)
        assert selector.get_key(one).events == selectors.EVENT_READ


def test_last_messages_are_read_before_the_end(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.queue("broken", "text")
    one.finish(1.0)
    assert heard(other) == [("broken", "text")]
    assert not other.ended
    assert heard(other) == []
    assert other.ended


def test_last_messages_are_waited_for_a_limited_time(ends: tuple[Channel, Channel]) -> None:
    one, _ = ends
    one.queue("load", b"\0" * 10_000_000)
    one.finish(0.05)  # no process reads, but this returns
    assert not one.full


@pytest.mark.parametrize("unread", [False, True])
def test_messages_to_a_closed_end_are_dropped(ends: tuple[Channel, Channel], unread: bool) -> None:
    one, other = ends
    if unread:  # the end is a reset then
        one.send("never read")
    other.close()
    for _ in range(2):
        one.send("load", b"\0" * 1000)
    assert not one.full
    one.read()
    assert one.ended


def test_closed_channel_accepts_messages(ends: tuple[Channel, Channel]) -> None:
    one, _ = ends
    one.close()
    one.send("too late")
    assert not one.full


def test_malformed_message_is_a_value_error(ends: tuple[Channel, Channel]) -> None:
    plain, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(end)
    plain.send(b"\xc1")
    channel.read()
    with pytest.raises(ValueError):
        channel.next()
    plain.close()
    channel.close()


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), OSError(errno.ETIMEDOUT, "late"), OSError(errno.EHOSTUNREACH, "no route")]
)
def test_lost_connection_has_ended(error: OSError) -> None:
    class Lost(socket.socket):
        def recv_into(self, *_: object) -> int:
            raise error

        def send(self, *_: object) -> int:
            raise error

    with Lost() as end:
        channel = Channel(end)
        channel.send("word")
        assert not channel.full
        assert not channel.read()
        assert channel.ended


def test_silence_is_not_taken_for_the_end(ends: tuple[Channel, Channel]) -> None:
    plain, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(end)
    end.settimeout(0.01)
    with pytest.raises(TimeoutError):
        channel.read()
    assert not channel.ended
    plain.close()
    channel.close()


def test_other_errors_are_not_taken_for_the_end() -> None:
    class Broken(socket.socket):
        def recv_into(self, *_: object) -> int:
            raise OSError(errno.ENOMEM, "no memory")

    with Broken() as end, pytest.raises(OSError, match="no memory"):
        Channel(end).read()
