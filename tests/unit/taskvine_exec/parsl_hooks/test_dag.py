"""DAG_RESOLVER in a real DataFlowKernel: what executors get in the place of futures. The executors only note it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parsl
import pytest
from parsl.config import Config
from parsl.data_provider.files import File
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError
from parsl.executors.base import ParslExecutor

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.values import Edge, Value
from tests.conftest import eventually


@dataclass
class Submitted:
    """A task that the DFK has submitted. The test ends it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    future: Future[Any]


class Noting(TaskVineExecutor):
    """An executor without a manager."""

    def __init__(self, label: str) -> None:
        super().__init__(label=label)
        self.submitted: list[Submitted] = []

    def start(self) -> None:
        pass

    def submit(self, func: Any, resource_specification: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.submitted.append(Submitted(args, kwargs, Future()))
        return self.submitted[-1].future

    def shutdown(self) -> None:
        pass


class Other(ParslExecutor):
    """An executor of another kind that runs nothing."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label
        self.submitted: list[Submitted] = []

    submit = Noting.submit
    shutdown = Noting.shutdown


class Workflow:
    """A DFK with two TaskVineExecutors and one of another kind."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.ours, self.second, self.other = Noting("ours"), Noting("second"), Other("other")
        self.dfk = DataFlowKernel(
            Config(
                executors=[self.ours, self.second, self.other],
                dependency_resolver=DAG_RESOLVER,
                run_dir=str(directory),
                strategy="none",
                initialize_logging=False,
                **settings,
            )
        )

    def app(self, label: str = "ours", **settings: Any) -> Callable[..., Any]:
        """Make an app that takes any arguments; the executor never calls it."""

        def any_arguments(*args: Any, **kwargs: Any) -> None:
            raise NotImplementedError

        app: Callable[..., Any] = parsl.python_app(
            any_arguments, data_flow_kernel=self.dfk, executors=[label], **settings
        )
        return app

    def wait(self, executor: Noting | Other, count: int) -> Submitted:
        """Wait until an executor has ``count`` tasks; return the last one."""
        eventually(lambda: len(executor.submitted) >= count)
        assert len(executor.submitted) == count
        return executor.submitted[-1]


@pytest.fixture
def workflow(tmp_path: Path) -> Iterator[Workflow]:
    logging.getLogger("parsl").setLevel(logging.WARNING)
    made = Workflow(tmp_path)
    yield made
    for executor in (made.ours, made.second, made.other):
        for task in executor.submitted:
            if not task.future.done():
                task.future.set_result(None)
    made.dfk.cleanup()


def is_edge_to(argument: object, future: Any) -> bool:
    return isinstance(argument, Edge) and repr(argument).startswith(f"<Edge to {Value.of(future).number}")


# --- edges ---


def test_consumer_is_submitted_with_an_edge_before_its_parent_is_done(workflow: Workflow) -> None:
    app = workflow.app()
    parent = app(1)
    app(parent, 5, key=parent)
    consumer = workflow.wait(workflow.ours, 2)
    assert not parent.done()
    assert is_edge_to(consumer.args[0], parent)
    assert consumer.args[1] == 5
    assert is_edge_to(consumer.kwargs["key"], parent)


def test_edges_are_found_in_containers(workflow: Workflow) -> None:
    app = workflow.app()
    parent = app(1)
    app([{"a": (parent, 2)}], inputs=[parent, 3])
    consumer = workflow.wait(workflow.ours, 2)
    ((found, two),) = [entry["a"] for entry in consumer.args[0]]
    assert is_edge_to(found, parent)
    assert two == 2
    first, three = consumer.kwargs["inputs"]
    assert is_edge_to(first, parent)
    assert three == 3


def test_small_result_that_is_here_is_passed_by_value(workflow: Workflow) -> None:
    app = workflow.app()
    parent = app(1)
    maker = workflow.wait(workflow.ours, 1)
    Value.of(parent).comes_home(7)
    maker.future.set_result(7)
    app(parent)
    assert workflow.wait(workflow.ours, 2).args == (7,)


def test_argument_without_futures_is_passed_on_as_it_is(workflow: Workflow) -> None:
    argument = [1, {"a": object()}]
    workflow.app()(argument)
    assert workflow.wait(workflow.ours, 1).args[0] is argument


# --- futures that are waited for ---


@pytest.mark.parametrize(
    ("makers", "readers"),
    [
        ({"label": "second"}, {"label": "ours"}),
        ({"label": "other"}, {"label": "ours"}),
        ({"label": "other"}, {"label": "other"}),
        ({"cache": True}, {}),
        ({}, {"cache": True}),
    ],
)
def test_consumer_waits_for_tasks_that_get_no_edge(
    workflow: Workflow, makers: dict[str, Any], readers: dict[str, Any]
) -> None:
    made_by = getattr(workflow, makers.get("label", "ours"))
    read_by = getattr(workflow, readers.get("label", "ours"))
    parent = workflow.app(**makers)(1)
    workflow.app(**readers)([parent])
    workflow.wait(made_by, 1).future.set_result("result")
    consumer = workflow.wait(read_by, 2 if made_by is read_by else 1)
    assert consumer.args == (["result"],)


def test_consumer_waits_for_any_other_future(workflow: Workflow) -> None:
    future: Future[str] = Future()
    workflow.app()(future, key=[future])
    assert workflow.ours.submitted == []
    future.set_result("result")
    consumer = workflow.wait(workflow.ours, 1)
    assert (consumer.args, consumer.kwargs) == (("result",), {"key": ["result"]})


def test_consumer_waits_for_a_task_of_another_kernel(workflow: Workflow, tmp_path: Path) -> None:
    elsewhere = Workflow(tmp_path / "other")
    parent = elsewhere.app()(1)
    workflow.app()(parent)
    assert workflow.ours.submitted == []
    elsewhere.wait(elsewhere.ours, 1).future.set_result("result")
    assert workflow.wait(workflow.ours, 1).args == ("result",)
    elsewhere.dfk.cleanup()


def test_consumer_waits_for_an_output_file(workflow: Workflow, tmp_path: Path) -> None:
    parent = workflow.app()(outputs=[File(str(tmp_path / "out"))])
    workflow.app()(parent.outputs[0])
    workflow.wait(workflow.ours, 1).future.set_result(None)
    (file,) = workflow.wait(workflow.ours, 2).args
    assert isinstance(file, File)


def test_join_app_gets_no_edges(workflow: Workflow) -> None:
    seen: list[Any] = []

    def join(parent: Any) -> Any:
        seen.append(parent)
        return workflow.app()(2)

    parent = workflow.app()(1)
    joined = parsl.join_app(join, data_flow_kernel=workflow.dfk)(parent)
    workflow.wait(workflow.ours, 1).future.set_result("result")
    workflow.wait(workflow.ours, 2).future.set_result("joined")
    assert joined.result(10) == "joined"
    assert seen == ["result"]


@pytest.mark.parametrize("arguments", ["argument", "inputs"])
def test_consumer_of_a_failed_future_fails(workflow: Workflow, arguments: str) -> None:
    future: Future[str] = Future()
    future.set_exception(KeyError("why"))
    consumer = workflow.app()([future]) if arguments == "argument" else workflow.app()(inputs=[future])
    error = consumer.exception(10)
    assert isinstance(error, DependencyError)
    assert len(error.dependent_exceptions_tids) == 1, "a failure is counted once"
    assert workflow.ours.submitted == []


def test_container_that_contains_itself_is_refused_at_the_call(workflow: Workflow) -> None:
    app = workflow.app()
    endless: list[Any] = [app(1)]
    endless.append(endless)
    with pytest.raises(ValueError, match="contains itself"):
        app(endless)


# --- dependencies in the log ---


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_dependencies_are_listed_if_the_log_shows_them(workflow: Workflow, level: int) -> None:
    logging.getLogger("parsl").setLevel(level)
    app = workflow.app()
    parent = app(1)
    consumer = app(parent, inputs=[parent])
    listed = consumer.task_record["depends"]
    if level == logging.INFO:
        assert [each.tid for each in listed] == [parent.tid, parent.tid]
        assert all(each.done() and each is not parent for each in listed), (
            "nobody waits for them, and they keep nothing"
        )
    else:
        assert listed == []
