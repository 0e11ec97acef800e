"""Runs on a real Grid Engine, as users make them, and faults of users and machines."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from tests.cluster_programs import Program, queries
from tests.conftest import eventually
from tests.gridengine.cluster import Cluster

Run = Callable[..., Program]
Figure = Callable[[str, str], None]
pytestmark = pytest.mark.timeout(300)


def test_hello(run: Run, figure: Figure) -> None:
    """Each node has 100 MB of scratch when the run ends."""
    program = run("""
        import logging
        from parsl.data_provider.files import File

        logging.getLogger("taskvine_exec").addHandler(logging.StreamHandler())

        @parsl.python_app
        def big(outputs=()):
            with open(outputs[0].filepath, "wb") as file:
                file.write(bytes(100_000_000))

        with load(executor(init_blocks=2, max_blocks=2)) as dfk:
            say("result", where().result())
            assert dfk.executors["tv"].wait_for_nodes(2, 60)
            for future in [big(outputs=[File(f"taskvinetemp:///big{n}")]) for n in range(4)]:
                future.result()
            say("leaving")
        say("left")
    """)
    program.end()
    ((_, job, _), when) = program.said("result")[0]
    assert job is not None
    assert "taskvine-worker: removed" not in program.outputs()
    assert "could not be cancelled" not in program.text
    assert "has not reported that it cleaned up" not in program.text
    leaving = program.said("left")[0][1] - program.said("leaving")[0][1]
    assert leaving < 10
    figure("hello: seconds from loading to the first result", f"{when - program.said('loading')[0][1]:.1f}")
    figure("hello: seconds to a clean exit", f"{leaving:.1f}")
    figure("hello: questions to the batch system in the run", str(len(queries(program))))


def test_200_apps(run: Run, figure: Figure) -> None:
    program = run("""
        with load(executor(init_blocks=2, max_blocks=2)) as dfk:
            assert dfk.executors["tv"].wait_for_nodes(2, 60)
            say("begun")
            say("results", [f.result() for f in [where(n, 0.02) for n in range(200)]])
    """)
    program.end()
    results, when = program.said("results")[0]
    assert [number for _, _, number in results] == list(range(200))
    assert len({job for _, job, _ in results}) == 2
    figure("200 apps of 20 ms on 2 nodes: seconds", f"{when - program.said('begun')[0][1]:.1f}")


def test_blocks_scale_out_and_in(cluster: Cluster, run: Run) -> None:
    program = run("""
        with load(executor(init_blocks=0, max_blocks=3), strategy="simple", max_idletime=2, strategy_period=1) as dfk:
            results = [f.result() for f in [where(n, 4) for n in range(6)]]
            say("jobs", sorted({job for _, job, _ in results}))
            while not os.path.exists("go on"):
                time.sleep(0.1)
            say("again", where().result())
    """)
    program.wait_for("jobs", 120)
    eventually(lambda: not cluster.queue(), 60)  # the strategy has cancelled all blocks
    (program.directory / "go on").touch()
    program.end()
    assert len(program.said("jobs")[0][0]) == 3
    assert program.said("again")[0][0][1] not in program.said("jobs")[0][0]


LONG = """
with load(executor(init_blocks={blocks}, max_blocks={blocks}, max_retries=3)) as dfk:
    dfk.executors["tv"].wait_for_nodes({blocks}, 60)
    say("joined")
    futures = [where(n, 2.0) for n in range(10)]
    say("results", [future.result() for future in futures])
"""


@pytest.mark.parametrize("blocks", [1, 2])
def test_deleted_block_is_replaced(cluster: Cluster, run: Run, figure: Figure, blocks: int) -> None:
    """Grid Engine kills the whole job at once. If it was the only block, another one replaces it."""
    program = run(LONG.format(blocks=blocks))
    program.wait_for("joined")
    deleted = eventually(lambda: cluster.jobs("r"))[0]  # a node may join before Grid Engine says that its job runs
    begun = time.time()
    cluster.cancel(deleted)
    if blocks == 1:
        eventually(lambda: set(cluster.jobs()) - {deleted}, 90)
        figure("qdel of the only block: seconds until another is submitted", f"{time.time() - begun:.1f}")
    program.end(240)
    results = program.said("results")[0][0]
    assert [number for _, _, number in results] == list(range(10))
    assert {job for _, job, _ in results} - {deleted}


def test_factory_submits_workers(run: Run) -> None:
    """TaskVine's factory submits workers as tasks need them."""
    program = run("""
        factory = dict(worker_launch_method="factory", batch_type="sge", batch_options="-q main.q")
        made = TaskVineExecutor(
            engine="taskvine", label="tv", address="login1.example.org", project_password_file="~/.vine-password",
            cores=2, memory=1000, max_workers=2, workers_per_cycle=2, **factory
        )
        with load(made):
            say("results", [f.result() for f in [where(n, 0.2) for n in range(40)]])
    """)
    program.end(120)
    results = program.said("results")[0][0]
    assert sorted(n for _, _, n in results) == list(range(40))
    assert all(job is not None for _, job, _ in results)


def test_ctrl_c_deletes_a_pending_job(cluster: Cluster, run: Run, figure: Figure) -> None:
    """Nothing runs, and the user gives up: the log names the reason of the wait, and the job is deleted."""
    program = run("""
        import logging
        logging.getLogger("taskvine_exec").addHandler(logging.StreamHandler())
        logging.getLogger("taskvine_exec").setLevel(logging.INFO)
        try:
            with load(executor(init_blocks=1, max_blocks=1, scheduler_options="#$ -h")):
                where().result()
        except KeyboardInterrupt:
            say("interrupted")
    """)
    program.wait_for("loaded")
    eventually(lambda: "no node yet after" in program.text, 30)
    assert re.search(r"block 0 \(job \d+\)", program.text)
    assert cluster.jobs("hqw")
    os.kill(program.pid, signal.SIGINT)
    program.end(30)
    assert program.said("interrupted")
    assert len(queries(program)) <= 2
    assert not cluster.jobs()


def test_job_in_error_state_is_reported(cluster: Cluster, run: Run, figure: Figure) -> None:
    """Grid Engine keeps the job in the queue for an administrator."""
    program = run("""
        with load(executor(init_blocks=1, max_blocks=1, scheduler_options="#$ -wd /nonexistent")):
            say("error", str(where().exception()))
    """)
    program.end()
    error, when = program.said("error")[0]
    assert re.search(r"Grid Engine has it in error or suspended: qstat -j says why \(job \d+", error)
    figure("a job in error: seconds from loading to the error", f"{when - program.said('loading')[0][1]:.1f}")
