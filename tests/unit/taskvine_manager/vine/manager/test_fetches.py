"""Files that the user asks for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from taskvine_manager.node.replicas import Source, check
from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager import fetches
from taskvine_manager.vine.manager.reads import PIECE
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import FileUse
from tests.unit.taskvine_manager.vine.manager.play import Play, X, invocation


def test_lost_file_is_recreated_before_its_fetch(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)))
    play.make_temp(play.work[0], "x@1")
    play.manager.temps[0].replicas = 0
    play.engine.locate(7, "x@1")
    assert play.outlet.answers == {}
    assert play.engine.waiting == -1  # a task has to run: there may be no node left for it
    play.tick()
    for asked, piece in (((0, PIECE), b"ag"), ((2, PIECE), b"ain")):
        (reading,) = play.work
        assert (reading.parcel.kind, reading.parcel.numbers) == ("read", asked)
        assert play.manager.temps[0] in reading.inputs.values()
        play.end(reading, Answer("node", piece=(5, piece)))
    node, path, size, stamp = play.outlet.answers[7]
    assert (node, Path(path).read_bytes()) == ("manager", b"again")
    check(Source(path, size, stamp))
    assert play.engine.waiting == 0
    play.engine.forget(("x@1",))
    assert not os.path.exists(path)


def test_missing_piece_is_requested_again(make: Callable[..., Play], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for the whole file if it has been replaced."""
    monkeypatch.setattr(fetches, "FETCH_PAUSE", 0.0)
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)))
    play.make_temp(play.work[0], "x@1")
    for request in (7, 8):
        play.engine.locate(request, "x@1")
    play.tick()
    for offset, piece in ((0, None), (0, (5, b"ab")), (2, (4, b"cd")), (0, (4, b"abcd"))):
        (reading,) = play.work
        assert reading.parcel.numbers[0] == offset
        play.end(reading, Answer("node", piece=piece))
        play.tick()  # the pause is over
    assert play.outlet.answers[7] == play.outlet.answers[8]
    assert Path(play.outlet.answers[7][1]).read_bytes() == b"abcd"


def test_file_that_never_comes_is_lost(
    make: Callable[..., Play], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetches, "FETCH_PAUSE", 0.0)
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)))
    play.make_temp(play.work[0], "x@1")
    play.engine.locate(7, "x@1")
    play.tick()
    for _ in range(fetches.FETCH_TRIES + 1):
        play.end(play.work[0], None, "output missing")
        play.tick()  # the pause is over
    assert failure.lost_file(play.outlet.answers[7][0]) == "x@1"
    assert play.work == []
    assert os.listdir(tmp_path / "spool") == []


def test_file_forgotten_during_its_fetch_is_lost(make: Callable[..., Play], tmp_path: Path) -> None:
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)))
    play.make_temp(play.work[0], "x@1")
    play.engine.locate(7, "x@1")
    play.tick()
    play.engine.forget(("x@1",))
    play.end(play.work[0], Answer("node", piece=(9, b"abcd")))
    assert failure.lost_file(play.outlet.answers[7][0]) == "x@1"
    assert os.listdir(tmp_path / "spool") == []


def test_small_result_is_sent_and_unknown_file_is_lost(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.engine.locate(1, "r1")
    play.submit(invocation(1, outputs=(FileUse("value", "", "r1"),)))
    play.engine.locate(2, "r1")
    assert play.outlet.answers.keys() == {1}
    play.finish(play.work[0], body=b"small")
    assert failure.lost_file(play.outlet.answers[1][0]) == "r1"
    assert play.outlet.answers[2] == b"small"
