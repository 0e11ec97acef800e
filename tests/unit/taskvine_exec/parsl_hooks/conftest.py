"""Fixtures that switch hooks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskvine_exec.parsl_hooks.switches import Hook

Switch = Callable[[Hook], bool]


@pytest.fixture(params=["on", "off"])
def switch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Switch:
    """Run a test twice, with the hook on and off. The function switches a hook, and returns whether it is on."""

    def turn(hook: Hook) -> bool:
        monkeypatch.setattr(hook, "on", request.param == "on")
        return hook.on

    return turn
