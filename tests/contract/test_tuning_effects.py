"""The effect of each tuning parameter on the embedded engine.

Effects that depend only on the scheduler are shown on a scheduler, the others on running executors.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from parsl.data_provider.files import File
from parsl.providers import LocalProvider

from taskvine_exec import TaskVineExecutor
from taskvine_exec.errors import NodeLost, TaskLost
from taskvine_exec.insight.fold import read_state
from taskvine_manager.embedded.losses import Losses
from taskvine_manager.parameters import honoured
from taskvine_manager.record import entries
from taskvine_manager.scheduling.events import Drop, FileCached, Tuned
from taskvine_manager.scheduling.tuning import Tuning
from tests.conftest import eventually, first_node
from tests.contract.conftest import cached, embedded_only
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    again,
    copies,
    fetches,
    local,
    only,
    ran,
    runs,
    storage,
    value,
)

Make = Callable[..., TaskVineExecutor]

SHOWN: set[str] = set()


def shows(*names: str) -> Callable[[Any], Any]:
    """Note the parameters whose effect a test shows."""
    SHOWN.update(names)
    return lambda test: test


def test_every_supported_parameter_has_a_test() -> None:
    assert honoured("embedded") == SHOWN


# --- what the scheduler decides ---------------------------------------------------------------------------------------


def spread(count: int, **parameters: float) -> World:
    """Make nodes of one core each, with tuning parameters."""
    world = World()
    world.handle(Tuned({name.replace("_", "-"): number for name, number in parameters.items()}))
    for number in range(count):
        world.join(f"n{number}", cores=1)
    return world


@shows("temp-replica-count")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_temp_replica_count_is_the_number_of_replicas(count: int) -> None:
    world = spread(4, temp_replica_count=count)
    world.make("file")
    world.arrive()
    assert len(world.core.stats()["replicas"]["file"]) == count


@shows("transfer-replica-per-cycle")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_max_simultaneous_replications_are_started(count: int) -> None:
    world = spread(8, temp_replica_count=6, transfer_replica_per_cycle=count)
    world.call(makes=["file"])
    assert len(fetches(world.works(0))) == count


@shows("transfer-temps-recovery")
@pytest.mark.parametrize("recovery", [0, 1])
def test_lost_replicas_are_replaced(recovery: int) -> None:
    world = spread(3, temp_replica_count=2, transfer_temps_recovery=recovery)
    world.make("file")
    world.arrive()
    world.leave(world.core.stats()["replicas"]["file"][0])
    world.arrive()
    assert len(world.core.stats()["replicas"]["file"]) == 1 + recovery


@shows("clean-redundant-replicas")
@pytest.mark.parametrize("clean", [0, 1])
def test_replicas_above_the_count_are_removed(clean: int) -> None:
    world = spread(3, temp_replica_count=3, clean_redundant_replicas=clean)
    world.make("file")
    world.arrive()
    world.tune(temp_replica_count=1)
    assert len(world.core.stats()["replicas"]["file"]) == (1 if clean else 3)


@shows("shift-disk-load")
@pytest.mark.parametrize("shift", [0, 1])
def test_files_move_from_full_to_empty_nodes(shift: int) -> None:
    world = spread(1, shift_disk_load=shift)
    for number in range(4):
        world.make(f"file{number}")
    world.join("empty", cores=0.5)  # calls of a core do not fit
    for number in range(4, 9):
        world.make(f"file{number}", cores=1.0)
        for file in list(world.core.nodes["empty"].fetching):
            world.handle(FileCached("empty", file, 100, None, 1))
    used = {name: node.used for name, node in world.core.nodes.items()}
    # The loads even out, and then nothing moves: another move would only make the other node the fuller one.
    assert used == ({"n0": 500, "empty": 400} if shift else {"n0": 900, "empty": 0})
    assert all(len(nodes) == 1 for nodes in world.core.stats()["replicas"].values())


@shows("immediate-recovery")
@pytest.mark.parametrize("immediate", [0, 1])
def test_lost_files_are_recreated_immediately(immediate: int) -> None:
    world = spread(2, immediate_recovery=immediate)
    told = world.leave(world.make("file"))
    assert len(again(told)) == immediate


@shows("worker-source-max-transfers")
@pytest.mark.parametrize("limit", [1, 3])
def test_transfers_from_a_node_are_limited(limit: int) -> None:
    world = spread(6, temp_replica_count=6, worker_source_max_transfers=limit)
    world.call(makes=["file"])
    assert len(fetches(world.works(0))) == limit


@shows("file-source-max-transfers")
@pytest.mark.parametrize("limit", [1, 3])
def test_readers_of_a_users_file_are_limited(limit: int) -> None:
    world = spread(5, file_source_max_transfers=limit)
    told = world.call(count=5, inputs=(local("/x"),))
    assert list(copies(told).values()) == [None] * limit


def where_data_is_busy(**parameters: float) -> World:
    """Make two nodes: one holds 100 MB and is busy for half a second, the other is idle."""
    world = World()
    world.handle(Tuned({name.replace("_", "-", 1): number for name, number in parameters.items()}))
    world.join("has", cores=1)
    world.invocation(category="other")
    world.submit(world.invocation(makes=["file"]))
    world.done(0 if 0 in world.nodes else 1, made=[("file", 100_000_000)], seconds=1.0)
    world.call()
    world.join("idle", cores=1)
    return world


def goes_to(world: World) -> str | None:
    """Return the node to which a call that reads the file is sent at once, if it is sent."""
    return next(iter(runs(world.call(needs=["file"]))), None)


@shows("default-transfer-rate")
def test_call_waits_if_the_copy_is_slow() -> None:
    assert goes_to(where_data_is_busy()) == "idle"
    assert goes_to(where_data_is_busy(**{"default_transfer-rate": 1e9})) == "idle"
    assert goes_to(where_data_is_busy(**{"default_transfer-rate": 1e6})) is None


@shows("executor.weight-transfer", "executor.weight-wait")
def test_weight_decides_between_a_copy_and_a_busy_node() -> None:
    # A copy takes a tenth of a second; waiting takes half a second.
    assert goes_to(where_data_is_busy(**{"executor.weight-transfer": 4.0})) == "idle"
    assert goes_to(where_data_is_busy(**{"executor.weight-transfer": 6.0})) is None
    assert goes_to(where_data_is_busy(**{"executor.weight-wait": 0.3})) == "idle"
    assert goes_to(where_data_is_busy(**{"executor.weight-wait": 0.1})) is None


def test_without_weight_places_of_inputs_do_not_count() -> None:
    for weight, expected in ((1.0, "has"), (0.0, "roomy")):
        world = World()
        world.handle(Tuned({"executor.weight-transfer": weight}))
        world.join("has", cores=2)
        world.make("file")
        world.join("roomy", cores=8)
        assert goes_to(world) == expected


@shows("resource-submit-multiplier")
@pytest.mark.parametrize(("multiplier", "given"), [(1.0, 2), (1.5, 3), (2.0, 4)])
@pytest.mark.parametrize("reads", [False, True])
def test_nodes_get_more_tasks_than_they_run_at_once(multiplier: float, given: int, reads: bool) -> None:
    world = World()
    world.tune(resource_submit_multiplier=multiplier)
    world.join("a", cores=2)
    world.make("file")
    assert len(ran(world.call(count=10, needs=["file"] if reads else []))) == given


def fitting(parameters: dict[str, float], **asked: Any) -> int:
    """Return how many of ten such calls run at once on a node of 10 cores, 1000 MB of memory and of disk."""
    world = World()
    world.handle(Tuned(parameters))
    world.join("a", cores=10, memory=1000.0, disk=1000.0)
    return len(ran(world.call(count=20, **asked)))


@shows("proportional-resources")
def test_request_for_one_resource_gets_a_share_of_the_others() -> None:
    share: dict[str, float] = {"proportional-resources": 1, "proportional-whole-tasks": 0}
    # 450 MB each: two fit in memory. Their share of the cores leaves one core to others.
    for parameters, free in (({}, 8), (share, 1)):
        world = World()
        world.handle(Tuned(parameters))
        world.join("a", cores=10, memory=1000.0)
        assert len(ran(world.call(count=5, memory=450.0))) == 2
        assert len(ran(world.call(count=10, priority=1.0))) == free
    # A request that is given stays as it is.
    assert fitting({}, memory=400.0, cores=1.0) == fitting(share, memory=400.0, cores=1.0) == 2
    assert fitting(share) == 10
    assert fitting(share, memory=2000.0) == 0


@shows("proportional-whole-tasks")
def test_whole_number_of_shares_fills_a_node() -> None:
    whole: dict[str, float] = {"proportional-whole-tasks": 1}
    for parameters, free in (({"proportional-resources": 1, "proportional-whole-tasks": 0}, 1), (whole, 0)):
        world = World()
        world.handle(Tuned(parameters))
        world.join("a", cores=10, memory=1000.0)
        assert len(ran(world.call(count=5, memory=450.0))) == 2
        assert len(ran(world.call(count=10, priority=1.0))) == free
    # Setting one of them sets the other, as in TaskVine; both can be reset.
    for parameters in ({"proportional-resources": 1}, whole):
        tuning = Tuning()
        tuning.tune(parameters)
        assert tuning.proportional_resources == tuning.proportional_whole_tasks == 1
        tuning.tune({"proportional-resources": 0})
        assert tuning == Tuning()


@shows("executor.prefetch")
@pytest.mark.parametrize(("prefetch", "given"), [(0.0, 1), (0.004, 4), (0.016, 16)])
def test_short_calls_are_sent_ahead(prefetch: float, given: int) -> None:
    world = spread(1)
    world.handle(Tuned({"executor.prefetch": prefetch}))
    world.call()
    world.done(0, seconds=0.001)
    assert len(ran(world.call(count=100))) == given


def test_without_prefetch_calls_are_not_sent_behind_producers() -> None:
    for prefetch, follow in ((0.02, True), (0.0, False)):
        world = spread(1)
        world.handle(Tuned({"executor.prefetch": prefetch}))
        world.call()
        world.done(0, seconds=0.001)
        chain = [
            world.invocation(outputs=(value("v0"),)),
            world.invocation(inputs=(value("v0"),), outputs=(value("v1"),)),
        ]
        assert (len(ran(world.submit(*chain))) == 2) is follow


@shows("wait-for-workers")
def test_tasks_wait_for_a_number_of_nodes() -> None:
    world = spread(0, wait_for_workers=2)
    world.call(count=2)
    assert not ran(world.join("a", cores=1))
    assert ran(world.join("b", cores=1)) == [0, 1]
    # Once a task has begun, no number of nodes is waited for again.
    world.tune(wait_for_workers=5)
    world.done(0)
    assert ran(world.call()) == [2]


def test_tuning_takes_effect_at_once() -> None:
    world = spread(1)
    world.call(count=10)
    assert len(ran(world.tune(resource_submit_multiplier=3))) == 2
    world = spread(3)
    world.make("file")
    assert len(fetches(world.tune(temp_replica_count=3))) == 2


# --- moving files from full nodes, in detail --------------------------------------------------------------------------


def full(**node: Any) -> World:
    """Make a node with two files, and an empty node that takes no calls of a core."""
    world = spread(1, shift_disk_load=1)
    world.make("first", 1000)
    world.join("empty", cores=0.5, **node)
    return world


def test_file_stays_while_it_is_read() -> None:
    world = full()
    assert world.make("file", cores=1.0) == "n0"
    world.call(needs=["file"], cores=1.0)
    assert not only(Drop, world.cached("empty", "file"))
    assert only(Drop, world.works(2)) == [Drop("n0", ["file"])]
    assert world.core.stats()["replicas"]["file"] == ["empty"]


def test_file_that_could_not_be_moved_stays() -> None:
    world = full()
    world.make("file", cores=1.0)
    world.cached("empty", "file", "no room")
    assert world.core.stats()["replicas"]["file"] == ["n0"]
    world.make("other", cores=1.0)
    world.leave("empty")
    assert world.core.stats()["replicas"]["other"] == ["n0"]
    assert not storage(world.core).replication.moves


def test_file_forgotten_during_its_move_is_removed() -> None:
    world = full()
    world.make("file", cores=1.0)
    world.forget("file")
    world.cached("empty", "file")
    world.forget("first")
    assert world.is_clean()
    assert not storage(world.core).replication.moves


def test_no_file_is_moved_to_a_full_node_or_beside_replication() -> None:
    world = full(disk=1e-6)
    world.submit(world.invocation(makes=["file"], cores=1.0))
    assert not fetches(world.works(1))
    world = full()
    world.replicate(2)
    world.arrive()
    world.submit(world.invocation(makes=["file"], cores=1.0))
    assert fetches(world.works(1)) == [("empty", "file", "n0")]
    world.arrive()
    assert len(world.core.stats()["replicas"]["file"]) == 2


# --- losses -----------------------------------------------------------------------------------------------------------


def moments(seconds: float, nodes: list[str], **parameters: float) -> list[tuple[float, str]]:
    """Return the losses within some seconds of work, with a look every millisecond."""
    losses = Losses()
    losses.tune({f"executor.loss-{name}": number for name, number in parameters.items()})
    found = ((at / 1000, losses.strike(at / 1000, nodes, busy=True)) for at in range(int(seconds * 1000)))
    return [(at, name) for at, name in found if name is not None]


@shows("executor.loss-seed")
def test_losses_follow_from_the_seed() -> None:
    nodes = ["a", "b", "c"]
    first = moments(100, nodes, interval=0.5, seed=1)
    assert first == moments(100, nodes, interval=0.5, seed=1) != moments(100, nodes, interval=0.5, seed=2)
    # 200 are expected, within four standard deviations; each node gets its share.
    assert 144 <= len(first) <= 256
    assert min(Counter(name for _, name in first).values()) > 40
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(first)]
    assert max(gaps) > 3 * sum(gaps) / len(gaps) > 1.2  # at irregular times
    assert moments(100, nodes, interval=0, seed=1) == []
    assert moments(10, [], interval=0.5, seed=1) == []


def test_only_time_with_work_counts() -> None:
    losses = Losses()
    losses.tune({"executor.loss-interval": 1.0})
    assert losses.wait is None
    assert losses.strike(0.0, ["a"], busy=True) is None
    wait = losses.wait
    assert wait is not None
    assert losses.strike(wait / 2, ["a"], busy=False) is None
    assert losses.wait is None
    assert losses.strike(1000.0, ["a"], busy=True) is None
    assert losses.wait == pytest.approx(wait / 2)
    assert losses.strike(1000.0 + wait / 2 + 1e-9, ["a"], busy=True) == "a"


def test_only_tuned_losses_start_again() -> None:
    losses = Losses()
    losses.tune({"enforce-worker-eviction-interval": 3})
    losses.strike(0.0, ["a"], busy=True)
    losses.strike(0.001, ["a"], busy=True)
    wait = losses.wait
    losses.tune({"temp-replica-count": 2, "executor.loss-interval": 0, "enforce-worker-eviction-interval": 3})
    assert losses.wait == wait
    losses.tune({"enforce-worker-eviction-interval": 0})
    losses.strike(0.002, ["a"], busy=True)
    assert losses.wait is None


@shows("executor.loss-interval", "enforce-worker-eviction-interval")
@embedded_only
@pytest.mark.parametrize("name", ["executor.loss-interval", "enforce-worker-eviction-interval"])
def test_nodes_are_killed_while_there_is_work(make_executor: Make, name: str, tmp_path: Path) -> None:
    executor = make_executor(worker_launch_method="factory", min_workers=2, max_workers=2, cores=1, max_retries=None)
    assert executor.wait_for_nodes(2, 30)
    first = {node["pid"] for node in executor.nodes}
    executor.tune({name: 1} if name.startswith("enforce") else {name: 0.2, "executor.loss-seed": 7})
    enough = tmp_path / "enough"

    def work(path: str) -> None:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.005)

    futures = [executor.submit(work, {}, str(enough)) for _ in range(2)]
    eventually(lambda: executor.stats()["nodes_killed"] >= 2)
    executor.tune({name: 0})
    enough.touch()
    assert [future.result(30) for future in futures] == [None, None]
    stats = executor.stats()
    assert stats["tasks_retried"] >= 1
    assert stats["nodes_killed"] >= 2
    assert first != {node["pid"] for node in executor.nodes}


@embedded_only
def test_an_idle_executor_loses_no_nodes(make_executor: Make) -> None:
    executor = make_executor(tune_parameters={"executor.loss-interval": 0.01}, max_retries=None)
    assert executor.wait_for_nodes(1, 30)
    (node,) = executor.nodes
    for _ in range(200):  # each wakes the manager, which takes a tenth of a second or more altogether
        assert executor.stats()["nodes_killed"] == 0
    assert executor.nodes == [node]


@shows("keepalive-interval", "keepalive-timeout")
@embedded_only
@pytest.mark.parametrize(("interval", "timeout"), [(1, 1), (1, 3), (3, 1)])
def test_silent_node_is_given_up(make_executor: Make, interval: int, timeout: int) -> None:
    """With an interval of 0 no node is given up: test_frozen.py."""
    executor = make_executor(
        tune_parameters={"keepalive-interval": interval, "keepalive-timeout": timeout},
        provider=LocalProvider(init_blocks=1, max_blocks=1),
        max_retries=0,
    )
    begun = time.monotonic()
    future = executor.submit(time.sleep, {}, 1000)
    eventually(lambda: executor.nodes)
    os.kill(first_node(executor)["pid"], signal.SIGSTOP)
    with pytest.raises(NodeLost, match=f"not answered for {timeout} s"):
        future.result(30)
    assert time.monotonic() - begun >= interval + timeout - 0.1


# --- what nodes do ----------------------------------------------------------------------------------------------------


def nothing() -> None:
    pass


def handed_out_together(executor: TaskVineExecutor) -> int:
    """Return the largest number of calls that a slot got at once: they have the same time of dispatch."""
    for future in [executor.submit(nothing, {}) for _ in range(300)]:
        future.result(30)
    invocations = [facts for _, facts in executor.graph().nodes.items() if facts["kind"] == "task"]
    return max(Counter(facts["dispatched"] for facts in invocations).values())


@shows("executor.batch")
@embedded_only
def test_slots_get_short_calls_in_batches(make_executor: Make) -> None:
    executor = make_executor(cores=1)
    assert handed_out_together(executor) > 1
    executor.tune({"executor.batch": 1})
    others = make_executor(cores=1, tune_parameters={"executor.batch": 1})
    assert handed_out_together(others) == 1
    others.tune({"executor.batch": 5})
    assert 1 < handed_out_together(others) <= 5


@shows("executor.awake")
def test_manager_polls_for_a_time_after_a_message(make_executor: Make) -> None:
    def sleeps() -> list[bool]:
        """Whether the manager sleeps, at some moments after a call. Waiting for a processor is not sleep."""
        executor.submit(nothing, {}).result(30)
        seen = []
        for _ in range(5):
            seen.append(process.status() == psutil.STATUS_SLEEPING)
            time.sleep(0.005)
        return seen

    executor = make_executor()
    process = psutil.Process(executor.run.manager.pid)
    executor.tune({"executor.awake": 0.1})
    eventually(lambda: not any(sleeps()))
    executor.tune({"executor.awake": 0})
    eventually(lambda: sleeps()[0])


@shows("executor.record-details")
def test_details_of_the_record_can_be_switched_off(make_executor: Make) -> None:
    def tags(**settings: Any) -> set[str]:
        executor = make_executor(**settings)
        record = executor.run.places.record
        assert executor.submit(nothing, {}).result(30) is None
        executor.shutdown()
        assert read_state(record).tasks[0].outcome == "returned"
        return {tag for tag, *_ in entries(record)}

    assert "events" in tags()
    assert "events" not in tags(tune_parameters={"executor.record-details": 0})


@shows("executor.inline-limit")
@embedded_only
@pytest.mark.parametrize(("limit", "file"), [(100, True), (10_000, False)])
def test_values_above_the_limit_are_files_on_nodes(
    make_executor: Make, monkeypatch: pytest.MonkeyPatch, limit: int, file: bool
) -> None:
    from taskvine_exec.results import completions

    kinds: list[type] = []
    settle = completions.settle

    def spy(future: Any, completion: Any, *rest: Any) -> None:
        kinds.append(type(completion.body))
        settle(future, completion, *rest)

    monkeypatch.setattr(completions, "settle", spy)
    executor = make_executor(tune_parameters={"executor.inline-limit": limit})
    assert executor.submit(bytes, {}, 5000).result(30) == bytes(5000)
    assert kinds == [str if file else bytes]


@shows("executor.library-slots")
@embedded_only
@pytest.mark.parametrize("slots", [1, 3])
def test_slots_limit_concurrent_calls(make_executor: Make, gate: Any, slots: int) -> None:
    executor = make_executor(cores=2, tune_parameters={"executor.library-slots": slots})
    for number in range(4):
        executor.submit(gate.task, {}, number)
    assert len(gate.wait(slots)) == slots
    assert executor.stats()["tasks_done"] == 0
    gate.open()
    eventually(lambda: executor.stats()["tasks_done"] == 4)
    assert len(gate.begun()) == 4


@shows("max-library-retries")
@embedded_only
@pytest.mark.parametrize("retries", [1, 5])
def test_restarts_of_a_library_are_limited(make_executor: Make, tmp_path: Path, retries: int) -> None:
    starts = tmp_path / "starts"
    executor = make_executor(
        init_command=f"echo >> {starts}; kill -9 $$", tune_parameters={"max-library-retries": retries}
    )
    with pytest.raises(TaskLost, match="SIGKILL"):
        executor.submit(nothing, {}).result(60)
    assert len(starts.read_text()) == 1 + retries


@shows("max-task-stdout-storage")
@embedded_only
@pytest.mark.parametrize("limit", [None, 100])
def test_output_of_tasks_is_cut(make_executor: Make, run_dir: str, limit: int | None) -> None:
    tune = {} if limit is None else {"max-task-stdout-storage": limit}
    executor = make_executor(function_exec_mode="L1", tune_parameters=tune)
    executor.submit(print, {}, "x" * 5000).result(30)
    (log,) = Path(run_dir).glob("*/node-*/tasks.log")
    said = log.read_text()
    assert said.count("x") == (limit or 5000)
    assert ("cut after 100 bytes" in said) is (limit is not None)


# --- how many nodes ---------------------------------------------------------------------------------------------------


def waits_outside(executor: TaskVineExecutor) -> bool:
    """Whether the manager logs that it has not admitted a node."""
    log = Path(executor.run.places.log, "manager.log")
    return log.exists() and "1 nodes wait" in log.read_text()


@shows("max-workers")
@embedded_only
def test_surplus_node_waits_until_another_has_left(make_executor: Make) -> None:
    executor = make_executor(
        provider=LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2), tune_parameters={"max-workers": 1}
    )
    assert executor.wait_for_nodes(1, 30)
    eventually(lambda: waits_outside(executor))
    (first,) = executor.nodes
    assert executor.stats()["nodes"] == 1
    os.kill(first["pid"], signal.SIGKILL)
    eventually(lambda: [node for node in executor.nodes if node["name"] != first["name"]])
    assert executor.submit(nothing, {}).result(30) is None
    executor.tune({"max-workers": -1})
    assert executor.submit(nothing, {}).result(30) is None


@embedded_only
def test_higher_limit_admits_waiting_nodes(make_executor: Make) -> None:
    executor = make_executor(
        provider=LocalProvider(init_blocks=2, min_blocks=2, max_blocks=2), tune_parameters={"max-workers": 1}
    )
    eventually(lambda: waits_outside(executor))
    executor.tune({"max-workers": 2})
    assert executor.wait_for_nodes(2, 30)


@embedded_only
def test_factory_respects_max_workers(make_executor: Make) -> None:
    executor = make_executor(
        worker_launch_method="factory", min_workers=2, max_workers=2, cores=1, tune_parameters={"max-workers": 1}
    )
    for future in [executor.submit(nothing, {}) for _ in range(50)]:
        future.result(30)
    assert [node["name"] for node in executor.nodes] == os.listdir(os.path.join(executor.run.places.base, "nodes"))
    assert len(executor.nodes) == 1


# --- together, and seen from outside ----------------------------------------------------------------------------------


def write(outputs: Any = ()) -> None:
    with open(outputs[0].filepath, "w") as file:
        file.write("data")


@pytest.mark.parametrize("count", [1, 2])
def test_graph_shows_the_number_of_replicas(make_executor: Make, count: int) -> None:
    executor = make_executor(
        cores=1,
        provider=LocalProvider(init_blocks=3, min_blocks=3, max_blocks=3),
        tune_parameters={"temp-replica-count": count, "worker-source-max-transfers": 4},
    )
    assert executor.wait_for_nodes(3, 60)
    files = [File(f"taskvinetemp:///file{number}") for number in range(5)]
    for future in [executor.submit(write, {}, outputs=[file]) for file in files]:
        future.result(30)

    def replicas() -> list[int]:
        graph = executor.graph()
        found = [facts for _, facts in graph.nodes.items() if facts["kind"] == "temp file"]
        return [len(facts["places"].split(",")) for facts in found]

    eventually(lambda: replicas() == [count] * 5)
    names = {node["name"] for node in executor.nodes}
    places = [facts["places"] for _, facts in executor.graph().nodes.items() if facts["kind"] == "temp file"]
    assert all(set(each.split(",")) <= names for each in places)
    # On disk too, not only in the records, where TaskVine counts a replica that is still under way.
    eventually(lambda: sum(len(cached(node)) for node in executor.nodes) == 5 * count)
