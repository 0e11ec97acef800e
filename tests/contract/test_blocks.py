"""Blocks of a provider, without a DataFlowKernel; tests/integration/test_scaling.py has the tests with one."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from parsl.executors.errors import BadStateException
from parsl.jobs.states import JobState
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import WorkerLaunchFailed
from tests.conftest import Gate, eventually, first_node
from tests.contract.conftest import embedded_only

Make = Callable[..., TaskVineExecutor]


def local(init: int = 1, most: int = 4, **settings: Any) -> LocalProvider:
    return LocalProvider(init_blocks=init, max_blocks=most, **settings)


def blocks_of(executor: TaskVineExecutor) -> list[str]:
    return sorted(node["block"] for node in executor.nodes)


def has_ended(executor: TaskVineExecutor, job: Any) -> bool:
    """Ask the provider with the executor's lock, because it is not thread-safe."""
    assert executor.provider is not None
    with executor._provider_lock:
        return bool(executor.provider.status([job])[0].terminal)


class Asked(LocalProvider):  # type: ignore[misc]
    """Counts how often it is asked for the status of jobs. It wants to be asked once an hour."""

    questions = 0

    def status(self, job_ids: list[object]) -> Any:
        type(self).questions += 1
        return super().status(job_ids)

    @property
    def status_polling_interval(self) -> int:
        return 3600


def test_clock_set_back_delays_no_status(make_executor: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make_executor(provider=Asked(init_blocks=1))
    assert executor.submit(int, {}).result(30) == 0
    executor.poll_facade()
    asked = Asked.questions
    executor.poll_facade()
    assert Asked.questions == asked, "it is not asked before an hour is over"
    now, clock = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: now() - 86_400)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3_601)
    executor.poll_facade()
    assert Asked.questions > asked


@pytest.mark.parametrize("init", [0, 1, 2])
def test_start_launches_init_blocks(make_executor: Make, init: int) -> None:
    executor = make_executor(provider=local(init))
    assert list(executor.blocks_to_job_id) == [str(number) for number in range(init)]
    assert executor.wait_for_nodes(init, 30)
    assert blocks_of(executor) == list(executor.blocks_to_job_id)


def test_provider_object_is_not_changed(engine: str, make_executor: Make) -> None:
    provider = local(2)
    before = copy.deepcopy({**vars(provider), "launcher": vars(provider.launcher)})
    first, second = make_executor(provider=provider), make_executor(provider=provider)
    assert all(executor.wait_for_nodes(2, 30) for executor in (first, second))
    first.scale_out_facade(1)
    first.status()
    assert {**vars(provider), "launcher": vars(provider.launcher)} == before
    assert len(first.blocks_to_job_id) == 3
    assert len(second.blocks_to_job_id) == 2


