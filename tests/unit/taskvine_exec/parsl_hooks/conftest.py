"""Hooks on and off."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskvine_exec.parsl_hooks.switches import Hook

Switch = Callable[[Hook], bool]


@pytest.fixture(params=["on", "off"])
def switch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Switch:
    """A test with this fixture runs twice. The function switches a hook for this run, and says whether it is on."""

    def turn(hook: Hook) -> bool:
        monkeypatch.setattr(hook, "on", request.param == "on")
        return hook.on

    return turn
