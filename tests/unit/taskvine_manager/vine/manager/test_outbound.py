"""Parcels as TaskVine's tasks, and the files that go with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from taskvine_manager.runtime import claims, failure
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import Completion, FileUse
from tests.unit.taskvine_manager.node.test_config import config as node_config
from tests.unit.taskvine_manager.vine.manager import fake
from tests.unit.taskvine_manager.vine.manager.play import Play, X, invocation


def test_temp_file_is_an_edge_until_its_last_reader(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)), invocation(2, inputs=(X,)))
    assert play.engine.waiting == 1
    (producer,) = play.work
    (temp,) = play.manager.temps
    assert temp in producer.outputs.values()
    play.make_temp(producer, "x@1", files={"x@1": (1, 2, 5)})
    (consumer,) = play.work
    assert temp in consumer.inputs.values()
    play.engine.forget(("x@1",))
    assert temp.declared
    assert producer.outputs["out"].declared  # TaskVine may have to run it again
    play.finish(consumer)
    assert not temp.declared
    assert not producer.outputs["out"].declared


def test_shared_result_stays_until_it_is_known_to_be_small(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(FileUse("value", "", "r1"),)))
    (task,) = play.work
    assert play.manager.temps[0] in task.outputs.values()
    play.finish(task, body=b"small")
    assert not play.manager.temps[0].declared
    play.submit(invocation(2, inputs=(FileUse("value", "", "r1"),), outputs=(FileUse("value", "", "r2"),)))
    (reader,) = play.work
    assert reader.parcel.values == {"r1": b"small"}
    assert len(play.manager.temps) == 1


def test_producer_is_tied_to_its_node_after_submission(
    make: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TaskVine copies a task at its submission, to recreate its files later: the node may be gone then."""
    copies: list[list[str]] = []
    submit = fake.Manager.submit
    monkeypatch.setattr(
        fake.Manager, "submit", lambda self, task: copies.append(list(task.features)) or submit(self, task)
    )
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)))
    assert copies[-1] == []
    assert play.work[0].features == ["b0-1"]


def test_file_is_forgotten_while_its_task_runs(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)))
    play.engine.forget(("x@1",))
    (temp,) = play.manager.temps
    assert temp.declared
    play.make_temp(play.work[0], "x@1")
    assert play.outlet.completions[1].outcome == failure.RETURNED
    assert not temp.declared


def test_files_of_a_lost_attempt_are_released_with_the_next(make: Callable[..., Play]) -> None:
    play = make()
    play.join()
    play.submit(invocation(1, outputs=(X,)))
    lost = play.work[0]
    play.end(lost, None, "forsaken")
    old, new = play.manager.temps
    assert (old.declared, new.declared) == (False, True)
    assert not lost.outputs["out"].declared


@pytest.mark.parametrize("local", [True, False])
def test_large_arguments_are_removed_with_task_or_outputs(
    make: Callable[..., Play], tmp_path: Path, local: bool
) -> None:
    play = make(local=local)
    play.join()
    files = [tmp_path / "spool" / f"value-{number}" for number in range(3)]
    for file in files:
        file.write_bytes(b"arguments")
    plain, failing, making = (invocation(number)._replace(arguments=str(file)) for number, file in enumerate(files))
    play.submit(plain)
    play.finish(play.work[0])
    play.submit(failing, cores=64.0)
    play.submit(making._replace(outputs=(X,)))
    (task,) = play.work
    done = (tuple(Completion(2, failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, (("x@1", 5, 0),))),)
    play.end(task, Answer("b0-1", done))
    assert not any(file.exists() for file in files)
    (kept,) = (tmp_path / "spool").iterdir()
    if local:  # no file travels
        assert task.parcel.staged == {str(files[2]): str(kept), ">x@1": "o1"}
    else:
        assert any(file.content == str(kept) for file in task.inputs.values())
    play.engine.forget(("x@1",))
    assert not kept.exists()


@pytest.mark.parametrize("local", [True, False])
def test_shared_buffer_is_removed_with_its_last_user(make: Callable[..., Play], tmp_path: Path, local: bool) -> None:
    play = make(local=local)
    play.join(cores=8)
    spool = tmp_path / "spool"
    (spool / "buffer").write_bytes(b"shared")
    claims.offer(str(spool / "buffer"))
    calls = []
    for number in range(3):
        path = spool / f"sharing1-{number}"
        path.write_bytes(b"arguments")
        claims.claim(str(spool / "buffer"), f"{path}.0")
        calls.append(invocation(number)._replace(arguments=str(path)))
    play.submit(*calls[:2], cores=1.0)
    play.submit(calls[2]._replace(outputs=(X,)))
    tasks = list(play.work)
    files = {id(file): file for task in tasks for name, file in task.inputs.items() if name.endswith(".0")}
    assert [file.content for file in files.values()] == ([] if local else [str(spool / "buffer")])
    for task in list(tasks):
        done = []
        for item in task.parcel.invocations:
            made = (("x@1", 5, 0),) if item[0] == 2 else ()
            done.append(tuple(Completion(item[0], failure.RETURNED, b"N.", "b0-1", 1.0, 1.0, 1.0, made)))
        play.end(task, Answer("b0-1", tuple(done)))
    assert not [call.arguments for call in calls if os.path.exists(str(call.arguments))]
    assert (spool / "buffer").exists()
    assert all(file.declared for file in files.values())
    play.engine.forget(("x@1",))
    assert not [path for folder in ("spool", "files") for path in (tmp_path / folder).iterdir()]
    assert not any(file.declared for file in files.values())


@pytest.mark.parametrize(("said", "expected"), [(None, 0), (0.0, 0), (30.0, 30), (0.2, 1), (59.5, 60)])
def test_minimum_running_time_is_in_whole_seconds(make: Callable[..., Play], said: float | None, expected: int) -> None:
    play = make()
    play.join()
    play.submit(invocation(0), running_time_min=said)
    (task,) = play.work
    assert task.time_min == expected


@pytest.mark.parametrize("local", [True, False])
def test_packed_environment_travels_to_other_machines(make: Callable[..., Play], tmp_path: Path, local: bool) -> None:
    pack = tmp_path / "env.tar.gz"
    pack.write_text("packed")
    play = make(local=local, nodes=node_config(slots=None, env_pack=str(pack)))
    (library,) = play.manager.libraries.values()
    brought = {name: Path(file.content).read_text() for name, file in library.inputs.items() if file.kind == "file"}
    assert brought == ({} if local else {"env_pack": "packed"})
