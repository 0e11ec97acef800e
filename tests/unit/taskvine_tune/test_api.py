"""The public names of the package, which costs little until it is used."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import taskvine_tune
from tests.unit.taskvine_exec.test_api import seen_by_checkers

PUBLIC = ["PARAMETERS", "Parameter", "TuneParameters", "TuningError"]
MODULES = sorted(
    each.name.removeprefix("taskvine_tune.")
    for each in pkgutil.walk_packages(taskvine_tune.__path__, "taskvine_tune.")
    if not each.ispkg
)


def test_public_names() -> None:
    assert taskvine_tune.__all__ == PUBLIC
    seen = seen_by_checkers(taskvine_tune)
    assert sorted(seen) == PUBLIC
    for name, home in seen.items():
        assert getattr(taskvine_tune, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing_such'"):
        taskvine_tune.nothing_such


@pytest.mark.parametrize("name", MODULES)
def test_modules_list_their_public_names(name: str) -> None:
    module = importlib.import_module(f"taskvine_tune.{name}")
    assert module.__doc__
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for each in module.__all__:
        assert hasattr(module, each)