def test_scale_out_launches_blocks(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(function_exec_mode=mode, provider=local(0), cores=1)
    assert executor.scale_out_facade(2) == ["0", "1"]
    futures = [executor.submit(gate.task, {}, number) for number in range(3)]
    gate.wait(2)
    assert executor.scale_out_facade(1) == ["2"]
    gate.wait(3)
    gate.open()
    assert {future.result(30)[1] for future in futures} == {"0", "1", "2"}


def test_status_shows_blocks(make_executor: Make) -> None:
    executor = make_executor(provider=local(2))
    assert executor.wait_for_nodes(2, 30)
    assert {block: status.state for block, status in executor.status().items()} == {
        "0": JobState.RUNNING,
        "1": JobState.RUNNING,
    }
    assert executor.status_facade.keys() == {"0", "1"}


def test_outstanding_counts_unfinished_tasks(make_executor: Make, gate: Gate) -> None:
    executor = make_executor()
    assert executor.outstanding() == 0
    held = [executor.submit(gate.task, {}, number) for number in range(3)]
    assert executor.outstanding() == 3
    gate.wait(2)
    assert executor.outstanding() == 3
    gate.open()
    for future in held:
        future.result(30)
    assert executor.outstanding() == 0


def test_outstanding_counts_a_chain_as_one(make_executor: Make, gate: Gate) -> None:
    """Tasks that wait for files of other tasks ask for no block, not even before the first task is done."""
    from parsl.data_provider.files import File

    executor = make_executor()
    hold = gate.task

    def step(inputs: Any, outputs: Any) -> None:
        if not inputs:
            hold()
        with open(outputs[0], "w"):
            pass

    files = [File(f"taskvinetemp:///f{number}") for number in range(11)]
    futures = [
        executor.submit(
            step, {}, inputs=files[max(0, number) : number + 1] if number else [], outputs=[files[number + 1]]
        )
        for number in range(10)
    ]
    gate.wait(1)
    eventually(lambda: executor.outstanding() == 1)
    gate.open()
    for future in futures:
        future.result(30)
    assert executor.outstanding() == 0


def test_scale_in_lets_tasks_finish(make_executor: Make, mode: str, gate: Gate, tmp_path: Any) -> None:
    executor = make_executor(function_exec_mode=mode, provider=local(2), cores=1, max_retries=0)
    assert executor.wait_for_nodes(2, 30)
    held = [executor.submit(gate.task, {}, number) for number in range(2)]
    gate.wait(2)
    waiting = executor.submit(gate.task, {}, "waiting")
    assert executor.scale_in_facade(1) == ["1"]
    assert executor.status_facade["1"].state == JobState.SCALED_IN
    assert blocks_of(executor) == ["0", "1"]  # the call returned at once: the task still runs
    executor.stats()  # answered after the earlier messages, so the manager knows of the scale-in
    later = Gate(tmp_path / "later")
    behind = [executor.submit(later.task, {}, number) for number in range(2)]
    gate.open()
    assert {future.result(30)[1] for future in held} == {"0", "1"}
    eventually(lambda: blocks_of(executor) == ["0"])
    later.open()
    assert waiting.result(30)[1] == "0"
    assert {future.result(30)[1] for future in behind} == {"0"}
    job = executor.blocks_to_job_id["1"]
    assert executor.provider is not None
    eventually(lambda: has_ended(executor, job))
    assert executor.provider.status([executor.blocks_to_job_id["0"]])[0].state == JobState.RUNNING


def test_blocks_scale_in_to_zero_and_out_again(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(provider=local(2))
    assert executor.wait_for_nodes(2, 30)
    assert executor.scale_in_facade(5) == ["0", "1"]
    assert executor.scale_in_facade(5) == []
    eventually(lambda: not executor.nodes)
    gate.open()
    assert executor.scale_out_facade(1) == ["2"]
    assert executor.submit(gate.task, {}).result(30) == ("task", "2")


@pytest.mark.parametrize("scaled_in", [False, True])
def test_task_launches_the_first_block(make_executor: Make, scaled_in: bool) -> None:
    """Without a DataFlowKernel, no strategy launches a block."""
    executor = make_executor(provider=local(int(scaled_in)))
    if scaled_in:
        assert executor.wait_for_nodes(1, 30)
        assert executor.scale_in_facade(1) == ["0"]
        eventually(lambda: not executor.nodes)
    assert executor.submit(int, {}).result(30) == 0
    assert len(executor.blocks_to_job_id) == 1 + scaled_in


def test_provider_that_allows_no_block_is_a_warning(make_executor: Make, caplog: pytest.LogCaptureFixture) -> None:
    executor = make_executor(provider=local(0, 0))
    executor.submit(int, {})
    eventually(lambda: "max_blocks allows no block" in caplog.text)
    assert not executor.blocks_to_job_id


def test_block_scales_in_before_its_node_has_joined(make_executor: Make) -> None:
    executor = make_executor(provider=local(0), max_retries=0)
    (block,) = executor.scale_out_facade(1)
    assert executor.scale_in_facade(1) == [block]
    futures = [executor.submit(lambda x: x, {}, number) for number in range(4)]
    job = executor.blocks_to_job_id[block]
    assert executor.provider is not None
    eventually(lambda: has_ended(executor, job))
    executor.scale_out_facade(1)
    assert [future.result(30) for future in futures] == list(range(4))


@pytest.mark.parametrize("init", [1, 2])
def test_failing_blocks_are_reported(make_executor: Make, init: int) -> None:
    """Only the executor watches the blocks here."""
    executor = make_executor(provider=local(init, worker_init="echo no such module >&2; exit 3"))
    with pytest.raises(BadStateException, match="no such module"):  # either end is possible
        executor.submit(int, {}).result(30)
    reason = executor.executor_exception
    assert isinstance(reason, WorkerLaunchFailed)
    assert reason.exit_code == 3
    assert "no such module" in reason.stderr
    assert reason.job == executor.blocks_to_job_id[str(init - 1)]
    with open(reason.output) as output:
        assert "no such module" in output.read()
    with pytest.raises(BadStateException, match="no such module"):
        executor.submit(int, {})
    assert len(executor.blocks_to_job_id) == init


class Emptied(LocalProvider):  # type: ignore[misc]
    """Reads the file of the exit code once when the shell has just opened it for writing."""

    looks = 0

    def _read_job_file(self, script_path: str, suffix: str) -> str:
        read: str = super()._read_job_file(script_path, suffix)
        self.looks += read.strip() != "-"
        return "" if self.looks == 1 else read


def test_half_written_exit_code_is_read_again(make_executor: Make) -> None:
    executor = make_executor(provider=Emptied(worker_init="echo no such module >&2; exit 3"))
    with pytest.raises(BadStateException, match="no such module"):
        executor.submit(int, {}).result(30)
    reason = executor.executor_exception
    assert isinstance(reason, WorkerLaunchFailed)
    assert reason.exit_code == 3
    assert isinstance(executor.provider, Emptied)
    assert executor.provider.looks > 1


def test_missing_exit_code_is_a_failure(make_executor: Make) -> None:
    provider = local(worker_init="trap 'truncate --size 0 $0.ec; kill -KILL $PPID $$' EXIT; exit 3")
    executor = make_executor(provider=provider)
    with pytest.raises(BadStateException, match="ended before their nodes joined"):
        executor.submit(int, {}).result(30)


def test_blocks_that_end_early_are_reported(make_executor: Make) -> None:
    executor = make_executor(provider=local(worker_init="exit 0"))
    with pytest.raises(BadStateException, match="ended before its node joined"):
        executor.submit(int, {}).result(30)


class Refusing(LocalProvider):  # type: ignore[misc]
    def submit(self, *args: Any, **kwargs: Any) -> str:
        raise OSError("no more blocks today")


def test_refusing_provider_is_reported(make_executor: Make) -> None:
    executor = make_executor(provider=Refusing(init_blocks=2))
    with pytest.raises(BadStateException, match="no more blocks today"):
        executor.submit(int, {}).result(30)


def test_one_of_two_blocks_may_fail(make_executor: Make, tmp_path: Any) -> None:
    provider = local(2, worker_init=f"mkdir {tmp_path}/first || exit 3")
    executor = make_executor(provider=provider)
    assert executor.submit(int, {}).result(30) == 0
    assert not executor.bad_state_is_set


def test_failed_replacement_is_replaced(make_executor: Make, tmp_path: Any) -> None:
    """The second of three blocks: after a block that has had a node, others are tried."""
    count = f"$(wc -l < {tmp_path}/blocks)"
    executor = make_executor(provider=local(worker_init=f"echo >> {tmp_path}/blocks; [ {count} != 2 ] || exit 3"))
    assert executor.submit(int, {}).result(30) == 0
    psutil.Process(first_node(executor)["pid"]).kill()
    eventually(lambda: not executor.nodes)
    assert executor.submit(int, {}).result(30) == 0
    assert list(executor.blocks_to_job_id) == ["0", "1", "2"]


@pytest.mark.parametrize("end", ["exit 137", "kill -KILL $PPID $$"])
def test_only_block_killed_at_start_is_replaced(make_executor: Make, tmp_path: Any, end: str) -> None:
    """Its node is killed, or the whole job."""
    executor = make_executor(provider=local(worker_init=f"! mkdir {tmp_path}/first 2>/dev/null || {end}"))
    assert executor.submit(int, {}).result(30) == 0
    assert list(executor.blocks_to_job_id) == ["0", "1"]


def test_blocks_always_killed_at_start_are_given_up(make_executor: Make) -> None:
    executor = make_executor(provider=local(worker_init="exit 137"))
    with pytest.raises(BadStateException, match="blocks 0, 1, 2 ended before their nodes joined"):
        executor.submit(int, {}).result(30)


def test_tasks_wait_for_workers(make_executor: Make, mode: str) -> None:
    executor = make_executor(function_exec_mode=mode, provider=local(1), wait_for_workers=2)
    future = executor.submit(int, {})
    assert executor.wait_for_nodes(1, 30)
    assert executor.stats()["tasks_done"] == 0
    assert not future.done()
    executor.scale_out_facade(1)
    assert future.result(30) == 0
    assert len(executor.nodes) == 2


def test_tasks_see_their_block_id(make_executor: Make, mode: str) -> None:
    def block() -> str | None:
        import os

        return os.environ.get("PARSL_WORKER_BLOCK_ID")

    assert make_executor(function_exec_mode=mode).submit(block, {}).result(30) == "0"
    assert make_executor(function_exec_mode=mode, worker_launch_method="factory").submit(block, {}).result(30) is None


# --- by hand ---


def test_nodes_started_by_hand_join(make_executor: Make, mode: str, start_node: Callable[..., Any]) -> None:
    executor = make_executor(function_exec_mode=mode, worker_launch_method="manual")
    assert executor.provider is None
    future = executor.submit(int, {})
    process = start_node(executor)
    assert future.result(30) == 0
    assert first_node(executor)["pid"] == process.pid
    assert executor.status() == {}
    executor.shutdown()
    assert process.wait(30) == 0


def test_node_without_an_executor_reports_it(make_executor: Make, start_node: Callable[..., Any]) -> None:
    executor = make_executor(worker_launch_method="manual")
    command = executor.launch_cmd
    executor.shutdown()
    import shlex
    import subprocess

    ended = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "no executor at" in ended.stderr


# --- by the engine's factory ---


def test_factory_starts_min_workers_at_once_and_more_under_load(make_executor: Make, mode: str, gate: Gate) -> None:
    executor = make_executor(
        function_exec_mode=mode, worker_launch_method="factory", min_workers=1, max_workers=3, cores=1
    )
    assert executor.wait_for_nodes(1, 30)
    first = [executor.submit(gate.task, {}, 0)]
    gate.wait(1)
    assert len(executor.nodes) == 1  # one is enough
    futures = first + [executor.submit(gate.task, {}, number) for number in range(1, 10)]
    gate.wait(3)
    assert len(executor.nodes) == 3
    gate.open()
    assert [future.result(30)[0] for future in futures] == list(range(10))


def test_factory_starts_no_more_nodes_than_needed(make_executor: Make, gate: Gate) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=0, max_workers=3, cores=4)
    futures = [executor.submit(gate.task, {"cores": 1}, number) for number in range(4)]
    gate.wait(4)
    assert len(executor.nodes) == 1
    gate.open()
    for future in futures:
        future.result(30)


def test_factory_replaces_a_node(make_executor: Make) -> None:
    executor = make_executor(worker_launch_method="factory")
    assert executor.wait_for_nodes(1, 30)
    pid = first_node(executor)["pid"]
    psutil.Process(pid).kill()
    eventually(lambda: [node["pid"] for node in executor.nodes] not in ([], [pid]))
    assert executor.submit(int, {}).result(30) == 0


def test_factory_ends_idle_nodes(make_executor: Make) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=0, worker_timeout=1)
    assert executor.nodes == []
    assert executor.submit(int, {}).result(30) == 0
    eventually(lambda: not executor.nodes)
    assert executor.submit(int, {}).result(30) == 0


