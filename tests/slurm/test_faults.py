"""Faults that users, administrators and machines cause in runs, on a real Slurm."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cluster_programs import CLEAN_SECONDS, Program
from tests.conftest import eventually, settle
from tests.slurm.cluster import Cluster

Run = Callable[..., Program]
Figure = Callable[[str, str], None]
pytestmark = pytest.mark.timeout(300)
KILLS = int(os.environ.get("TASKVINE_EXEC_SLURM_KILLS", "2"))
"""How often each process is killed at a random moment."""
SEED = os.environ.get("TASKVINE_EXEC_SLURM_SEED", "0")

LONG = """
with load(executor(init_blocks={blocks}, max_blocks={blocks}, max_retries=3)) as dfk:
    dfk.executors["tv"].wait_for_nodes({blocks}, 60)
    say("joined")
    futures = [where(n, {seconds}) for n in range({count})]
    say("results", [future.result() for future in futures])
"""


def long(run: Run, *, blocks: int = 1, seconds: float = 2.0, count: int = 10) -> Program:
    """A program whose tasks take some time; it prints the nodes on which they ran."""
    program = run(LONG.format(blocks=blocks, seconds=seconds, count=count))
    program.wait_for("joined")
    return program


def jobs_of(program: Program, count: int) -> list[str]:
    """Return the jobs in which the tasks of an ended program ran; all of its ``count`` tasks have results."""
    program.end(240)
    results = program.said("results")[0][0]
    assert [number for _, _, number in results] == list(range(count))
    return sorted({job for _, job, _ in results})


# --- what Slurm does to jobs ---


def test_job_ends_at_its_walltime(run: Run) -> None:
    """A job ends while its tasks run; another job goes on. Slurm looks at walltimes every half minute."""
    program = run("""
        with load(executor(init_blocks=1, max_blocks=1, max_retries=3, walltime="00:01:00")):
            results = []
            while len({job for _, job, _ in results}) < 2:
                futures = [where(len(results) + n, 5) for n in range(4)]
                results += [future.result() for future in futures]
            say("results", results)
    """)
    program.end(240)
    numbers = [number for _, _, number in program.said("results")[0][0]]
    assert numbers == list(range(len(numbers)))


def test_scancel_of_one_block(cluster: Cluster, run: Run) -> None:
    program = long(run, blocks=2)
    cluster.ask("scancel", cluster.jobs("R")[0])
    jobs_of(program, 10)


def test_scancel_of_all_blocks(cluster: Cluster, run: Run, figure: Figure) -> None:
    program = long(run, blocks=2)
    cancelled = cluster.jobs("R")
    begun = time.time()
    cluster.ask("scancel", *cancelled)
    eventually(lambda: set(cluster.jobs("R,PD")) - set(cancelled), 60)
    figure("scancel of all blocks: seconds until another is submitted", f"{time.time() - begun:.1f}")
    assert set(jobs_of(program, 10)) - set(cancelled)


def test_requeued_job_is_the_same_block(cluster: Cluster, run: Run) -> None:
    """Slurm runs the same job again: it is the same block with another node."""
    program = long(run)
    (job,) = cluster.jobs("R")
    cluster.ask("scontrol", "requeue", job)
    assert jobs_of(program, 10) == [job]


def test_suspended_job_goes_on(cluster: Cluster, run: Run) -> None:
    program = long(run)
    (job,) = cluster.jobs("R")
    cluster.ask("scontrol", "suspend", job)
    eventually(lambda: cluster.jobs("S"))
    time.sleep(5)
    assert not program.said("results")
    cluster.ask("scontrol", "resume", job)
    assert jobs_of(program, 10) == [job]


def test_node_offers_the_memory_of_its_job(run: Run) -> None:
    program = run("""
        small = executor(init_blocks=1, max_blocks=1, exclusive=False, scheduler_options="#SBATCH --mem=1000")
        with load(small):
            where().result()
            say("memory", small.nodes[0]["memory"])
    """)
    program.end()
    assert program.said("memory")[0][0] <= 1000


# --- what users get wrong ---

WRONG = """
with load(executor(init_blocks=2, max_blocks=2, {wrong})):
    error = where().exception()
    say("error", [type(error).__name__, str(error)])
