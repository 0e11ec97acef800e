"""Recovery: lost files are made again, as far as somebody needs them."""

from __future__ import annotations

from taskvine_manager.scheduling import core
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


def test_a_consumer_that_waits_has_its_lost_file_made_again_and_runs() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.call(needs=["file", "other"])
    told = world.leave("a")
    assert not finished(told)
    assert only(core.RunAgain, told) == [core.RunAgain([0])]
    told = world.join("b")
    assert again(told) == [(temp("file"),)]
    assert not finished(world.works(*ran(told)))  # nobody is told of it
    world.make("other")
    assert world.nodes[1] == "b"
    assert world.core.stats()["tasks_recovered"] == 1
    assert world.core.stats()["tasks_done"] == 2


def test_a_consumer_that_was_ready_waits_for_its_file_again() -> None:
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


def test_a_consumer_that_ran_on_the_lost_node_runs_after_its_file_is_made_again() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert ran(world.call(needs=["file"])) == [1]
    world.leave("a")
    assert world.core.waiting == 1
    told = world.join("b")
    assert ran(told) == [-1]
    assert ran(world.works(-1)) == [1]


def test_who_comes_after_the_loss_has_it_made_again() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    world.join("b")
    assert not world.core.tasks
    assert made_again(world.call(needs=["file"])) == ["file"]


def test_nothing_is_run_again_that_nobody_needs() -> None:
    world = World()
    world.join("a")
    chain(world, 3)
    world.make("alone")
    world.leave("a")
    assert not world.join("b")
    assert world.core.stats()["tasks_recovered"] == 0


def test_a_chain_is_run_again_from_its_beginning() -> None:
    world = World()
    world.join("a")
    chain(world, 5)
    world.call(needs=["f4"])
    world.leave("a")
    world.join("b")
    assert recover(world) == [f"f{step}" for step in range(5)]
    assert world.core.stats()["tasks_done"] == 6


def test_of_a_chain_only_what_comes_after_the_last_copy_is_run_again() -> None:
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


def test_of_a_diamond_each_call_is_run_again_once() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("top")
    world.make("left", needs=["top"])
    world.make("right", needs=["top"])
    world.make("bottom", needs=["left", "right"])
    world.forget("top", "left", "right")
    world.call(needs=["bottom", "never"])
    told = world.leave("a")
    (numbers,) = only(core.RunAgain, told)
    assert sorted(numbers.numbers) == [0, 1, 2, 3]
    world.join("b", cores=1)
    order = recover(world)
    assert sorted(order) == ["bottom", "left", "right", "top"]
    assert (order[0], order[-1]) == ("top", "bottom")


def test_of_a_diamond_only_the_lost_side_is_run_again() -> None:
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
    """There are 2**40 ways from its end to its beginning."""
    world = World()
    world.join("a", cores=1)
    for step in range(40):
        before = [f"l{step - 1}", f"r{step - 1}"] if step else []
        world.make(f"l{step}", needs=before)
        world.make(f"r{step}", needs=before)
        world.forget(*before)
    world.call(needs=["l39", "r39", "never"])
    (numbers,) = only(core.RunAgain, world.leave("a"))
    assert sorted(numbers.numbers) == list(range(80))
    world.join("b", cores=1)
    assert len(recover(world)) == 80


def test_several_files_lost_at_once_are_one_set() -> None:
    """Each call of it is run again once, and all that can run at once does."""
    world = World()
    world.join("a", cores=8)
    world.make("root")
    for each in range(4):
        world.make(f"leaf{each}", needs=["root"])
    for each in range(4):
        world.call(needs=[f"leaf{each}", f"never{each}"])
    told = world.leave("a")
    (numbers,) = only(core.RunAgain, told)
    assert sorted(numbers.numbers) == [0, 1, 2, 3, 4]
    told = world.join("b", cores=8)
    assert made_again(told) == ["root"]
    assert made_again(world.works(*ran(told))) == [f"leaf{each}" for each in range(4)]


