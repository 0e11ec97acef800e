"""Fixtures of the tests of the TaskVine engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.taskvine_manager.vine.manager.play import Play


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Play]:
    return lambda **config: Play(tmp_path, **config)
