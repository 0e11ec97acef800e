"""A task server of Colmena that keeps large results on nodes, and chooses resources for each method.

It needs the package ``colmena``, on nodes too. Colmena's own ParslTaskServer works with this executor as well, without
these additions.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import parsl
from colmena.models import Result, SerializationMethod
from colmena.queue.base import ColmenaQueues
from colmena.task_server.base import FutureBasedTaskServer, convert_to_colmena_method
from parsl.app.python import PythonApp
from parsl.config import Config
from parsl.errors import ConfigurationError

from taskvine_exec.local import local_config
from taskvine_exec.submission import resources

__all__ = ["FETCH", "RELEASE", "TaskVineTaskServer"]

FETCH, RELEASE = "fetch", "release"
"""Methods that every server has: return a kept result; let nodes remove kept results."""
_PREFIX = "taskvine-kept:"
_MARKS = (_PREFIX, _PREFIX.encode().hex())
"""The beginning of a name, as Colmena serializes it by JSON and by pickle."""
_LONGEST = 600
"""Most characters of a serialized argument that may be the name of a kept result."""


class TaskVineTaskServer(FutureBasedTaskServer):  # type: ignore[misc]
    """Task server that runs Colmena's methods with ``TaskVineExecutor``.

    A method is a function, a ``ColmenaMethod``, or a pair of one of these and a dict of options:

    ``keep``
        True: the method's results stay on the nodes that made them. The thinker gets a short string in place of each.
        If it passes this string as an argument of another task, the method gets the value. The method ``"fetch"``
        returns the value to the thinker, and ``"release"`` removes results that it no longer needs.
    ``executors``
        Labels of the executors that may run the method.
    others
        A resource specification: cores, memory, function_exec_mode ('L1', 'L2'), library ...

    Parameters
    ----------
    queues : ColmenaQueues
        Queues to the thinker.
    methods : sequence
        Methods to serve.
    config : parsl.Config, optional
        Parsl's configuration. Default: ``local_config(**settings)``, for this machine.
    timeout : int, optional
        Seconds without a task after which the server ends.
    **settings
        Arguments of ``local_config``.

    Raises
    ------
    parsl.errors.ConfigurationError
        If two methods have one name, or ``config`` and settings are given.
    InvalidResourceSpecification
        If a method's options are not valid.
    """

    def __init__(
        self,
        queues: ColmenaQueues,
        methods: Sequence[Any],
        config: Config | None = None,
        *,
        timeout: int | None = None,
        **settings: Any,
    ) -> None:
        if config is not None and settings:
            raise ConfigurationError(f"{', '.join(settings)}: put these settings into the config, which is given too")
        self.config = local_config(**settings) if config is None else config
        self._services: dict[str, _Service] = {}
        for method in [*methods, _fetch]:
            service = _Service(*method) if isinstance(method, tuple | list) else _Service(method, {})
            if self._services.setdefault(service.name, service) is not service or service.name == RELEASE:
                raise ConfigurationError(f"there are two methods of the name {service.name!r}: rename one")
        self._kept: dict[str, Future[Any]] = {}
        self._keeping = threading.Lock()
        super().__init__(queues, [*self._services, RELEASE], timeout)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_keeping"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._keeping = threading.Lock()

    def _setup(self) -> None:
        parsl.load(self.config)

    def _cleanup(self) -> None:
        kernel = parsl.dfk()
        kernel.wait_for_current_tasks()
        self._kept.clear()
        kernel.cleanup()

    def _submit(self, task: Result, topic: str) -> Future[Any]:
        task.mark_start_task_submission()
        names = _names_in(task)
        if task.method == RELEASE:
            return self._release(task, names)
        with self._keeping:
            held = {name: self._kept.get(name) for name in names}
        if missing := [name for name, value in held.items() if value is None]:
            return _failed(KeyError(f"no node keeps {', '.join(missing)}: it was released, or its task failed"))
        service = self._services[task.method]
        if not service.keeps:
            return service.call(task, None, held)
        own = f"{_PREFIX}{task.task_id}"
        outcome = service.call(task, own, held)
        with self._keeping:
            self._kept[own] = outcome
        head = service.head(outcome)
        head.add_done_callback(functools.partial(self._forget_failed, own))
        return head

    def _forget_failed(self, name: str, done: Future[Any]) -> None:
        if done.exception() is not None or not done.result().success:
            with self._keeping:
                self._kept.pop(name, None)

    def _release(self, task: Result, names: list[str]) -> Future[Any]:
        with self._keeping:
            released = [self._kept.pop(name, None) is not None for name in names]
        task.mark_compute_started()
        task.deserialize()
        task.set_result(sum(released), 0.0)
        task.mark_compute_ended()
        task.serialize()
        done: Future[Any] = Future()
        done.set_result(task)
        return done


class _Service:
    """A method, and how its tasks are submitted."""

    def __init__(self, method: Any, options: Mapping[str, Any]) -> None:
        specification = dict(options)
        self.keeps = bool(specification.pop("keep", False))
        executors = specification.pop("executors", "all")
        self._method = convert_to_colmena_method(method)
        self.name: str = self._method.name
        resources.parse(specification)
        self._specification = {"category": self.name, **specification}
        self._run = PythonApp(_run, executors=executors)
        self._head = PythonApp(_head, executors=executors)

    def call(self, task: Result, own: str | None, held: Mapping[str, Any]) -> Future[Any]:
        """Submit a task. If ``own`` names its result, its future has a pair: the message, and the value to keep."""
        future: Future[Any] = self._run(
            self._method, task, own, list(held), *held.values(), parsl_resource_specification=self._specification
        )
        return future

    def head(self, outcome: Future[Any]) -> Future[Any]:
        """Return a future of the message of a task that keeps its value."""
        future: Future[Any] = self._head(outcome)
        return future


def _fetch(value: Any) -> Any:
    return value


_fetch.__name__ = FETCH


def _names_in(task: Result) -> list[str]:
    """Return the names of kept results among the arguments of a task. Other arguments are not deserialized."""
    args, kwargs = task.inputs
    names: list[str] = []
    for argument in [*args, *kwargs.values()]:
        if isinstance(argument, str) and len(argument) <= _LONGEST and any(mark in argument for mark in _MARKS):
            value = SerializationMethod.deserialize(task.serialization_method, argument)
            if type(value) is str and value.startswith(_PREFIX) and value not in names:
                names.append(value)
    return names


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


# --- on nodes ---


def _run(
    method: Any,
    task: Result,
    own: str | None,
    names: list[str],
    *outcomes: Any,
    parsl_resource_specification: Any = None,
) -> Any:
    """Run a task. ``outcomes`` are those of the tasks whose kept results it reads."""
    values = {name: outcome[1] for name, outcome in zip(names, outcomes, strict=True)}
    if own is None and not values:
        return method(task)
    made: list[Any] = []
    with_values = copy.copy(method)
    with_values.function = _reading(method.function, values, own, made)
    done = with_values(task)
    return done if own is None else (done, made[0] if made else None)


def _reading(function: Callable[..., Any], values: dict[str, Any], own: str | None, made: list[Any]) -> Any:
    """Wrap a method's function: it gets kept values for their names, and returns its own name for its value."""

    @functools.wraps(function)
    def read(*args: Any, **kwargs: Any) -> Any:
        found = function(*map(meant, args), **{name: meant(value) for name, value in kwargs.items()})
        if own is None:
            return found
        made.append(found)
        return own

    def meant(value: Any) -> Any:
        return values.get(value, value) if type(value) is str else value

    return read


def _head(outcome: tuple[Result, Any]) -> Result:
    return outcome[0]
