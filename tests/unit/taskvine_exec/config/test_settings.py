"""The settings that an engine gets."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from parsl.providers import CondorProvider, LocalProvider

from taskvine_exec.config import EmbeddedSettings, working_directory
from tests.unit.taskvine_exec.config.derived import embedded, vine


def test_settings_are_frozen_keyword_only_and_picklable() -> None:
    settings = embedded(library_config={"context": len})
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.slots = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        EmbeddedSettings("L1", "manual")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("engine", "settings", "default"),
    [
        ("embedded", {}, "submit"),
        ("embedded", {"shared_fs": True}, "submit"),
        ("taskvine", {"launch": "provider", "provider": LocalProvider()}, "submit"),
        ("taskvine", {"launch": "factory"}, "submit"),
        ("taskvine", {"launch": "factory", "batch_type": "slurm"}, "sandbox"),
        ("taskvine", {"launch": "provider", "provider": CondorProvider()}, "sandbox"),
        ("taskvine", {"launch": "provider", "provider": CondorProvider(), "shared_fs": True}, "submit"),
        ("taskvine", {"launch": "manual"}, "sandbox"),
    ],
)
def test_apps_run_in_the_programs_directory_if_nodes_see_it(
    engine: str, settings: dict[str, Any], default: str
) -> None:
    made = embedded(**settings) if engine == "embedded" else vine(**settings)
    assert working_directory(None, made) == default
    assert working_directory("submit", made) == "submit"
    assert working_directory("sandbox", made) == "sandbox"
