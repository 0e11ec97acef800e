"""Tuning parameters: loaded, checked, and chosen for an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.providers import LocalProvider

from taskvine_exec.config import retuned
from taskvine_tune import TuneParameters
from tests.unit.taskvine_exec.config.derived import embedded, vine


@pytest.mark.parametrize("ending", ["toml", "yaml", "json"])
def test_tune_parameters_from_all_sources(tmp_path: Path, ending: str) -> None:
    given = {"worker_source_max_transfers": 3, "executor.library-slots": 2}
    path = tmp_path / f"tuning.{ending}"
    TuneParameters(given).dump(path)
    expected = {"worker-source-max-transfers": 3, "executor.library-slots": 2}
    for source in (given, TuneParameters(given), path, str(path)):
        settings = embedded(tune_parameters=source)
        assert settings.tune_parameters == expected
        assert settings.slots == 2


def test_library_slots_equal_num_slots() -> None:
    tuned = {"executor": {"library_slots": 3}}
    assert embedded(tune_parameters=tuned, library_config={"num_slots": 3}).slots == 3
    assert embedded(tune_parameters=tuned, library_config={"num_slots": 0}).slots == 3
    assert embedded(tune_parameters={"executor.library-slots": 0}).slots is None
    assert embedded(tune_parameters={"executor.library-slots": 0}, library_config={"num_slots": 2}).slots == 2
    with pytest.raises(ConfigurationError, match=r"executor\.library-slots=3 .*num_slots of library_config, 2"):
        embedded(tune_parameters=tuned, library_config={"num_slots": 2})


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"launch": "factory", "max_workers": 2}, 2),
        ({"launch": "provider", "provider": LocalProvider(max_blocks=2)}, 2),
        ({"launch": "manual"}, None),
    ],
)
def test_replicas_need_nodes(settings: dict[str, Any], most: int | None) -> None:
    assert embedded(tune_parameters={"temp-replica-count": 2}, **settings).most_nodes == most
    if most is None:
        assert embedded(tune_parameters={"temp-replica-count": 99}, **settings).tune_parameters
    else:
        with pytest.raises(ConfigurationError, match=r"temp-replica-count=3 and 2 nodes at most are in conflict"):
            embedded(tune_parameters={"temp-replica-count": 3}, **settings)


def test_parameters_without_effect_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    embedded(tune_parameters={"hungry_minimum": 3, "immediate-recovery": 1, "executor.batch": 8, "task-groups": 1})
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("tuning parameter 'task-groups' has no effect on the embedded engine: short calls")
    assert said[1].startswith("tuning parameter 'hungry-minimum' has no effect on the embedded engine: the manager")


def test_inline_limit_has_two_names() -> None:
    tuned = {"executor.inline-limit": 1000}
    assert embedded(tune_parameters=tuned).inline_limit == 1000
    assert embedded(tune_parameters=tuned, limit=1000).inline_limit == 1000
    assert embedded(tune_parameters={"executor.inline-limit": 0}).inline_limit == 0
    with pytest.raises(ConfigurationError, match=r"executor\.inline-limit=1000 .*the executor's inline_limit, 2000"):
        embedded(tune_parameters=tuned, limit=2000)


def test_batches_need_batching() -> None:
    assert vine(tune_parameters={"executor.batch": 8}).tune_parameters == {"executor.batch": 8.0}
    settings = vine(tune_parameters={"executor.batch": 1}, batching=False)
    assert settings.tune_parameters == {"executor.batch": 1.0}
    for use in (
        lambda: vine(tune_parameters={"executor.batch": 8}, batching=False),
        lambda: retuned({"executor.batch": 8}, settings, settings.tuning),
    ):
        with pytest.raises(ConfigurationError, match=r"executor\.batch=8 .*with batching=False"):
            use()


def test_taskvine_takes_losses_in_whole_seconds() -> None:
    for seconds, told in ((0.2, 1.0), (2.6, 3.0), (0, 0.0)):
        settings = vine(tune_parameters={"executor.loss-interval": seconds, "executor.loss-seed": 3})
        assert settings.tune_parameters == {"enforce-worker-eviction-interval": told}
    both = {"executor.loss-interval": 0, "enforce-worker-eviction-interval": 4}
    assert vine(tune_parameters=both).tune_parameters == {"enforce-worker-eviction-interval": 4.0}


def test_retuning_is_checked_against_current_values(tmp_path: Path) -> None:
    settings = embedded(max_workers=4, tune_parameters={"max-workers": 3, "executor.loss-interval": 5})
    in_force = settings.tuning
    in_force, given = retuned({"temp-replica-count": 3}, settings, in_force)
    assert given == {"temp-replica-count": 3}
    assert in_force == {"temp-replica-count": 3, "max-workers": 3, "executor.loss-interval": 5}
    for source, says in (
        ({"max-workers": 2}, "temp-replica-count=3 and max-workers=2 are in conflict"),
        ({"wait-for-workers": 4}, "wait-for-workers=4 and max-workers=3 are in conflict"),
        ({"max-workers": -1, "temp-replica-count": 5}, "temp-replica-count=5 and 4 nodes at most are in conflict"),
        ({"enforce-worker-eviction-interval": 3}, "they are the same"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            retuned(source, settings, in_force)
    in_force, given = retuned({"temp-replica-count": 1, "max-workers": 2}, settings, in_force)
    assert given == {"temp-replica-count": 1, "max-workers": 2}
    with pytest.raises(ConfigurationError, match="enable_peer_transfers=False"):
        retuned({"temp-replica-count": 2}, embedded(enable_peer_transfers=False, max_workers=4), TuneParameters())


def test_retuning_is_checked_in_the_same_way(tmp_path: Path) -> None:
    settings = embedded(max_workers=2)
    path = tmp_path / "tuning.toml"
    path.write_text("temp-replica-count = 2\n")
    for given in ({"temp_replica_count": 2}, path):
        assert retuned(given, settings, TuneParameters()) == ({"temp-replica-count": 2}, {"temp-replica-count": 2})
    for source, says in (
        ({"temp-replica-count": 3}, "2 nodes at most"),
        ({"temp-replica": 3}, "did you mean 'temp-replica-count'"),
        ({"executor.library-slots": 2}, "cannot be changed while the executor runs"),
        (None, "must be a dict"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            retuned(source, settings, TuneParameters())  # type: ignore[arg-type]
