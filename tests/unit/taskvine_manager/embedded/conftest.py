"""Fixtures for tests of the embedded engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.unit.taskvine_manager.embedded.shell import Shell


@pytest.fixture
def make_shell() -> Iterator[Callable[..., Shell]]:
    """Make an engine with settings of :class:`EmbeddedConfig`."""
    made: list[Shell] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as base:

        def make(**settings: object) -> Shell:
            made.append(Shell(base, **settings))
            return made[-1]

        yield make
        for shell in made:
            shell.close()


@pytest.fixture
def shell(make_shell: Callable[..., Shell]) -> Shell:
    """An engine with the usual settings."""
    return make_shell()
