"""What `why` names as the first cause, for one imagined run after another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taskvine_exec.insight.why import KINDS, explain, explain_run
from taskvine_exec.insight.why.context import Context
from taskvine_exec.insight.why.waits import Waits
from taskvine_manager.record import events
from taskvine_manager.record.events import FILES, REASONS
from taskvine_manager.wire.messages import FileUse
from tests.unit.taskvine_exec.insight.stories import GB, Story

RUN = -1000
"""Stands for the whole run in place of a task."""

Told = tuple[Story, int]


def pending_block() -> Told:
    story = Story().block("PENDING", "Slurm says PENDING, reason Resources")
    return story.later(40), story.task()


def wrong_partition() -> Told:
    story = Story().block("PENDING", "Slurm says PENDING, reason PartitionTimeLimit")
    return story.later(40), story.task()


def block_that_failed() -> Told:
    story = Story().block("FAILED", "sbatch: error: invalid partition specified: gold", 1)
    return story.later(40), story.task()


def unreachable_address() -> Told:
    """The worker of a running block cannot reach the manager, or has another password: no node joins."""
    story = Story().block("PENDING", "submitted").later(5).block("RUNNING")
    return story.later(40), story.task()


def wrong_password() -> Told:
    story, number = unreachable_address()
    said = "nodes connect to login1, port 9123; 10.0.0.7 was refused: it has another password"
    return story.happens(events.Entrance(said)), number


def nodes_by_hand() -> Told:
    story = Story()
    return story.later(40), story.task()


def too_few_nodes() -> Told:
    story = Story().node().block("RUNNING").happens(events.Block("1", "73", "PENDING", "reason Priority"))
    number = story.task()
    return story.waits(number, "few-nodes", "1 of 2").later(9), number


def draining_nodes() -> Told:
    story = Story().block("RUNNING").node().happens(events.NodeDrains("n1"))
    return story, story.task()


def memory_too_large() -> Told:
    story = Story().node()
    number = story.task(memory=64000.0)
    return story.waits(number, "too-large", "", ("n1", "memory")), number


def gpu_and_none_there() -> Told:
    story = Story().node()
    number = story.task(gpus=1.0)
    return story.waits(number, "too-large", "", ("n1", "gpus")), number


def nodes_busy() -> Told:
    story = Story().node()
    tasks = [story.task() for _ in range(4)]
    story.placed(*tasks[:2]).waits(tasks[2], "full", "", ("n1", "cores"))
    return story.later(3), tasks[3]


def straggler_holds_the_node() -> Told:
    story = Story().node(cores=1.0)
    story.runs(*[story.task() for _ in range(6)])
    slow, number = story.task(), story.task()
    story.placed(slow).waits(number, "full", "", ("n1", "cores"))
    return story.later(600), number


def straggler() -> Told:
    story = Story().node()
    story.runs(*[story.task() for _ in range(6)])
    number = story.task()
    return story.placed(number).later(600), number


def waits_for_a_straggler() -> Told:
    story = Story().node()
    story.runs(*[story.task() for _ in range(6)])
    number = story.task()
    middle = story.task(number)
    return story.placed(number).later(600), story.task(middle)


def priority_inversion() -> Told:
    story = Story().node(cores=1.0)
    low = story.task(name="low")
    story.placed(low)
    high = story.task(name="high", priority=9.0)
    return story.waits(high, "full", "", ("n1", "cores")).later(30), high


def full_cache() -> Told:
    story = Story().node()
    maker = story.task()
    story.runs(maker).happens(events.Made("result-0", "n1", GB // 10))
    story.task(maker)
    number = story.task(disk=90.0)
    return story.waits(number, "full", "", ("n1", "disk")), number


def reserved_node() -> Told:
    story = Story().node().node("n2")
    large, small = story.task(cores=2.0, name="large"), story.task()
    return story.waits(small, "reserved", str(large)), small


def busy_node() -> Told:
    story = Story().node().node("n2")
    maker = story.task()
    story.runs(maker)
    number = story.task(maker)
    return story.waits(number, "busy-node", "n1"), number


def transfer_limit() -> Told:
    story = Story().node().node("n2").node("n3")
    maker = story.task()
    story.runs(maker).happens(events.Made("result-0", "n1", GB))
    number = story.task(maker)
    story.happens(events.TransferStarted("result-0", "n2", "n1", True))
    return story.waits(number, "transfer-limit", "result-0"), number


def suspect() -> Told:
    story = Story().node()
    first, second = story.task(), story.task()
    story.placed(first, second).node_ends()
    story.happens(events.Requeued(first, "node-lost", 1), events.Requeued(second, "node-lost", 1)).node("n2")
    story.placed(first, node="n2").waits(second, "suspect")
    return story, second


def transfer() -> Told:
    story = Story().node().node("n2")
    maker = story.task()
    story.runs(maker).happens(events.Made("result-0", "n1", GB))
    number = story.task(maker)
    story.placed(number, node="n2").happens(events.TransferStarted("result-0", "n2", "n1", True))
    return story.later(20), number


def users_file() -> Told:
    story = Story().node()
    number = story.task(inputs=(FileUse("local", "data", "/home/data"),))
    return story.placed(number).happens(events.InputStarted("/home/data", "n1", FILES)).later(20), number


def library_starts() -> Told:
    story = Story().node().happens(events.Process("n1", "library", "", "started"))
    number = story.task()
    return story.placed(number).later(50), number


def behind_on_its_node() -> Told:
    story = Story().node(cores=1.0)
    tasks = [story.task() for _ in range(3)]
    return story.placed(*tasks).later(5), tasks[2]


def node_lost() -> Told:
    story = Story().block("RUNNING").node()
    number = story.task()
    story.placed(number).later(5).node_ends().happens(events.NodeExited(77, -9))
    story.happens(events.Requeued(number, "node-lost", 1)).node("n2").placed(number, node="n2").later(1)
    return story.ends(number), number


def block_end(state: str, reason: str) -> Told:
    """A task whose node was lost for good, and the words of the batch system on its block."""
    story = Story().block("RUNNING").node()
    number = story.task()
    story.placed(number).later(5).node_ends().ends(number, 2, kind="node-lost")
    story.happens(events.Failure(number, "node-lost", "node n1 was lost: its connection ended"))
    return story.block(state, reason), number


def poisoned() -> Told:
    story = Story().node()
    number = story.task()
    story.placed(number).node_ends().happens(events.Requeued(number, "node-lost", 1)).node("n2")
    story.placed(number, node="n2").node_ends("n2").happens(events.Requeued(number, "node-lost", 2))
    story.ends(number, 2, kind="node-lost")
    return story.happens(events.Failure(number, "node-lost", "it was on 2 nodes that were lost")), number


def lost(kind: str, text: str) -> Callable[[], Told]:
    def told() -> Told:
        story = Story().node()
        number = story.task()
        return story.is_lost(number, kind, text), number

    return told


def missing_module() -> Told:
    story = Story().node()
    number = story.task()
    text = "Traceback (most recent call last):\n  ...\nModuleNotFoundError: No module named 'numpi'\n"
    return story.raises(number, "ModuleNotFoundError", text), number


def chain_of_failures(links: int = 50) -> Told:
    story = Story().node()
    number = story.task(name="first")
    chain = [number]
    for _ in range(links):
        chain.append(story.task(chain[-1], name="link"))
    story.raises(number, text="Traceback\nValueError: the first")
    for each in chain[1:]:
        story.add("cancelled", [each])
    return story, chain[-1]


def result_is_lost() -> Told:
    story = Story().block("RUNNING").node().node("n2")
    maker = story.task(recoverable=False)
    story.runs(maker)
    story.happens(events.Dropped("result-0", "manager", "moved"), events.Made("result-0", "n1", 10))
    number = story.task(maker)
    story.node_ends().happens(events.Lost("result-0", "n1"))
    story.ends(number, 2, kind="file-lost")
    return story.happens(events.Failure(number, "file-lost", "result-0 is on no node")), number


def waits_for_a_recovery() -> Told:
    story = Story().node().node("n2", block="1")
    maker = story.task(name="make")
    story.runs(maker).happens(events.Dropped("result-0", "manager", "moved"), events.Made("result-0", "n1", 10))
    number = story.task(maker)
    story.node_ends().happens(events.Lost("result-0", "n1"), events.Recovery(-1, maker, [("result-0", "n1")]))
    return story.placed(-1, node="n2").later(2), number


def by_the_program() -> Told:
    story = Story().node()
    number = story.task()
    return story.add("cancelled", [number]), number


def run_is_over() -> Told:
    story = Story().node()
    number = story.task()
    return story.placed(number).later(1).add("end"), number


def slow_program() -> Told:
    story = Story().node()
    story.runs(story.task())
    return story.later(60).happens(events.Process("n1", "slot", "0", "ended")), RUN


def program_that_submits_nothing() -> Told:
    story = Story().node()
    return story.later(60).happens(events.Process("n1", "slot", "0", "ended")), RUN


def placed_where_its_inputs_are() -> Told:
    story = Story().node()
    number = story.task()
    others = [("n2", 3.0, 6_000_000, 1)]
    story.placed(number, how="inputs", local=64_000_000, missing=6_000_000, cost=0.1, others=others)
    return story.later(1).ends(number), number


PATHOLOGIES: dict[str, tuple[Callable[[], Told], str, str]] = {
    "pending block": (
        pending_block,
        "block",
        "block 0 (job 72) waits at the batch system since 40 s: Slurm says PENDING",
    ),
    "wrong partition": (wrong_partition, "block", "reason PartitionTimeLimit"),
    "block that failed": (block_that_failed, "block-failed", "invalid partition specified: gold, exit code 1"),
    "unreachable address": (unreachable_address, "silent-block", "not reach the manager's address"),
    "wrong password": (wrong_password, "silent-block", "10.0.0.7 was refused: it has another password"),
    "nodes by hand": (nodes_by_hand, "no-block", "by hand or by a factory"),
    "too few nodes": (too_few_nodes, "block", "block 1 (job 73) waits at the batch system"),
    "draining nodes": (draining_nodes, "no-node", "all nodes are to leave (n1)"),
    "memory too large": (memory_too_large, "too-large", "asks for memory=64000 MB, and the largest node has 1000 MB"),
    "gpu and none there": (gpu_and_none_there, "too-large", "asks for gpus=1, and no node has a gpu"),
    "nodes busy": (nodes_busy, "full", "n1 lacks cores; n1 has 2 tasks"),
    "straggler holds the node": (straggler_holds_the_node, "straggler", "task 6 (f) has been on its node for 10 min"),
    "straggler": (straggler, "straggler", "95 % of 6 tasks of category f ran for at most 1 s"),
    "waits for a straggler": (waits_for_a_straggler, "straggler", "task 6 (f)"),
    "priority inversion": (priority_inversion, "priority", "task 0 (low) has priority 0"),
    "full cache": (full_cache, "cache", "unfinished tasks read 1 of these files"),
    "reserved node": (reserved_node, "reserved", "kept for task 0 (large)"),
    "busy node": (busy_node, "busy-node", "node n1 has its inputs"),
    "transfer limit": (transfer_limit, "transfer-limit", "n1 may send no more at a time (1 transfer under way)"),
    "suspect": (suspect, "suspect", "it is retried alone"),
    "transfer": (transfer, "transfer", "result-0 (1.07 GB) is being copied to node n2 from node n1 since 20 s"),
    "user's file": (users_file, "reading", "/home/data is being copied to node n1 from the user's file"),
    "library starts": (library_starts, "library", "the library on node n1 has started, and is not ready"),
    "behind on its node": (behind_on_its_node, "running", "task 0 (f)"),
    "lost node": (node_lost, "node-lost", "its connection ended; it was killed by SIGKILL"),
    "walltime": (lambda: block_end("TIMEOUT", "Slurm says TIMEOUT"), "walltime", "block 0 (job 72) reached its time"),
    "node out of memory": (
        lambda: block_end("FAILED", "Slurm says OUT_OF_MEMORY"),
        "out-of-memory",
        "was killed for lack of memory",
    ),
    "preempted": (lambda: block_end("CANCELLED", "Slurm says PREEMPTED"), "preempted", "was preempted"),
    "cancelled job": (lambda: block_end("CANCELLED", "by user"), "block-cancelled", "was cancelled: by user"),
    "poisoned task": (poisoned, "poison", "on each of the 2 nodes when they were lost"),
    "failing context": (lost("context", "the context raised KeyError"), "context", "the context raised KeyError"),
    "memory exceeded": (lost("memory", "it used 900 MB of 500"), "memory", "it used 900 MB of 500"),
    "slot died": (lost("slot-died", "killed by signal 11\nSegmentation fault"), "slot-died", "killed by signal 11"),
    "disk full": (lost("disk-full", "no room for the result"), "disk-full", "no room"),
    "missing input": (lost("file-missing", "No such file: /data/x"), "file-missing", "/data/x"),
    "failed init_command": (lost("environment", "init_command failed"), "environment", "init_command failed"),
    "missing module": (missing_module, "error", "ModuleNotFoundError: No module named 'numpi'"),
    "failed 50 links up": (chain_of_failures, "error", "ValueError: the first"),
    "lost result": (result_is_lost, "node-lost", "node n1 was lost"),
    "waits for a recovery": (waits_for_a_recovery, "running", "task 0 (make)"),
    "cancelled": (by_the_program, "by-program", "the program cancelled it"),
    "run is over": (run_is_over, "run-over", "the run ended"),
    "slow program": (slow_program, "program", "the program has submitted nothing for 1 min"),
    "nothing submitted": (program_that_submits_nothing, "program", "the program has submitted no task in 1 min"),
    "placement": (
        placed_where_its_inputs_are,
        "placement",
        "node n1 had 64 MB of its 70 MB of inputs, and was expected to start it within 100 ms; "
        "next best: n2 (3 s, 6 MB there)",
    ),
}


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_first_cause(name: str) -> None:
    make, kind, words = PATHOLOGIES[name]
    story, number = make()
    state, now = story.state, story.now
    cause = explain_run(state, now=now) if number == RUN else explain(state, number, now=now)
    assert cause.root.kind == kind, cause
    assert words in cause.root.text
    for _, each in cause.walk():
        assert each.text == each.text.strip()
        assert not each.text.endswith(".")
        assert each.kind in KINDS or each is cause.root


@pytest.mark.parametrize("name", PATHOLOGIES)
def test_the_run_and_every_task_can_be_explained_at_every_moment(name: str) -> None:
    story, _ = PATHOLOGIES[name][0]()
    for length in range(1, len(story.entries) + 1):
        shorter = Story()
        shorter.entries = story.entries[:length]
        state = shorter.state
        assert explain_run(state).kind == "run"
        assert explain_run(state, now=story.now + 60, is_live=False).kind == "run"
        for number in state.tasks:
            assert explain(state, number).task == number


def test_chain_of_causes_goes_down_to_the_root() -> None:
    story, number = chain_of_failures(3)
    tree = [(depth, cause.task) for depth, cause in explain(story.state, number).walk()]
    assert tree == [(0, 3), (1, 2), (2, 1), (3, 0), (4, 0)]


def test_long_chain_is_shortened_in_its_middle() -> None:
    story, number = chain_of_failures(5000)
    causes = [cause for _, cause in explain(story.state, number).walk()]
    assert len(causes) < 20
    assert any("more tasks of the chain" in cause.text for cause in causes)
    assert [cause.task for cause in causes[:2]] == [number, number - 1]
    assert causes[-2].task == 0


def test_traceback_is_the_detail_of_the_error() -> None:
    story, number = chain_of_failures(1)
    assert explain(story.state, number).root.detail.startswith("Traceback")


def test_same_failure_has_the_text_of_the_first() -> None:
    story = Story().node()
    first, second = story.task(), story.task()
    story.raises(first, text="Traceback\nValueError: once")
    story.placed(second).ends(second, 1).happens(events.Failure(second, "ValueError", "", first))
    assert explain(story.state, second).root.text == "ValueError: once"


def test_same_failures_are_counted_for_the_run() -> None:
    story = Story().node()
    first, second = story.task(), story.task()
    story.raises(first)
    story.placed(second).ends(second, 1).happens(events.Failure(second, "ValueError", "", first))
    (failed,) = [cause for cause in explain_run(story.state).causes if cause.kind == "raised"]
    assert failed.text.endswith("and 1 more task failed in the same way")


@pytest.mark.parametrize(("seconds", "first"), [(5, "block"), (50, "silent-block")])
def test_silent_block_comes_before_one_that_waits_if_it_is_silent_for_long(seconds: int, first: str) -> None:
    story = Story().happens(events.Block("0", "72", "PENDING", "reason Priority"))
    story.happens(events.Block("1", "73", "RUNNING"))
    number = story.task()
    assert explain(story.state, number, now=story.now + seconds).root.kind == first


def test_node_that_was_told_to_leave_is_no_loss() -> None:
    story = Story().block("RUNNING").node().node_ends(told=True).block("CANCELLED", "cancelled by user")
    number = story.task()
    assert explain(story.state, number).root.kind == "released"


def test_killed_manager_comes_first() -> None:
    story, number = pending_block()
    cause = explain(story.state, number, is_live=False)
    assert [each.kind for each in cause.causes] == ["manager-gone", "no-node"]


def test_record_without_details_says_so() -> None:
    story = Story(details=False).add("nodes", [{"name": "n1", "cores": 1.0, "pid": 5, "block": ""}])
    number = story.task()
    root = explain(story.state, number).root
    assert root.kind == "unknown"
    assert "has no details" in root.text


def test_unknown_task_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        explain(Story().state, 5)


def test_circle_in_a_damaged_record_ends() -> None:
    story = Story().node()
    story.task(1)
    story.task(0)
    assert explain(story.state, 0).kind == "waiting"


def test_every_reason_of_the_scheduler_is_explained() -> None:
    assert Waits(Context(Story().state, None, None)).table.keys() == REASONS.keys()


def test_as_dict_leaves_out_what_is_empty() -> None:
    story, number = by_the_program()
    assert explain(story.state, number).as_dict() == {
        "kind": "cancelled",
        "text": "task 0 (f) was cancelled",
        "task": 0,
        "causes": [{"kind": "by-program", "text": "the program cancelled it"}],
    }
