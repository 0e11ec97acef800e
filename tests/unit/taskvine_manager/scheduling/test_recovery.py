"""Recovery: lost files are recreated if a task or the user needs them."""

from __future__ import annotations

from taskvine_manager.scheduling.events import Answer, Drop, FileSpoiled, Replica, Run, RunAgain
from tests.unit.taskvine_manager.scheduling.world import (
    World,
    again,
    chain,
    finished,
    made_again,
    only,
    ran,
    records,
    recover,
    temp,
    unread,
    value,
)

# --- what is run again ------------------------------------------------------------------------------------------------


def test_waiting_consumer_gets_its_lost_file() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "other"])
    told = world.leave("a")
    assert not finished(told)
    assert only(RunAgain, told) == [RunAgain([0])]
    told = world.join("b")
    assert again(told) == [(temp("file"),)]
    assert not finished(world.works(*ran(told)))  # no node is told of it
    world.make("other")
    assert world.nodes[1] == "b"
    assert world.core.stats()["tasks_recovered"] == 1
    assert world.core.stats()["tasks_done"] == 2


def test_ready_consumer_waits_for_its_file_again() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call()
    world.call(needs=["file"])
    assert (world.core.ready, world.core.waiting) == (1, 0)
    world.leave("a")
    assert world.core.waiting == 1
    world.join("b", cores=1)
    assert recover(world) == ["file"]
    assert world.core.stats()["tasks_pending"] == 0


def test_consumer_of_the_lost_node_runs_after_the_recovery() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert ran(world.call(needs=["file"])) == [1]
    world.leave("a")
    assert world.core.waiting == 1
    told = world.join("b")
    assert ran(told) == [-1]
    assert ran(world.works(-1)) == [1]


def test_later_consumer_starts_the_recovery() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.join("b")
    assert not world.core.tasks
    assert made_again(world.call(needs=["file"])) == ["file"]


def test_unneeded_files_are_not_recreated() -> None:
    world = World()
    world.join("a")
    chain(world, 3)
    world.make("alone")
    world.leave("a")
    assert not world.join("b")
    assert world.core.stats()["tasks_recovered"] == 0


def test_lost_chain_runs_again_from_its_beginning() -> None:
    world = World()
    world.join("a")
    chain(world, 5)
    world.call(needs=["f4"])
    world.leave("a")
    world.join("b")
    assert recover(world) == [f"f{step}" for step in range(5)]
    assert world.core.stats()["tasks_done"] == 6


def test_chain_runs_again_from_its_last_copy() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("f0")
    world.make("f1", needs=["f0"])
    world.join("b", cores=8)
    world.replicate(2)
    world.arrive()
    world.replicate(1)
    world.drain("b")
    world.make("f2", needs=["f1"])
    world.make("f3", needs=["f2"])
    assert world.core.stats()["replicas"] == {"f0": ["a", "b"], "f1": ["a", "b"], "f2": ["a"], "f3": ["a"]}
    world.call(needs=["f3", "never"])
    world.join("c")
    world.leave("a")
    assert recover(world) == ["f2", "f3"]


def test_each_call_of_a_diamond_runs_again_once() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("top")
    world.make("left", needs=["top"])
    world.make("right", needs=["top"])
    world.make("bottom", needs=["left", "right"])
    world.forget("top", "left", "right")
    world.call(needs=["bottom", "never"])
    told = world.leave("a")
    (numbers,) = only(RunAgain, told)
    assert sorted(numbers.numbers) == [0, 1, 2, 3]
    world.join("b", cores=1)
    order = recover(world)
    assert sorted(order) == ["bottom", "left", "right", "top"]
    assert (order[0], order[-1]) == ("top", "bottom")


def test_only_the_lost_side_of_a_diamond_runs_again() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("top")
    world.make("left", needs=["top"])
    world.join("b", cores=8)
    world.tune(temp_replica_count=2)
    world.arrive()
    world.replicate(1)
    assert world.core.stats()["replicas"] == {"top": ["a", "b"], "left": ["a", "b"]}
    world.drain("b")
    assert world.make("right", needs=["top"]) == "a"
    world.call(needs=["left", "right", "never"])
    world.join("c")
    world.leave("a")
    assert recover(world) == ["right"]


def test_a_ladder_of_diamonds_is_planned_in_one_walk() -> None:
    """There are 2**40 paths from its end to its beginning."""
    world = World()
    world.join("a", cores=1)
    for step in range(40):
        before = [f"l{step - 1}", f"r{step - 1}"] if step else []
        world.make(f"l{step}", needs=before)
        world.make(f"r{step}", needs=before)
        world.forget(*before)
    world.call(needs=["l39", "r39", "never"])
    (numbers,) = only(RunAgain, world.leave("a"))
    assert sorted(numbers.numbers) == list(range(80))
    world.join("b", cores=1)
    assert len(recover(world)) == 80


