"""A short part of ``make chaos``: random graphs while processes are killed and stopped."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos import run
from tests.engines import on_both


@on_both
@pytest.mark.parametrize("seed", [0, 3, 5, 7])
def test_run_survives_killed_and_stopped_processes(engine: Any, seed: int) -> None:
    assert run.run(seed, engine)["kills"] >= 1
