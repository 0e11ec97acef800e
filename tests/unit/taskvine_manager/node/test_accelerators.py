"""The gpus that a node finds, and the variables that show them to a task."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskvine_manager.node import accelerators
from taskvine_manager.node.accelerators import AMD, ANY, INTEL, NVIDIA, Found, find, memories, variables

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


class Machine:
    """A machine with the given drivers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.directory = directory
        self.patch = monkeypatch
        (directory / "bin").mkdir()
        monkeypatch.setenv("PATH", str(directory / "bin"))
        for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
        monkeypatch.setattr(accelerators, "_DEVICES", str(directory / "nvidia*"))
        monkeypatch.setattr(accelerators, "_KFD", str(directory / "kfd"))
        monkeypatch.setattr(accelerators, "_KFD_NODES", str(directory / "nodes"))

    def has_nvidia(self, *names: str) -> None:
        for name in names:
            (self.directory / f"nvidia{name}").touch()

    def has_amd(self, *megabytes: int) -> None:
        (self.directory / "kfd").touch()
        for number, size in enumerate((0, *megabytes)):  # the first one is a CPU
            bank = self.directory / "nodes" / str(number) / "mem_banks" / "0"
            bank.mkdir(parents=True)
            (bank / "properties").write_text(f"heap_type 1\nsize_in_bytes {size * 2**20}\n")
            (bank.parent.parent / "properties").write_text(f"cpu_cores_count 0\nsimd_count {size}\n")

    def has_smi(self, program: str) -> None:
        path = self.directory / "bin" / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{program}\n")
        path.chmod(0o755)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("CUDA_VISIBLE_DEVICES", "", Found(NVIDIA)),
        ("CUDA_VISIBLE_DEVICES", "-1", Found(NVIDIA)),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles", Found(NVIDIA)),
        ("CUDA_VISIBLE_DEVICES", "0", Found(NVIDIA, ("0",))),
        ("CUDA_VISIBLE_DEVICES", "2, 0", Found(NVIDIA, ("2", "0"))),
        ("CUDA_VISIBLE_DEVICES", "0,-1,1", Found(NVIDIA, ("0",))),
        ("CUDA_VISIBLE_DEVICES", "1,1", Found(NVIDIA, ("1",))),
        ("CUDA_VISIBLE_DEVICES", UUID, Found(NVIDIA, (UUID,))),
        ("CUDA_VISIBLE_DEVICES", f"MIG-{UUID}/1/0,MIG-41b36325", Found(NVIDIA, (f"MIG-{UUID}/1/0", "MIG-41b36325"))),
        ("ROCR_VISIBLE_DEVICES", "1,GPU-92fe7d2c", Found(AMD, ("1", "GPU-92fe7d2c"))),
        ("HIP_VISIBLE_DEVICES", "3", Found(AMD, ("3",))),
        ("ZE_AFFINITY_MASK", "0.1,2", Found(INTEL, ("0.1", "2"))),
    ],
)
def test_only_granted_gpus_are_used(machine: Machine, variable: str, text: str, expected: Found) -> None:
    machine.has_nvidia("0", "1")
    machine.patch.setenv(variable, text)
    assert find() == expected


def test_variable_that_names_none_does_not_hide_another(machine: Machine) -> None:
    machine.patch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine.patch.setenv("ROCR_VISIBLE_DEVICES", "0")
    assert find() == Found(AMD, ("0",))


def test_variable_of_cuda_grants_gpus_of_amd_where_only_those_are(machine: Machine) -> None:
    machine.has_amd(100, 100)
    machine.patch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find() == Found(AMD, ("1",))


def test_without_a_grant_gpus_are_those_of_the_drivers(machine: Machine) -> None:
    assert find() == Found(ANY)
    machine.has_amd(100, 100)
    assert find() == Found(AMD, ("0", "1"))
    machine.has_nvidia("ctl", "10", "2", "-uvm", "0", "-caps")
    assert find() == Found(NVIDIA, ("0", "2", "10"))


