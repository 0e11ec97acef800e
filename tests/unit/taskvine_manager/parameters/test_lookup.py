"""Declarations are found by name, in any spelling; other names get a hint."""

from __future__ import annotations

import pytest

from taskvine_manager.parameters import PARAMETERS, Parameter, find, nearest
from taskvine_manager.parameters.errors import UnknownParameter


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
def test_names_are_found_in_any_spelling(parameter: Parameter) -> None:
    for name in (parameter.name, *parameter.aliases):
        assert find(name) is parameter
        assert find(name.replace("-", "_")) is parameter
        assert find(name.replace("-", "_", 1)) is parameter
        assert nearest(name.upper()) == (name,)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temp-replica-cuont", "temp-replica-count"),
        ("temp_replicas_count", "temp-replica-count"),
        ("Temp-Replica-Count", "temp-replica-count"),
        ("replication", "temp-replica-count"),
        ("worker-source-max-transfer", "worker-source-max-transfers"),
        ("disconnect-slow-workers-factor", "disconnect-slow-worker-factor"),  # the spelling in taskvine.h
        ("wait-for-worker", "wait-for-workers"),
        ("wait_retrieve_many", "max-retrievals"),
        ("keep-alive-interval", "keepalive-interval"),
        ("library-slots", "executor.library-slots"),
        ("inline_limit", "executor.inline-limit"),
        ("num_slots", "executor.library-slots"),
    ],
)
def test_nearest_name_is_suggested(name: str, meant: str) -> None:
    with pytest.raises(UnknownParameter, match=f"did you mean .*'{meant}'") as caught:
        find(name)
    assert caught.value.nearest[0] == meant


@pytest.mark.parametrize("name", ["", "qqqqqq", 3, None, ("temp-replica-count",)])
def test_strange_name_gets_no_suggestion(name: object) -> None:
    with pytest.raises(UnknownParameter, match="taskvine-tune list"):
        find(name)