"""


def error_of(run: Run, wrong: str) -> tuple[str, float]:
    """Return the error of a task where blocks cannot run, and the seconds until it came."""
    program = run(WRONG.format(wrong=wrong))
    program.end()
    (name, message), when = program.said("error")[0]
    assert name == "BadStateException"
    return message, when - program.said("loading")[0][1]


def test_failing_worker_init_is_reported(cluster: Cluster, run: Run, figure: Figure) -> None:
    message, seconds = error_of(run, "worker_init='module load anaconda7 || exit 3'")
    assert "ended before their nodes joined" in message
    assert "exit code 3" in message
    assert "command not found" in message
    path = re.search(r"job \d+, .*output in (\S+)\)", message)
    assert path is not None
    assert "command not found" in Path(path.group(1)).read_text()
    figure("failing worker_init: seconds until it is named", f"{seconds:.1f}")
    assert seconds < 15


def test_wrong_partition_is_reported(run: Run, figure: Figure) -> None:
    message, seconds = error_of(run, "partition='compute7'")
    assert "invalid partition" in message
    figure("wrong partition: seconds until it is named", f"{seconds:.1f}")
    assert seconds < 15


def test_request_for_too_much_memory_is_reported(run: Run, figure: Figure) -> None:
    message, seconds = error_of(run, "scheduler_options='#SBATCH --mem=900000'")
    assert "Memory specification can not be satisfied" in message
    figure("over-asked memory: seconds until it is named", f"{seconds:.1f}")
    assert seconds < 15


def test_forbidden_account_is_reported(cluster: Cluster, run: Run, figure: Figure) -> None:
    if not cluster.accounting:
        pytest.skip("this cluster has no accounts")
    message, seconds = error_of(run, "scheduler_options='#SBATCH --account=physics'")
    assert "Invalid account" in message
    figure("wrong account: seconds until it is named", f"{seconds:.1f}")
    assert seconds < 15


def test_exhausted_account_is_reported(cluster: Cluster, run: Run, figure: Figure) -> None:
    """Slurm accepts the job and never starts it."""
    if not cluster.accounting:
        pytest.skip("this cluster has no accounts")
    cluster.ask("sacctmgr", "-i", "add", "account", "spent", "GrpTRESMins=cpu=0")
    cluster.ask("sacctmgr", "-i", "add", "user", "root", "account=spent")
    program = run("""
        try:
            with load(executor(init_blocks=2, max_blocks=2, scheduler_options="#SBATCH --account=spent")):
                where().result()
        except KeyboardInterrupt:
            pass
    """)
    program.wait_for("loaded")
    eventually(lambda: "AssocGrpCPUMinutesLimit" in program.text, 30)
    figure("account used up: seconds until it is named", f"{program.age():.1f}")
    assert re.search(r"no node yet after .* A limit of its account keeps it waiting", program.text)
    os.kill(program.pid, signal.SIGINT)
    program.end(30)


# --- what dies ---


@pytest.mark.parametrize("who", ["user", "manager", "both"])
def test_killed_processes_leave_nothing(run: Run, figure: Figure, who: str) -> None:
    """Tasks have children in new sessions. The nodes notice the end of their manager, and leave."""
    program = run("""
        @parsl.python_app
        def stray():
            import subprocess, time
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            open("scratch", "wb").write(bytes(10_000_000))
            time.sleep(1000)

        with load(executor(init_blocks=2, max_blocks=2)) as dfk:
            dfk.executors["tv"].wait_for_nodes(2, 60)
            futures = [stray() for _ in range(4)]
            say("running")
            say("error", type(futures[0].exception()).__name__)
    """)
    program.wait_for("running")
    time.sleep(1.0)
    pids = {"user": [program.pid], "manager": [program.manager().pid]}
    for pid in pids.get(who, pids["user"] + pids["manager"]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if who == "manager":
        assert program.wait_for("error") == "ManagerLost"
        program.end()
    if who == "both":  # only the user's next run can clean up on the login machine
        program.process.wait(30)
        run("with load(executor()): say('result', where().result())").end()


@pytest.mark.timeout(150 * KILLS)
@pytest.mark.parametrize("who", ["worker", "manager", "user"])
def test_kills_at_random_moments_leave_nothing(cluster: Cluster, run: Run, figure: Figure, who: str) -> None:
    """At whatever moment, jobs, processes and scratch disappear; after a worker's death the results are right."""
    gone = []
    for number in range(KILLS):
        program = run("""
            with load(executor(init_blocks=2, max_blocks=2, max_retries=5)):
                futures = [where(n, 0.1 * (n % 7)) for n in range(60)]
                say("results", [f.result()[2] for f in futures if f.exception() is None])
        """)
        program.wait_for("loaded")
        moment = random.Random(f"{SEED}-{who}-{number}").uniform(0.0, 6.0)
        time.sleep(moment)
        victims = [each.pid for each in cluster.processes() if who == "worker" and _is_a_worker(each)]
        with contextlib.suppress(psutil.Error, IndexError, AssertionError):  # it has ended, or no task has begun
            victims = [program.pid] if who == "user" else victims
            victims = [program.manager().pid] if who == "manager" else victims
        for pid in random.Random(moment).sample(victims, min(1, len(victims))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        program.process.wait(90)
        if who == "worker":
            assert program.said("results")[0][0] == list(range(60)), f"killed after {moment:.2f} s\n{program.text}"
        begun = time.monotonic()
        # A job that was pending when its user's process was killed starts, notices that, and ends.
        left = settle(lambda: cluster.queue() or cluster.processes(), CLEAN_SECONDS)
        assert not left, f"{who} killed after {moment:.2f} s: {left}"
        gone.append(time.monotonic() - begun)
    figure(f"{who} killed {KILLS} times: seconds until nothing was left, at most", f"{max(gone):.1f}")


def test_killed_processes_of_a_node_leave_nothing(cluster: Cluster, run: Run) -> None:
    """All are killed at once, so none can clean up: the next node on that machine does."""
    program = run("""
        with load(executor(init_blocks=1, max_blocks=1, max_retries=3, scheduler_options="#SBATCH --nodelist=n1")):
            say("first", where().result())
            while not os.path.exists("go on"):
                time.sleep(0.1)
            say("second", where().result())
    """)
    program.wait_for("first")
    processes = [each for each in cluster.processes() if _is_in_a_job(each)]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()
    eventually(cluster.scratch)
    (program.directory / "go on").touch()
    program.end()
    assert program.said("second")[0][0][1] != program.said("first")[0][0][1]
    assert "left by processes that were killed" in program.outputs()


def _is_a_worker(process: psutil.Process) -> bool:
    """Whether the process is vine_worker or its launcher; killing a task's process ends only the task."""
    try:
        return process.name() == "vine_worker" or "worker" in process.cmdline()
    except psutil.Error:
        return False


def _is_in_a_job(process: psutil.Process) -> bool:
    try:
        return "SLURM_JOB_ID" in process.environ()
    except psutil.Error:
        return False
