"""The list of hooks, and how they are switched off."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from parsl.errors import ConfigurationError

from taskvine_exec.parsl_hooks import hooks, switches
from taskvine_exec.parsl_hooks.switches import HOOKS

PRINTS = "from taskvine_exec.parsl_hooks import hooks; print(hooks())"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The names of hooks that are off. All are on at the start of a test, and restored at its end."""
    for hook in HOOKS:
        monkeypatch.setattr(hook, "on", True)
    return lambda: [hook.name for hook in HOOKS if not hook.on]


def test_all_hooks_are_on_by_default(names: Callable[[], list[str]]) -> None:
    switches.switch_off("")
    assert names() == []


def test_some_are_switched_off(names: Callable[[], list[str]]) -> None:
    switches.switch_off(" frames, ,conditions")
    assert names() == ["conditions", "frames"]


def test_all_are_switched_off(names: Callable[[], list[str]]) -> None:
    switches.switch_off("all")
    assert names() == [hook.name for hook in HOOKS]


def test_unknown_name_is_an_error_that_lists_all_names(names: Callable[[], list[str]]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        switches.switch_off("frames,no,nor")
    assert "TASKVINE_EXEC_HOOKS_OFF names no, nor" in str(caught.value)
    for hook in HOOKS:
        assert hook.name in str(caught.value)
    assert names() == [], "the known one was switched off all the same"


def test_hooks_are_listed_with_their_state(names: Callable[[], list[str]]) -> None:
    switches.switch_off("records")
    said = hooks()
    for hook in HOOKS:
        state = "OFF" if hook.name == "records" else "on"
        assert f"{hook.name}: {state}\n    {hook.purpose}\n    without it: {hook.without}" in said


def test_log_explains_the_consequences(names: Callable[[], list[str]], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "taskvine_exec"):
        switches.mention("ex")
        assert caplog.messages == []
        switches.switch_off("files")
        switches.mention("ex")
    (message,) = caplog.messages
    assert "executor ex" in message
    assert "files" in message
    assert switches.FILES.without in message


@pytest.mark.parametrize(("value", "expected"), [("proxies", "proxies: OFF"), ("none", "names none")])
def test_environment_is_read_once(value: str, expected: str) -> None:
    environment = {**os.environ, "TASKVINE_EXEC_HOOKS_OFF": value, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", PRINTS], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (said.returncode == 0) is (value == "proxies")
    assert expected in said.stdout + said.stderr