def test_count_and_names_replace_what_is_found(machine: Machine) -> None:
    assert find(2) == Found(ANY, ("0", "1"))
    assert find(None, ["x"]) == Found(ANY, ("x",))
    machine.has_nvidia("0", "1")
    machine.patch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find(0) == Found(NVIDIA)
    assert find(2) == Found(NVIDIA, ("1", "0"))
    assert find(2, ["MIG-1", "MIG-2"]) == Found(NVIDIA, ("MIG-1", "MIG-2"))


# --- memory ---

SMI = f"""case $1 in
-L) echo 'GPU 0: H100 (UUID: {UUID})'; echo '  MIG 1g.10gb     Device  0: (UUID: MIG-1)' ;;
*) echo '0, {UUID}, 81559'; echo '1, GPU-b, 40960'; echo '2, GPU-c, [N/A]' ;;
esac"""


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("0", "1"), (40960.0, 40960.0)),  # CUDA may number them in another order
        ((UUID, "GPU-b"), (81559.0, 40960.0)),
        (("GPU-8932",), (81559.0,)),  # the beginning of a UUID
        (("MIG-1",), (10240.0,)),
        (("2",), ()),
        (("0", "7"), ()),
        (("GPU-",), ()),  # not unique
    ],
)
def test_memory_is_what_nvidia_smi_says(machine: Machine, names: tuple[str, ...], expected: tuple[float, ...]) -> None:
    machine.has_smi(SMI)
    assert memories(Found(NVIDIA, names)) == expected


def test_indexes_are_exact_in_the_order_of_the_bus(machine: Machine) -> None:
    machine.has_smi(SMI)
    machine.patch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert memories(Found(NVIDIA, ("0", "1"))) == (81559.0, 40960.0)


@pytest.mark.parametrize("program", ["exit 9", "echo nonsense", "exec sleep 60", None])
def test_memory_is_unknown_without_a_good_answer(machine: Machine, program: str | None) -> None:
    machine.patch.setattr(accelerators, "SMI_SECONDS", 0.2)
    machine.patch.setenv("PATH", f"{machine.directory / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    if program is not None:
        machine.has_smi(program)
    else:
        machine.patch.setenv("PATH", str(machine.directory / "bin"))
    assert memories(Found(NVIDIA, ("0",))) == ()


def test_memory_of_amd_is_in_the_topology(machine: Machine) -> None:
    machine.has_amd(65520, 32768)
    assert memories(Found(AMD, ("1", "0"))) == (32768.0, 65520.0)


def test_given_memory_counts() -> None:
    assert memories(Found(ANY, ("a", "b")), 1000.0) == (1000.0, 1000.0)
    assert memories(Found(INTEL, ("0",))) == ()
    assert memories(Found(ANY)) == ()


# --- what tasks see ---

ZE = {"ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"}


@pytest.mark.parametrize(
    ("kind", "visible", "expected"),
    [
        (None, "", {}),
        (NVIDIA, "1,2", {"CUDA_VISIBLE_DEVICES": "1,2"}),
        (NVIDIA, "", {"CUDA_VISIBLE_DEVICES": ""}),
        (AMD, "1", {"ROCR_VISIBLE_DEVICES": "1"}),
        (INTEL, "0.1", {"ZE_AFFINITY_MASK": "0.1", **ZE}),
        (INTEL, "", {"ZE_AFFINITY_MASK": "65535", **ZE}),  # an empty mask would show all
        (ANY, "1", {"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "1", "ZE_AFFINITY_MASK": "1", **ZE}),
    ],
)
def test_tasks_get_the_variables_of_their_gpus(kind: str | None, visible: str, expected: dict[str, str]) -> None:
    assert variables(kind, visible, {}) == expected


def test_variables_that_count_the_rest_are_relative() -> None:
    inherited = {"HIP_VISIBLE_DEVICES": "2,3", "CUDA_VISIBLE_DEVICES": "2,3"}
    relative = {"HIP_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert variables(AMD, "2,3", inherited) == {"ROCR_VISIBLE_DEVICES": "2,3", **relative}
    assert variables(AMD, "", inherited) == dict.fromkeys(["ROCR_VISIBLE_DEVICES", *inherited], "")
