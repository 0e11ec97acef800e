"""The settings of a sweep, and their labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from taskvine_tune import TuneParameters
from taskvine_tune.errors import Conflict, GivenTwice, OutOfRange, TuningError, WrongType
from taskvine_tune.sweep import grid, label, sample, with_losses

ONE, TWO = TuneParameters({"temp-replica-count": 1}), TuneParameters({"temp-replica-count": 2})


def test_a_grid_has_every_combination() -> None:
    settings = grid({"temp_replica_count": [1, 2], "immediate-recovery": [True, False, 1], "executor": {"batch": 4}})
    assert [tuple(setting.values()) for setting in settings] == [
        (1, True, 4),
        (1, False, 4),
        (2, True, 4),
        (2, False, 4),
    ]
    assert grid({}) == [TuneParameters()]


def test_a_grid_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "space.toml"
    path.write_text("temp-replica-count = [1, 2]\n[executor]\nbatch = [4, 8]\n")
    assert len(grid(path)) == 4


def test_random_settings_follow_from_the_seed() -> None:
    space = {
        "temp-replica-count": {"min": 1, "max": 3},
        "sandbox-grow-factor": {"min": 1.5, "max": 3.0},
        "executor": {"batch": {"min": 1, "max": 1024, "log": True}, "prefetch": [0.01, 0.1]},
    }
    settings = sample(space, 50, seed=1)
    assert len(set(settings)) == 50
    assert settings == sample(space, 50, seed=1)
    assert settings != sample(space, 50, seed=2)
    assert {setting["temp-replica-count"] for setting in settings} == {1, 2, 3}
    assert all(1.5 <= setting["sandbox-grow-factor"] <= 3.0 for setting in settings)
    assert {setting["executor.prefetch"] for setting in settings} == {0.01, 0.1}


def test_logarithmic_draws_are_even_over_octaves() -> None:
    many = sample(
        {"executor.batch": {"min": 1, "max": 1023, "log": True}, "max-workers": {"min": 1, "max": 10**9}}, 4000
    )
    octaves = Counter(int(setting["executor.batch"]).bit_length() for setting in many)
    assert sorted(octaves) == list(range(1, 11))
    # About an eleventh each, since the first one reaches from 0.5; three standard errors of 4,000 draws are 1.4
    # percent.
    assert all(abs(octaves[octave] / 4000 - 1 / 11) < 0.025 for octave in range(2, 11))


def test_small_space_is_drawn_completely() -> None:
    assert len(sample({"temp-replica-count": {"min": 1, "max": 4}}, 100)) == 4


@pytest.mark.parametrize(
    ("space", "error", "says"),
    [
        ({"temp-replicas": [1]}, TuningError, "did you mean"),
        ({"temp-replica-count": [1, 0]}, OutOfRange, "at least 1"),
        ({"temp-replica-count": []}, WrongType, "at least one value"),
        ({"temp-replica-count": "12"}, WrongType, "a whole number"),
        ({"temp-replica-count": {"min": 1}}, WrongType, "min, max"),
        ({"temp-replica-count": {"min": 1, "max": 2, "step": 1}}, WrongType, "min, max"),
        ({"temp-replica-count": {"min": 3, "max": 2}}, WrongType, "min is at most its max"),
        ({"temp-replica-count": {"min": 0, "max": 2}}, OutOfRange, "at least 1"),
        ({"wait-for-workers": {"min": 0, "max": 2, "log": True}}, WrongType, "above 0 for log"),
        ({"wait-for-workers": {"min": 1, "max": 2, "log": 1}}, WrongType, "log"),
        ({"prefer-dispatch": {"min": 0, "max": 1}}, WrongType, "for numbers a range"),
        ({"max-workers": [1], "max_workers": [2]}, GivenTwice, "max-workers"),
        ({"temp-replica-count": [3], "max-workers": [2]}, Conflict, "in conflict"),
    ],
)
def test_invalid_spaces_are_refused(space: dict[str, Any], error: type[TuningError], says: str) -> None:
    for use in (lambda: grid(space), lambda: sample(space, 3)):
        with pytest.raises(error, match=says):
            use()


def test_a_range_has_no_grid() -> None:
    with pytest.raises(WrongType, match="a range is for random samples"):
        grid({"temp-replica-count": {"min": 1, "max": 2}})


def test_labels_name_the_differences() -> None:
    settings = grid({"temp-replica-count": [1, 2], "prefer-dispatch": True, "sandbox-grow-factor": [1.5]})
    assert [label(setting, settings) for setting in settings] == ["temp-replica-count=1", "temp-replica-count=2"]
    assert label(settings[0]) == "temp-replica-count=1, prefer-dispatch=true, sandbox-grow-factor=1.5"
    assert label(TuneParameters(), settings) == "defaults"


def test_losses_are_added_to_settings_without_their_own() -> None:
    settings = with_losses([ONE, TWO], 2.5)
    assert [setting["executor.loss-interval"] for setting in settings] == [2.5, 2.5]
    own = TuneParameters({"executor.loss-interval": 1, "executor.loss-seed": 5})
    none = TuneParameters({"executor.loss-interval": 0})
    assert with_losses([own, none], 2.5) == [own, none]
    with pytest.raises(OutOfRange):
        with_losses([ONE], 0.001)
