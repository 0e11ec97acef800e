"""The meanings of TaskVine's results."""

from __future__ import annotations

import pickle

import pytest

from taskvine_exec import errors
from taskvine_manager.vine.manager import failures


def test_table_is_complete() -> None:
    cvine = pytest.importorskip("ndcctools.taskvine.cvine", reason="ndcctools is not installed")
    constants = [getattr(cvine, name) for name in dir(cvine) if name.startswith("VINE_RESULT_")]
    names = {cvine.vine_result_string(value).lower().replace("_", " ") for value in constants}
    assert names == set(failures.VERDICTS)


@pytest.mark.parametrize("result", failures.VERDICTS)
def test_every_result_is_an_error_of_ours(result: str) -> None:
    record = pickle.loads(failures.record(result, 1))
    error = errors.from_record(record.pop("kind"), 5, record)
    assert isinstance(error, errors.TaskVineExecutorError)
    assert result in str(error)


def test_unknown_result_is_a_fault_of_the_system() -> None:
    said = failures.verdict("struck by lightning")
    assert said.is_retried
    assert "struck by lightning" in said.words


def test_record_contains_the_attempt() -> None:
    assert "at the 3. try" in pickle.loads(failures.record("forsaken", 3))["reason"]
