"""When and how a parcel's results are sent."""

from __future__ import annotations

from typing import Any

import pytest

from taskvine_manager.vine.parcels import IN_OUTPUT, Parcel
from taskvine_manager.vine.worker.pipe import FunctionCall
from taskvine_manager.vine.worker.running import PATIENCE, RunningParcel
from taskvine_manager.wire.messages import Completion

CALL, LATER = FunctionCall(1, "-", "/box", "/box/.out"), FunctionCall(2, "-", "/other", "/other/.out")


def ended(number: int, body: bytes = b"") -> Completion:
    return Completion(number, 0, body, "n", 0.0, 0.0, 0.0)


def parcel(*tasks: int, **fields: Any) -> RunningParcel:
    return RunningParcel(Parcel("run", 5, **fields), CALL, set(tasks))


def end(parcel: RunningParcel, number: int, now: float = 0.0, body: bytes = b"", **more: Any) -> None:
    fields: dict[str, Any] = {"files": {}, "left": {}, "failed": False, **more}
    parcel.end(ended(number, body), now, fields["files"], fields["left"], failed=fields["failed"])


def test_all_results_are_sent_at_once() -> None:
    running = parcel(1)
    assert running.wait(0.0) is None
    end(running, 1, files={"file": (1, 2, 3, 4)}, left={"/home": b"left"})
    assert running.wait(0.0) == 0.0
    call, answer, status = running.answer("n", (b"radio",))
    assert (call, status) == (CALL, None)
    assert answer.done == (ended(1),)
    assert (answer.radio, answer.files, answer.left) == ((b"radio",), {"file": (1, 2, 3, 4)}, {"/home": b"left"})
    assert not answer.open
    assert running.wait(9.0) is None, "nobody awaits an answer"


def test_some_results_wait_for_the_others_for_a_while() -> None:
    running = parcel(1, 2, 3)
    end(running, 1, now=1.0)
    end(running, 2, now=1.01)
    assert running.wait(1.01) == pytest.approx(PATIENCE - 0.01)
    assert running.wait(1.0 + 2 * PATIENCE) == 0.0
    _, answer, _ = running.answer("n", ())
    assert (answer.done, answer.open) == ((ended(1), ended(2)), True)
    running.collect(LATER, 5.0)
    assert running.wait(5.0) is None
    end(running, 3, now=6.0)
    call, answer, _ = running.answer("n", ())
    assert (call, answer.done, answer.open) == (LATER, (ended(3),), False)


def test_staged_files_stay_until_all_tasks_have_ended() -> None:
    running = parcel(1, 2, staged={"in": "i0", ">out": "o1"})
    assert running.has("in")
    assert not running.has("out")
    assert running.path(">out") == "/box/o1"
    end(running, 1, now=1.0)
    assert running.wait(99.0) is None
    end(running, 2, now=100.0)
    assert running.wait(100.0) == 0.0


@pytest.mark.parametrize("failed", [True, False])
def test_status_says_whether_output_files_are_there(failed: bool) -> None:
    running = parcel(1, 2, staged={">out": "o1"})
    end(running, 1, failed=failed)
    end(running, 2)
    assert running.answer("n", ())[2] == int(failed)


def test_answer_that_does_not_fit_is_collected() -> None:
    running = parcel(1, brief=True)
    end(running, 1, body=bytes(IN_OUTPUT))
    call, answer, status = running.answer("n", (b"radio",))
    assert (call, status) == (CALL, None)
    assert (answer.done, answer.open, answer.radio) == ((), True, ())
    running.collect(LATER, 1.0)
    assert running.wait(1.0) == 0.0
    call, answer, _ = running.answer("n", (b"radio",))
    assert (call, answer.done, answer.radio) == (LATER, (ended(1, bytes(IN_OUTPUT)),), (b"radio",))


def test_minimum_sizes_of_inputs_are_known() -> None:
    running = parcel(1, sizes={"/home/in": 5})
    assert (running.least_size("/home/in"), running.least_size("/home/other")) == (5, 0)
