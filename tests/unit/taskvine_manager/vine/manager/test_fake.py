"""The fake has the signatures of the real TaskVine."""

from __future__ import annotations

import inspect

import pytest

from tests.unit.taskvine_manager.vine.manager import fake

PLAYED = {"join", "leave", "end", "answer", "parcel"}


@pytest.mark.parametrize("name", ["Manager", "Task", "LibraryTask", "File"])
def test_fake_has_the_signatures_of_the_real_one(name: str) -> None:
    vine = pytest.importorskip("ndcctools.taskvine", reason="ndcctools is not installed")
    theirs, ours = getattr(vine, name), getattr(fake, name)
    for method, function in vars(ours).items():
        if (name, method) == ("File", "__init__"):
            continue  # files are made by the manager
        if method in PLAYED or not inspect.isfunction(function) or (method.startswith("_") and method != "__init__"):
            continue
        real = list(inspect.signature(getattr(theirs, method)).parameters)
        assert list(inspect.signature(function).parameters) == real[: len(inspect.signature(function).parameters)]


def test_module_level_names_exist() -> None:
    cvine = pytest.importorskip("ndcctools.taskvine.cvine", reason="ndcctools is not installed")
    made = fake.module().cvine
    assert made.VINE_SCHEDULE_WORST == cvine.VINE_SCHEDULE_WORST
    assert callable(cvine.vine_task_set_scheduler)
