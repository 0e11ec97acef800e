"""Fixtures for tests of programs that drive the executor. Each test is skipped where its program is not installed."""

from __future__ import annotations

import pytest

from tests.engines import ABSENT


@pytest.fixture(autouse=True)
def _clean(nothing_left: str) -> None:
    """Check after each test that nothing remains."""


@pytest.fixture(params=["embedded", "taskvine"])
def engine(request: pytest.FixtureRequest) -> str:
    """Name of an engine."""
    if request.param == "taskvine" and ABSENT is not None:
        pytest.skip(ABSENT)
    return str(request.param)
