"""Gpus and CPUs that tasks get: devices of all kinds, parts of them, their memory, and CPUs that tasks are bound to."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from parsl.executors.errors import InvalidResourceSpecification

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import EnvironmentFailed, ResourcesUnsatisfiable, SlotDied

Make = Callable[..., TaskVineExecutor]
SECONDS = 60
VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
CPUS = sorted(os.sched_getaffinity(0))


class Stay(NamedTuple):
    """The times at which a task ran, and what it saw."""

    entered: float
    left: float
    gpus: list[str]
    cpus: set[int]
    openmp: str | None


def stay(seconds: float = 0.03) -> Stay:
    entered = time.monotonic()
    gpus = [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    time.sleep(seconds)
    return Stay(entered, time.monotonic(), gpus, os.sched_getaffinity(0), os.environ.get("GOMP_CPU_AFFINITY"))


class Gathering:
    """Stay until ``count`` tasks run at once."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir()
        self.directory = str(directory)
        self.count = count

    def __call__(self) -> Stay:
        Path(self.directory, str(os.getpid())).touch()
        while len(os.listdir(self.directory)) < self.count:
            time.sleep(0.005)
        return stay(0.0)


def look_up(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def fullest(stays: list[tuple[float, Stay]]) -> float:
    """Return the largest sum of what tasks took of one gpu at a time."""
    most = 0.0
    for _, one in stays:
        used: defaultdict[str, float] = defaultdict(float)
        for amount, other in stays:
            if other.entered <= one.entered < other.left:
                for name in other.gpus:
                    used[name] += amount
        most = max([most, *used.values()])
    return most


# --- devices --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ungranted(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which no gpus are granted."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


GPU, MIG = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-41b36325-6dd8-5e32-a7b0-b8e4b5a3a3a1"


@pytest.mark.parametrize(
    ("granted", "one", "all_", "none"),
    [
        ({"CUDA_VISIBLE_DEVICES": f"{GPU},{MIG}"}, [GPU, None, None, None], f"{GPU},{MIG}", ["", None, None, None]),
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, [None, "2", None, None], "2,3", [None, "", None, None]),
        (
            {"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "0,1"},
            [None, "2", "0", None],
            "2,3",
            [None, "", "", None],
        ),
        ({"ZE_AFFINITY_MASK": "0.1,1.0"}, [None, None, None, "0.1"], "0.1,1.0", [None, None, None, "65535"]),
    ],
    ids=["nvidia", "amd", "amd-hip", "intel"],
)
def test_granted_gpus_are_given_out_by_their_own_names(
    make_executor: Make,
    ungranted: pytest.MonkeyPatch,
    mode: str,
    granted: dict[str, str],
    one: list[str | None],
    all_: str,
    none: list[str | None],
) -> None:
    for name, value in granted.items():
        ungranted.setenv(name, value)
    executor = make_executor(function_exec_mode=mode)
    assert executor.submit(look_up, {"gpus": 1}, *VARIABLES).result(SECONDS) == one
    assert executor.submit(look_up, {}, *VARIABLES).result(SECONDS) == none
    assert executor.submit(look_up, {"gpus": 2}, next(iter(granted))).result(SECONDS) == [all_]
    assert [node["gpus"] for node in executor.nodes] == [2]


@pytest.mark.usefixtures("ungranted")
def test_gpus_may_be_named(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, available_accelerators=["a0", "a1"])
    seen = executor.submit(look_up, {"gpus": 2}, "CUDA_VISIBLE_DEVICES").result(SECONDS)
    assert seen == ["a0,a1"]
    assert [node["gpus"] for node in executor.nodes] == [2]


# --- parts of a gpu -------------------------------------------------------------------------------------------------


def test_tasks_share_a_gpu(make_executor: Make, mode: str, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode=mode, cores=4, gpus=2)
    gather = Gathering(tmp_path / "gathering", 4)
    stays = [future.result(SECONDS) for future in [executor.submit(gather, {"gpus": 0.25}) for _ in range(4)]]
    assert [one.gpus for one in stays] == [["0"]] * 4


def test_no_gpu_is_given_out_more_than_once(make_executor: Make) -> None:
    executor = make_executor(cores=6, gpus=2)
    amounts = [(0.25, 1, 0.5, 2, 0.3)[number % 5] for number in range(30)]
    specs: list[dict[str, Any]] = [
        {"gpus": amount, "function_exec_mode": "L1" if number % 4 == 0 else "L2"}
        for number, amount in enumerate(amounts)
    ]
    stays = [future.result(SECONDS) for future in [executor.submit(stay, spec) for spec in specs]]
    assert [len(one.gpus) for one in stays] == [max(1, int(amount)) for amount in amounts]
    assert 0.25 < fullest([(min(1.0, amount), one) for amount, one in zip(amounts, stays, strict=True)]) <= 1.0


def test_killed_task_gives_its_part_back(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, gpus=1, max_retries=0)
    lost = executor.submit(lambda: os.kill(os.getpid(), signal.SIGKILL), {"gpus": 0.5})
    assert isinstance(lost.exception(SECONDS), SlotDied)
    assert executor.submit(stay, {"gpus": 1}).result(SECONDS).gpus == ["0"]


def test_libraries_share_a_gpu(make_executor: Make, tmp_path: Path) -> None:
    libraries = {name: {"gpus": 0.5, "gpu_memory": 400} for name in ("one", "two")}
    executor = make_executor(cores=4, gpus=1, gpu_memory=1000, libraries=libraries)
    gather = Gathering(tmp_path / "gathering", 2)
    stays = [future.result(SECONDS) for future in [executor.submit(gather, {"library": name}) for name in libraries]]
    assert [one.gpus for one in stays] == [["0"], ["0"]]
    assert executor.submit(stay, {"gpus": 1}).result(SECONDS).gpus == ["0"]  # when they are idle, they end for it


@pytest.mark.parametrize("gpus", [1.5, 0.001, -0.5])
def test_part_of_several_gpus_is_refused(make_executor: Make, gpus: float) -> None:
    executor = make_executor(gpus=2)
    with pytest.raises(InvalidResourceSpecification, match="whole number"):
        executor.submit(look_up, {"gpus": gpus})


# --- memory ---------------------------------------------------------------------------------------------------------


def test_tasks_go_where_gpu_memory_is_left(make_executor: Make, mode: str, tmp_path: Path) -> None:
    executor = make_executor(function_exec_mode=mode, cores=4, gpus=2, gpu_memory=1000)
    gather = Gathering(tmp_path / "gathering", 3)
    specs: list[dict[str, Any]] = [{"gpu_memory": 600}, {"gpu_memory": 600}, {"gpus": 0.5, "gpu_memory": 400}]
    stays = [future.result(SECONDS) for future in [executor.submit(gather, spec) for spec in specs]]
    assert sorted(one.gpus[0] for one in stays[:2]) == ["0", "1"]
    more = [future.result(SECONDS) for future in [executor.submit(stay, {"gpu_memory": 600}) for _ in range(6)]]
    assert fullest([(0.6, one) for one in more]) <= 1.0


def test_more_gpu_memory_than_any_gpu_has_is_refused(make_executor: Make) -> None:
    executor = make_executor(gpus=1, gpu_memory=1000)
    error = executor.submit(look_up, {"gpu_memory": 2000}).exception(SECONDS)
    assert isinstance(error, ResourcesUnsatisfiable)
    assert error.requested == {"gpu_memory": 2000}
    assert error.largest["gpu_memory"] == 1000


# --- CPUs -----------------------------------------------------------------------------------------------------------

HALF = len(CPUS) // 2


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
@pytest.mark.parametrize(
    ("setting", "groups"),
    [
        ("block", [CPUS[:HALF], CPUS[HALF : 2 * HALF]]),
        ("block-reverse", [CPUS[HALF : 2 * HALF], CPUS[:HALF]]),
        ("alternating", [CPUS[::2], CPUS[1::2]]),
        (f"list:{CPUS[1]}:{CPUS[0]}", [[CPUS[1]], [CPUS[0]]]),
    ],
)
def test_tasks_are_bound_to_cpus(
    make_executor: Make, mode: str, setting: str, groups: list[list[int]], tmp_path: Path
) -> None:
    library = {"num_slots": 2}
    executor = make_executor(function_exec_mode=mode, cores=2, gpus=1, cpu_affinity=setting, library_config=library)
    alone = executor.submit(stay, {}).result(SECONDS)
    assert alone.cpus == set(groups[0])
    gather = Gathering(tmp_path / "gathering", 2)
    stays = [future.result(SECONDS) for future in [executor.submit(gather, {}) for _ in range(2)]]
    assert sorted(sorted(one.cpus) for one in stays) == sorted(map(sorted, groups))
    wide = executor.submit(stay, {"cores": 2}).result(SECONDS)
    assert wide.cpus == {cpu for group in groups for cpu in group}
    for one in (alone, *stays, wide):
        assert one.openmp == ",".join(map(str, sorted(one.cpus)))


def test_tasks_are_not_bound_by_default(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, gpus=1)
    assert executor.submit(stay, {}).result(SECONDS).cpus == set(CPUS)


def test_group_without_a_cpu_of_the_node_fails_tasks(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, cpu_affinity=f"list:{CPUS[0]}:60000")
    error = executor.submit(look_up, {}).exception(SECONDS)
    assert isinstance(error, EnvironmentFailed)
    assert "group 1 of 'list:" in str(error)
