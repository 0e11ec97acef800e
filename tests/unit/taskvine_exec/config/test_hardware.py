"""The gpus of a node by name, and how tasks are bound to CPUs."""

from __future__ import annotations

from typing import Any

import pytest
from parsl.errors import ConfigurationError

from taskvine_exec.config import Hardware
from tests.unit.taskvine_exec.config.derived import embedded


@pytest.mark.parametrize(
    ("given", "gpus", "names"),
    [(None, None, ()), (3, 3, ()), (0, 0, ()), ([], 0, ()), (["0.0", "0.1"], 2, ("0.0", "0.1"))],
)
def test_accelerators_are_names_or_a_number(given: Any, gpus: int | None, names: tuple[str, ...]) -> None:
    settings = embedded(hardware=Hardware(given, 1000))
    assert (settings.node_gpus, settings.accelerators, settings.gpu_memory) == (gpus, names, 1000.0)


def test_number_of_gpus_may_be_given_twice_if_it_is_the_same() -> None:
    assert embedded(gpus=2, hardware=Hardware(["a", "b"])).node_gpus == 2
    assert embedded(gpus=2).node_gpus == 2


@pytest.mark.parametrize("setting", ["none", "block", "Block-Reverse", "alternating", "list:0-1:2"])
def test_htex_values_of_affinity_are_accepted(setting: str) -> None:
    assert embedded(hardware=Hardware(cpu_affinity=setting)).cpu_affinity == setting.lower()


@pytest.mark.parametrize(
    ("hardware", "fields", "says"),
    [
        (Hardware(["a", "a"]), {}, r"available_accelerators=\['a', 'a'\] .*different names"),
        (Hardware(["a\0"]), {}, "available_accelerators"),
        (Hardware(-1), {}, "available_accelerators=-1"),
        (Hardware(True), {}, "available_accelerators=True"),
        (Hardware(["a"]), {"gpus": 2}, "leave gpus out"),
        (Hardware(gpu_memory=0), {}, "gpu_memory=0"),
        (Hardware(cpu_affinity="blok"), {}, "cpu_affinity='blok' .*must be 'none', 'block'"),
        (Hardware(cpu_affinity="list:1-"), {}, "cpu_affinity='list:1-'"),
        (Hardware(cpu_affinity="list:0:1"), {"library_config": {"num_slots": 3}}, "2 groups .*the 3 slots"),
    ],
)
def test_bad_values_are_refused(hardware: Hardware, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        embedded(hardware=hardware, **fields)


def test_library_may_take_a_part_of_a_gpu() -> None:
    libraries = embedded(libraries={"a": {"gpus": 0.25}, "b": {"gpu_memory": 500, "num_slots": 3}, "c": {}}).libraries
    found = {name: (each.gpus, each.gpu_memory, each.slots, each.context_scope) for name, each in libraries.items()}
    assert found == {
        "a": (0.25, 0.0, 1, "slot"),
        "b": (0, 500.0, 3, "slot"),
        "c": (0, 0.0, None, "library"),
    }


@pytest.mark.parametrize("wrong", [{"gpus": 1.5}, {"gpus": "1"}, {"gpu_memory": 0.5}, {"gpu_memory": -1}])
def test_bad_gpus_of_libraries_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"libraries\['a'\]"):
        embedded(libraries={"a": wrong})


def test_default_library_takes_no_gpu_memory() -> None:
    with pytest.raises(ConfigurationError, match=r"library_config\['gpu_memory'\]=500"):
        embedded(library_config={"gpu_memory": 500})
