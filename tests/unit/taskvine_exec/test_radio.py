"""Only valid messages of the radio are passed on to Parsl's monitoring."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from parsl.monitoring.message_type import MessageType

from taskvine_exec.radio import read_message


class Leaves:
    """Raises SystemExit when it is unpickled."""

    def __reduce__(self) -> Any:
        return exit, (1,)


def test_message_is_read() -> None:
    message = (MessageType.TASK_INFO, {"task_id": 1})
    assert read_message(pickle.dumps(message)) == message


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"garbage",
        pickle.dumps(Leaves()),
        pickle.dumps(5),
        pickle.dumps(("TASK_INFO", {})),
        pickle.dumps((MessageType.TASK_INFO,)),
    ],
)
def test_anything_else_is_logged(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert read_message(said) is None
    assert "monitoring message" in caplog.text