def test_files_lost_together_are_one_set() -> None:
    """Each of its calls runs again once, and all that can run at once do."""
    world = World()
    world.join("a", cores=8)
    world.make("root")
    for each in range(4):
        world.make(f"leaf{each}", needs=["root"])
    for each in range(4):
        world.call(needs=[f"leaf{each}", f"never{each}"])
    told = world.leave("a")
    (numbers,) = only(RunAgain, told)
    assert sorted(numbers.numbers) == [0, 1, 2, 3, 4]
    told = world.join("b", cores=8)
    assert made_again(told) == ["root"]
    assert made_again(world.works(*ran(told))) == [f"leaf{each}" for each in range(4)]


def test_one_task_recreates_all_files_of_a_call() -> None:
    world = World()
    world.join("a")
    world.call(makes=["x", "y"])
    world.works(0)
    world.call(needs=["x", "never"])
    world.call(needs=["y", "never"])
    world.leave("a")
    assert made_again(world.join("b")) == ["x", "y"]
    assert world.core.stats()["tasks_recovered"] == 1


def test_forgotten_file_is_not_kept_when_recreated() -> None:
    world = World()
    world.join("a")
    world.call(makes=["x", "y"])
    world.works(0)
    world.forget("x")
    world.call(needs=["y", "never"])
    world.leave("a")
    world.join("b")
    told = world.works(-1)
    assert Drop("b", ["x"]) in told
    assert world.core.stats()["replicas"] == {"y": ["b"]}


def test_large_result_is_recreated() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.works(0)
    world.call(inputs=(value("v"),), needs=["never"])
    world.leave("a")
    assert again(world.join("b")) == [(value("v"),)]


def test_small_result_is_never_lost() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.done(0, body=b"encoded")
    world.leave("a")
    world.join("b")
    (run,) = only(Run, world.call(inputs=(value("v"),)))
    assert run.values == {"v": b"encoded"}
    assert world.core.stats()["tasks_recovered"] == 0


def test_small_result_reaches_a_recreating_task() -> None:
    """Its bytes are kept as long as the call may run again."""
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.done(0, body=b"encoded")
    world.call(inputs=(value("v"),), outputs=(temp("file"),))
    world.works(1)
    world.forget("v")
    world.call(needs=["file", "never"])
    world.leave("a")
    (run,) = only(Run, world.join("b"))
    assert run.values == {"v": b"encoded"}
    assert [task.invocation.number for task in run.tasks] == [-1]


def test_requested_file_is_recreated() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    assert not only(Answer, world.ask("file"))
    assert made_again(world.join("b")) == ["file"]
    assert only(Answer, world.works(-1)) == [Answer(1, "file", Replica("b", 100, 1))]


def test_lost_files_are_recreated_at_once_on_request() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.make("forgotten")
    world.forget("forgotten")
    world.make("once", recoverable=False)
    world.leave("a")
    world.join("b")
    assert made_again(world.tune(immediate_recovery=1)) == ["file"]
    world.works(-1)
    world.join("c")
    assert made_again(world.leave("b")) == ["file"]


def test_damaged_last_replica_is_recreated() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call(needs=["file"])
    told = world.done(1, **unread("file"))
    assert only(Drop, told) == [Drop("a", ["file"])]
    assert made_again(told) == ["file"]
    assert ran(world.works(-1)) == [1]


def test_damaged_replica_beside_another_is_dropped() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.arrive()
    told = world.spoiled("a", "file")
    assert Drop("a", ["file"]) in told
    assert not again(told)
    assert world.where("file") == "b"


def test_report_on_a_replaced_replica_is_ignored() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert not world.handle(FileSpoiled("a", "file", 2))
    assert not world.handle(FileSpoiled("z", "file", 1))
    assert not world.handle(FileSpoiled("a", "other", 1))
    assert world.where("file") == "a"


# --- in what order ----------------------------------------------------------------------------------------------------


def test_recreating_task_keeps_its_priority() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file", priority=5.0)
    world.leave("a")
    world.call(count=3)
    world.call(needs=["file"])
    assert ran(world.join("b", cores=1)) == [-1]


def test_recreating_task_has_the_usual_retries() -> None:
    world = World(max_retries=1)
    world.join("a")
    world.make("file")
    world.call(needs=["file", "never"])
    world.leave("a")
    for name in ("b", "c"):
        assert ran(world.join(name)) == [-1]
        told = world.leave(name)
    record = records(told)[1]
    assert (record["kind"], record["name"], record["node"]) == ("file-lost", "file", "a")
    assert "making it again failed" in record["reason"]
    assert "its node c was lost" in record["reason"]
