"""The scheduler: which events it handles."""

from __future__ import annotations

import typing

import pytest

from taskvine_manager.scheduling import core, events


def test_every_event_has_a_handler() -> None:
    assert set(core.Scheduler()._handlers) == set(typing.get_args(events.Event))


def test_an_unknown_event_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"no events of type Full: Full\(node='a'\)"):
        core.Scheduler().handle(core.Full("a"))  # type: ignore[arg-type]
