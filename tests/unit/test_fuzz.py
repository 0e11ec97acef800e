"""A short part of ``make fuzz``."""

from __future__ import annotations

import math

import pytest

from tests.fuzz import run


@pytest.mark.parametrize("target", run.TARGETS)
def test_mutated_inputs_are_refused_as_documented(target: str) -> None:
    count = math.ceil(300 * run.TARGETS[target].share)
    assert 0 <= run.fuzz(target, count, seed=1) <= count
