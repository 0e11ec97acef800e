"""Workers in the scripts that providers write for batch systems. Only the systems' commands are replaced."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parsl.executors.errors import BadStateException
from parsl.jobs.states import JobState
from parsl.launchers import SimpleLauncher
from parsl.providers import (
    CondorProvider,
    GridEngineProvider,
    LocalProvider,
    LSFProvider,
    PBSProProvider,
    SlurmProvider,
    TorqueProvider,
)
from parsl.providers.base import ExecutionProvider

from taskvine_exec import TaskVineExecutor
from taskvine_exec.blocks import jobs
from taskvine_exec.errors import ManagerLost
from tests.conftest import eventually
from tests.engines import ABSENT

Make = Callable[..., TaskVineExecutor]
SECONDS = 30

# A job is a process group with the group's number. The answers are those that the providers look for.
SLURM = {
    "sbatch": """
        export SLURM_CPUS_ON_NODE=2 SLURM_JOB_NUM_NODES=1 SLURM_JOB_NAME=job
        setsid bash "$1" > /dev/null 2>&1 < /dev/null &
        echo "Submitted batch job $!" """,
    "srun": """
        while [ "$1" != bash ]; do shift; done
        exec "$@" """,
    "sacct": """
        for job in $(echo "${@: -1}" | tr -dc 0-9, | tr , ' '); do
            kill -0 -- -$job 2> /dev/null && echo $job RUNNING || echo $job COMPLETED
        done
        true""",
    "scontrol": "exit 1",
    "scancel": 'for job; do kill -- "-$job"; done',
}
CONDOR = {
    "condor_submit": """
        cd "$(mktemp -d)"
        cp $(sed -n 's/^transfer_input_files *= *//p' "$1" | tr , ' ') .
        setsid bash "$(sed -n 's/^arguments *= *//p' "$1")" > /dev/null 2>&1 < /dev/null &
        echo "1 job(s) submitted to cluster $!." """,
    "condor_q": """
        for job; do
            case $job in
                *.0) kill -0 -- -${job%.0} 2> /dev/null && echo $job 2 || echo $job 4;;
            esac
        done
        true""",
    "condor_rm": 'for job; do [ "$job" = -forcex ] || kill -- "-${job%.0}" 2> /dev/null; done; true',
}
# The output goes where the script says. A cancellation fails, and cancels nothing, if one of its jobs has ended.
_BEGIN = """
        output=$(sed -n 's/^#[$A-Z]* -o //p' "$script") error=$(sed -n 's/^#[$A-Z]* -e //p' "$script")
        setsid bash "$script" > "$output" 2> "$error" < /dev/null &"""
_END = """
        for job; do kill -0 -- "-${job%.*}" 2> /dev/null || { echo "$job does not exist"; exit 1; }; done
        for job; do kill -- "-${job%.*}"; done"""
_QSUB = "script=${@: -1}" + _BEGIN
GRID_ENGINE = {
    "qsub": f'{_QSUB} echo $! | tee -a "$(dirname "$0")/jobs"',
    "qstat": """
        for job in $(cat "$(dirname "$0")/jobs"); do
            kill -0 -- -$job 2> /dev/null && echo "$job 0.5 parsl.tv.b user r 11/27/2026 10:28:46 main.q@n1 1"
        done
        true""",
    "qdel": _END,
}
PBS = {
    "qsub": f"{_QSUB} echo $!.pbs1",
    "qstat": """
        for job; do
            case $job in
                *.pbs1)
                    kill -0 -- -${job%.pbs1} 2> /dev/null && state=R || state=F
                    jobs="$jobs${jobs:+,}\\"$job\\":{\\"job_state\\":\\"$state\\"}";;
            esac
        done
        echo "{\\"Jobs\\":{$jobs}}" """,
    "qdel": _END,
}
TORQUE = {
    "qsub": f"{_QSUB} echo $!.torque1.example.org",
    "qstat": """
        for job; do
            kill -0 -- -${job%%.*} 2> /dev/null && echo "${job%.example.org} parsl.tv.block-0 user 00:00:01 R batch"
        done
        true""",
    "qdel": _END.replace("%.*", "%%.*"),
}
LSF = {
    "bsub": f"script=$1{_BEGIN} echo 'Job <'$!'> is submitted to default queue <normal>.'",
    "bjobs": """
        for job; do
            case $job in
                [0-9]*) kill -0 -- -$job 2> /dev/null && echo $job RUN || echo $job DONE;;
            esac
        done
        true""",
    "bkill": _END,
}

# The commands that vine_factory calls. Only the first job gets a node.
FACTORY_SLURM = {
    "sbatch": """
        export SLURM_JOB_ID=$$
        mkdir occupied 2> /dev/null || { echo "Submitted batch job 999999"; exit; }
        setsid bash "${@: -1}" > /dev/null 2>&1 < /dev/null &
        echo "Submitted batch job $$" """,
    "scancel": "echo $* >> cancelled",
}
FACTORY_CONDOR = {
    "condor_submit": r"""
        touch condor.logfile
        mkdir occupied 2> /dev/null || { echo "1 job(s) submitted to cluster 999999."; exit; }
        here=$(mktemp -d)
        cp $(sed -n 's/^transfer_input_files *= *//p' "$1" | tr , ' ') condor.sh "$here"
        arguments=$(sed -n 's/^arguments *= *"\(.*\)"$/\1/p' "$1" | sed "s/\x27\x27\x27/\x27/g" | tr '$[' 'xx')
        arguments=$(echo "$arguments" | sed 's/xx(x[^]]*])/2000/g')
        cd "$here"
        eval "set -- $arguments"
        setsid sh condor.sh "$@" > /dev/null 2>&1 < /dev/null &
        echo "1 job(s) submitted to cluster 7." """,
    "condor_rm": "echo $* >> cancelled",
}


def install(commands: dict[str, str], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the commands of a batch system on the path."""
    directory.mkdir()
    for name, script in commands.items():
        (directory / name).write_text(f"#!/bin/bash\n{script}\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)


SETTINGS: dict[str, Any] = {"init_blocks": 1, "max_blocks": 2, "launcher": SimpleLauncher()}
WITH_OUTPUT = [
    pytest.param(GRID_ENGINE, lambda: GridEngineProvider(**SETTINGS), id="gridengine"),
    pytest.param(PBS, lambda: PBSProProvider(**SETTINGS), id="pbs"),
    pytest.param(TORQUE, lambda: TorqueProvider(**SETTINGS), id="torque"),
    pytest.param(LSF, lambda: LSFProvider(**SETTINGS), id="lsf"),
]


@pytest.fixture(params=["taskvine"])
def engine(request: pytest.FixtureRequest) -> str:
    if ABSENT is not None:
        pytest.skip(ABSENT)
    return str(request.param)


@pytest.mark.parametrize(
    ("commands", "provider"),
    [
        pytest.param(SLURM, lambda: SlurmProvider(init_blocks=1, max_blocks=1, exclusive=False), id="slurm"),
        pytest.param(CONDOR, lambda: CondorProvider(init_blocks=1, max_blocks=1), id="condor"),
        *WITH_OUTPUT,
    ],
)
def test_block_runs_in_a_batch_job(
    make_executor: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    commands: dict[str, str],
    provider: Callable[[], ExecutionProvider],
) -> None:
    install(commands, tmp_path / "bin", monkeypatch)
    executor = make_executor(provider=provider(), address="localhost")
    assert executor.submit(os.getenv, {}, "PARSL_WORKER_BLOCK_ID").result(SECONDS) == "0"
    assert [status.state for status in executor.status().values()] == [JobState.RUNNING]
    assert executor.scale_in(1) == ["0"]
    eventually(lambda: not executor.nodes, SECONDS)


@pytest.mark.parametrize(("commands", "provider"), WITH_OUTPUT)
def test_ended_job_does_not_prevent_cancelling_others(
    make_executor: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    commands: dict[str, str],
    provider: Callable[[], ExecutionProvider],
) -> None:
    """At shutdown nodes leave by themselves, but a job whose node never joins has to be cancelled."""
    install(commands, tmp_path / "bin", monkeypatch)
    executor = make_executor(provider=provider(), address="localhost")
    executor.submit(int, {}).result(SECONDS)
    (first,) = executor.blocks_to_job_id.values()
    assert executor.provider is not None
    waits, ends = (executor.provider.submit(command, 1, command) for command in ("sleep 600", "true"))
    eventually(lambda: not _runs(ends))
    for block, job in (("7", waits), ("8", ends)):
        executor._jobs.launched(block, job, time.monotonic())
    begun = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - begun < 10
    eventually(lambda: not _runs(first) and not _runs(waits))
    assert "cancelled" not in caplog.text
    assert "has not reported that it cleaned up" not in caplog.text


def _runs(job: str) -> bool:
    """Whether a process of a job's group exists."""
    try:
        os.killpg(int(job.split(".", maxsplit=1)[0]), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("ssl", [False, True])
@pytest.mark.parametrize(("kind", "commands"), [("slurm", FACTORY_SLURM), ("condor", FACTORY_CONDOR)])
def test_vine_factory_submits_workers(
    make_executor: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    commands: dict[str, str],
    ssl: bool,
) -> None:
    install(commands, tmp_path / "bin", monkeypatch)
    two = {"min_workers": 2, "max_workers": 2, "workers_per_cycle": 2}
    executor = make_executor(worker_launch_method="factory", batch_type=kind, address="localhost", ssl=ssl, **two)
    assert executor.submit(os.getenv, {}, "TASKVINE_EXEC_RUN").result(SECONDS) != executor.run.places.base
    (node,) = executor.nodes
    assert node["name"].startswith(f"{socket.gethostname()}-")  # our launcher runs in it, and removes what it leaves
    (scratch,) = Path(executor.run.places.log).glob("factory-*")
    assert (scratch / "pwfile").stat().st_mode & 0o777 == 0o600
    executor.shutdown()
    assert not (scratch / "pwfile").exists()
    assert "999999" in (scratch / "cancelled").read_text().split()


def test_failing_submission_of_vine_factory_is_reported(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install({"sbatch": "echo 'sbatch: error: no such partition' >&2; exit 1"}, tmp_path / "bin", monkeypatch)
    executor = make_executor(worker_launch_method="factory", batch_type="slurm", address="localhost")
    assert isinstance(executor.submit(int, {}).exception(SECONDS), BadStateException)
    said = str(executor.executor_exception)
    assert "no such partition" in said
    assert os.path.join(executor.run.places.log, "factory.out") in said


def test_failing_workers_of_vine_factory_are_reported(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(FACTORY_SLURM, tmp_path / "bin", monkeypatch)
    executor = make_executor(
        worker_launch_method="factory", batch_type="slurm", address="localhost", worker_options="--no-such-option"
    )
    assert isinstance(executor.submit(int, {}).exception(SECONDS), BadStateException)
    assert "ended with status" in str(executor.executor_exception)


def test_manager_that_dies_at_start_is_not_waited_for(make_executor: Make) -> None:
    """Each block's command names the address at which the manager listens."""
    begun = time.monotonic()
    with socket.create_server(("", 0)) as taken:
        executor = make_executor(provider=LocalProvider(init_blocks=3, max_blocks=3), port=taken.getsockname()[1])
        with pytest.raises((BadStateException, ManagerLost), match=r"port|listen"):
            executor.submit(int, {}).result(SECONDS)
    assert time.monotonic() - begun < 15
    assert not executor.blocks_to_job_id


class Quick(SlurmProvider):  # type: ignore[misc]
    """The batch system may be asked often."""

    @property
    def status_polling_interval(self) -> int:
        return 1


@pytest.mark.parametrize("lists", [0, 2])
def test_unlisted_job_has_not_ended(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: int
) -> None:
    """The accounts do not list the job for a while, or never, and its node comes late."""
    sacct = f"""
        echo >> {tmp_path}/asked
        [ {lists} = 0 ] || [ $(wc -l < {tmp_path}/asked) -le {lists} ] || {{ {SLURM["sacct"]}
        }}"""
    commands = {**SLURM, "sacct": sacct, "scancel": f'echo "$@" >> {tmp_path}/cancelled; {SLURM["scancel"]}'}
    install(commands, tmp_path / "bin", monkeypatch)
    wait = f"while [ $(wc -l < {tmp_path}/asked) -lt 4 ]; do sleep 0.1; done"
    executor = make_executor(provider=Quick(max_blocks=1, exclusive=False, worker_init=wait), address="localhost")
    assert executor.submit(os.getenv, {}, "PARSL_WORKER_BLOCK_ID").result(SECONDS) == "0"
    assert not executor.bad_state_is_set
    job = executor.blocks_to_job_id["0"]
    executor.shutdown()
    assert (tmp_path / "cancelled").read_text().split() == [job]


def test_job_without_a_node_is_cancelled_at_the_end(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job waits in the queue, but no list shows it."""
    commands = {**SLURM, "sbatch": "echo Submitted batch job 4711", "sacct": "true"}
    install({**commands, "scancel": f'echo "$@" >> {tmp_path}/cancelled'}, tmp_path / "bin", monkeypatch)
    monkeypatch.setattr(jobs, "MENTIONS", (0.5, 1800.0))
    caplog.set_level(logging.INFO, "taskvine_exec")
    executor = make_executor(provider=Quick(max_blocks=1), address="localhost")
    future = executor.submit(int, {})
    eventually(lambda: "block 0 (job 4711)" in caplog.text)
    assert not future.done()
    executor.shutdown()
    assert (tmp_path / "cancelled").read_text().split() == ["4711"]


def test_provider_without_job_states_works(
    make_executor: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider's output cannot be understood, but the node joins."""
    install({**SLURM, "sacct": "echo nonsense"}, tmp_path / "bin", monkeypatch)
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"
    executor = make_executor(provider=Quick(max_blocks=1, exclusive=False, worker_init=wait), address="localhost")
    future = executor.submit(int, {})
    eventually(lambda: "cannot report the state of its jobs" in caplog.text)
    (tmp_path / "go").touch()
    assert future.result(SECONDS) == 0