def test_of_a_call_that_made_several_files_all_are_made_again_by_one() -> None:
    world = World()
    world.join("a")
    world.call(makes=["x", "y"])
    world.works(0)
    world.call(needs=["x", "never"])
    world.call(needs=["y", "never"])
    world.leave("a")
    assert made_again(world.join("b")) == ["x", "y"]
    assert world.core.stats()["tasks_recovered"] == 1


def test_a_file_that_was_forgotten_is_not_kept_when_it_is_made_again_beside_another() -> None:
    world = World()
    world.join("a")
    world.call(makes=["x", "y"])
    world.works(0)
    world.forget("x")
    world.call(needs=["y", "never"])
    world.leave("a")
    world.join("b")
    told = world.works(-1)
    assert core.Drop("b", ["x"]) in told
    assert world.core.stats()["replicas"] == {"y": ["b"]}


def test_a_large_result_is_made_again_like_a_file() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.works(0)
    world.call(inputs=(value("v"),), needs=["never"])
    world.leave("a")
    assert again(world.join("b")) == [(value("v"),)]


def test_a_small_result_is_never_lost() -> None:
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.done(0, body=b"encoded")
    world.leave("a")
    world.join("b")
    (run,) = only(core.Run, world.call(inputs=(value("v"),)))
    assert run.values == {"v": b"encoded"}
    assert world.core.stats()["tasks_recovered"] == 0


def test_a_small_result_of_what_is_run_again_reaches_it() -> None:
    """Its bytes are kept for as long as it may have to be given again."""
    world = World()
    world.join("a")
    world.call(outputs=(value("v"),))
    world.done(0, body=b"encoded")
    world.call(inputs=(value("v"),), outputs=(temp("file"),))
    world.works(1)
    world.forget("v")
    world.call(needs=["file", "never"])
    world.leave("a")
    (run,) = only(core.Run, world.join("b"))
    assert run.values == {"v": b"encoded"}
    assert [task.invocation.number for task in run.tasks] == [-1]


def test_a_lost_file_that_is_asked_for_is_made_again() -> None:
    world = World()
    world.join("a")
    world.make("file")
    world.leave("a")
    assert not only(core.Answer, world.ask("file"))
    assert made_again(world.join("b")) == ["file"]
    assert only(core.Answer, world.works(-1)) == [core.Answer(1, "file", core.Replica("b", 100, 1))]


def test_at_once_what_was_lost_is_made_again_if_that_is_asked_for() -> None:
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


def test_a_replica_that_was_spoiled_was_the_last_and_is_made_again() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file")
    world.call(needs=["file"])
    told = world.done(1, **unread("file"))
    assert only(core.Drop, told) == [core.Drop("a", ["file"])]
    assert made_again(told) == ["file"]
    assert ran(world.works(-1)) == [1]


def test_a_spoiled_replica_beside_another_costs_nothing_but_itself() -> None:
    world = World()
    world.replicate(2)
    world.join("a")
    world.make("file")
    world.join("b")
    world.arrive()
    told = world.spoiled("a", "file")
    assert core.Drop("a", ["file"]) in told
    assert not again(told)
    assert world.where("file") == "b"


def test_word_of_a_replica_that_was_replaced_is_old() -> None:
    world = World()
    world.join("a")
    world.make("file")
    assert not world.handle(core.FileSpoiled("a", "file", 2))
    assert not world.handle(core.FileSpoiled("z", "file", 1))
    assert not world.handle(core.FileSpoiled("a", "other", 1))
    assert world.where("file") == "a"


# --- in what order ----------------------------------------------------------------------------------------------------


def test_what_is_made_again_is_as_urgent_as_it_was() -> None:
    world = World()
    world.join("a", cores=1)
    world.make("file", priority=5.0)
    world.leave("a")
    world.call(count=3)
    world.call(needs=["file"])
    assert ran(world.join("b", cores=1)) == [-1]


def test_what_is_made_again_is_tried_as_often_as_anything() -> None:
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
