"""Runs as users make them, on a real Slurm."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from tests.cluster_programs import Program, queries
from tests.conftest import eventually
from tests.pages import blocks, write_files
from tests.slurm.cluster import ROOT, Cluster

Run = Callable[..., Program]
Figure = Callable[[str, str], None]
LOAD = "import parsl\nfrom parsl.config import Config\nparsl.load(Config(executors=[slurm]))\n"
pytestmark = pytest.mark.timeout(300)


def test_hello(cluster: Cluster, run: Run, figure: Figure) -> None:
    """Each node has 100 MB of scratch when the run ends."""
    program = run("""
        from parsl.data_provider.files import File

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
    ((host, job, _), when) = program.said("result")[0]
    assert host in cluster.names
    assert job is not None
    assert "taskvine-worker: removed" not in program.outputs()
    figure("hello: seconds from loading to the first result", f"{when - program.said('loading')[0][1]:.1f}")
    figure("hello: seconds to a clean exit", f"{program.said('left')[0][1] - program.said('leaving')[0][1]:.1f}")
    figure("hello: questions to the batch system in the run", str(len(queries(program))))


def test_200_apps(cluster: Cluster, run: Run, figure: Figure) -> None:
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


def test_dag_runs_on_two_nodes(run: Run) -> None:
    """A tree of arrays: a node copies missing inputs from the other node, not from the user's process."""
    program = run("""
        @parsl.python_app
        def leaf(n):
            import numpy as np
            return np.full(200_000, n)

        @parsl.python_app
        def add(left, right):
            return left + right

        with load(executor(init_blocks=2, max_blocks=2), dependency_resolver=DAG_RESOLVER) as dfk:
            assert dfk.executors["tv"].wait_for_nodes(2, 60)
            level = [leaf(n) for n in range(32)]
            while len(level) > 1:
                level = [add(*pair) for pair in zip(level[::2], level[1::2])]
            total = level[0].result()
            say("total", [int(total.min()), int(total.max()), len(total)])
            say("nodes", sorted(node["name"] for node in dfk.executors["tv"].nodes))
    """)
    program.end()
    assert program.said("total")[0][0] == [496, 496, 200_000]
    assert len(program.said("nodes")[0][0]) == 2


def test_documented_configuration_runs(cluster: Cluster, run: Run) -> None:
    """The page's configuration as printed; only what is missing to use it is added."""
    text = (ROOT / "docs" / "how-to" / "slurm.md").read_text()
    (snippet,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "SlurmProvider" in block)
    program = run(
        snippet
        + ("" if "parsl.load(" in snippet else LOAD)
        + """
@parsl.python_app
def where():
    import os, socket
    return socket.gethostname(), os.environ["SLURM_JOB_ID"]

assert slurm.wait_for_nodes(2, 60)
say("result", where().result())
say("nodes", slurm.nodes)
parsl.dfk().cleanup()
""",
        header="def say(what, value=None):\n    import json, time\n"
        '    print("SAID", json.dumps([what, value, time.time()]), flush=True)\n\n',
    )
    program.end()
    assert program.said("result")[0][0][0] in cluster.names
    assert len(program.said("nodes")[0][0]) == 2


def test_tutorial_program_runs(run: Run) -> None:
    """The page's program as printed, with the name of the configuration for Slurm as its argument."""
    page = ROOT / "docs" / "tutorial" / "cluster.md"
    *_, walks = blocks(page)
    before = run("print('here')", header="")
    before.end()
    write_files(page, walks.line + 1, before.directory)
    program = run(
        f'''
        import runpy, sys
        sys.argv = ["{walks.title}", "slurm"]
        runpy.run_path("{walks.title}", run_name="__main__")
        ''',
        header="",
    )
    assert program.end() == walks.output


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


def test_factory_submits_workers(cluster: Cluster, run: Run) -> None:
    """TaskVine's factory submits workers as tasks need them."""
    program = run("""
        factory = dict(worker_launch_method="factory", batch_type="slurm", batch_options="--partition=compute")
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
    assert {host for host, _, _ in results} <= set(cluster.names)


@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_run_without_blocks_at_the_start(run: Run, strategy: str) -> None:
    program = run(f"""
        with load(executor(init_blocks=0, max_blocks=1), strategy={strategy!r}):
            say("result", where().result())
    """)
    program.end()
    assert program.said("result")


def test_ctrl_c_cancels_a_pending_job(cluster: Cluster, run: Run, figure: Figure) -> None:
    """Nothing runs, and the user gives up: the log names the reason of the wait, and the job is cancelled."""
    hold = cluster.ask("sbatch", "--parsable", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    try:
        eventually(lambda: hold in cluster.jobs("R"))
        program = run("""
            import logging
            logging.getLogger("taskvine_exec").addHandler(logging.StreamHandler())
            logging.getLogger("taskvine_exec").setLevel(logging.INFO)
            try:
                with load(executor(init_blocks=1, max_blocks=1)):
                    where().result()
            except KeyboardInterrupt:
                say("interrupted")
        """)
        program.wait_for("loaded")
        eventually(lambda: "no node yet after" in program.text)
        assert re.search(r"block 0 \(job \d+\).*PENDING, reason (Resources|Priority)", program.text)
        eventually(lambda: program.age() > 45, 60)
        os.kill(program.pid, signal.SIGINT)
        program.end(30)
        assert program.said("interrupted")
        minutes = (program.said("interrupted")[0][1] - program.said("loaded")[0][1]) / 60
        figure("a pending job: questions a minute in its first 45 s", f"{(len(queries(program)) - 1) / minutes:.1f}")
        assert len(queries(program)) <= 4  # the provider makes one at its construction
        assert cluster.jobs() == [hold]
    finally:
        cluster.ask("scancel", hold)
        eventually(lambda: not cluster.queue())
