"""Errors keep their fields between processes, and name what they are about."""

from __future__ import annotations

import inspect
import pickle

import pytest

from taskvine_tune import errors
from taskvine_tune.errors import TuningError

EXAMPLES: list[TuningError] = [
    errors.UnknownParameter("a", ("b",)),
    errors.WrongType("a", "b", "c"),
    errors.OutOfRange("a", 1, "b", "s"),
    errors.GivenTwice("a", ("b", "c")),
    errors.NotTunableNow("a"),
    errors.Conflict(("a", "b"), "c"),
    errors.BadFile("a", "b"),
    errors.LibraryMissing("a", "b"),
    errors.BadInstance("a", "b"),
    errors.BadRecord("a"),
    errors.BadSamples("a"),
    errors.BadSimulation("there are no tasks"),
]


def test_every_error_is_tested_and_in_the_tree() -> None:
    classes = {name for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, TuningError)}
    assert classes == set(errors.__all__) == {type(each).__name__ for each in EXAMPLES} | {"TuningError"}
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in classes)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickle(error: TuningError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert back.__dict__ == error.__dict__
    assert str(back) == str(error)
    assert repr(back) == repr(error)
    assert isinstance(back, ValueError)