def test_factory_keeps_min_workers_and_the_data(make_executor: Make, tmp_path: Any) -> None:
    from parsl.data_provider.files import File

    def write(outputs: Any) -> None:
        with open(outputs[0], "w") as file:
            file.write("kept")

    settings = {"worker_launch_method": "factory", "max_workers": 2, "cores": 1, "worker_timeout": 1}
    fewest = make_executor(min_workers=1, **settings)
    data = make_executor(min_workers=0, **settings)
    file = File("taskvinetemp:///data")
    data.submit(write, {}, outputs=[file]).result(30)
    gate = Gate(tmp_path / "two")
    pair = [executor.submit(gate.task, {}, number) for executor in (fewest, data) for number in range(2)]
    gate.wait(4)
    gate.open()
    for future in pair:
        future.result(30)
    before = [node["pid"] for node in fewest.nodes]
    eventually(lambda: len(fewest.nodes) == len(data.nodes) == 1)
    assert fewest.nodes[0]["pid"] in before
    path = data.fetch(file, tmp_path / "fetched", 30)
    with open(path) as fetched:
        assert fetched.read() == "kept"


@embedded_only  # the secret that its nodes read
def test_factory_gives_up_if_its_nodes_always_end(make_executor: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=0)
    import os

    # A node cannot read the secret, and reports that.
    with open(os.path.join(executor.run.places.base, "node.config"), "wb") as file:
        file.write(b"nonsense")
    future = executor.submit(int, {})
    error = future.exception(60)
    assert isinstance(error, BadStateException)
    assert isinstance(executor.executor_exception, WorkerLaunchFailed)
    assert "UnpicklingError" in str(error)
