"""From an app call to messages for the manager.

Any thread may submit. The function cache has its own lock. The profile lock makes sure that a function's profile is
sent once, and before the first task that uses it.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from parsl.executors.errors import InvalidResourceSpecification

from taskvine_exec.config import EngineSettings, LibrarySettings
from taskvine_exec.errors import ArgumentNotSerializable, DiskFull, FileLost, is_interruption
from taskvine_exec.link import ManagerLink
from taskvine_exec.parsl_hooks import containers, frames
from taskvine_exec.parsl_hooks.files import staging as staging_files
from taskvine_exec.parsl_hooks.resolver import DAG_RESOLVER
from taskvine_exec.results.failures import dependency_error
from taskvine_exec.results.futures import TaskFuture
from taskvine_exec.results.pending import PendingTasks, set_exception
from taskvine_exec.session import Session
from taskvine_exec.submission import resources
from taskvine_exec.submission.buffers import Buffers
from taskvine_exec.submission.files import FilePlan, FileRules, NestedFiles, has_files
from taskvine_exec.submission.functions import FunctionCache, FunctionReference, encode_arguments, encode_scalars
from taskvine_exec.submission.remote import RemoteInputs
from taskvine_exec.submission.resources import ResourceSpecification
from taskvine_exec.submission.temp_files import Outcome
from taskvine_exec.values import Edge, Value, collect
from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.search_path import SearchPath
from taskvine_manager.wire.messages import FEW_TASKS, L1, L2, FileUse, Invocation, Library, Profile

if TYPE_CHECKING:
    from taskvine_exec.results.proxies import References


class Prepared(NamedTuple):
    """A function with its profile. It stays usable as long as this object keeps the function's reference."""

    function: FunctionReference
    name: str
    profile: int
    is_chunk: bool


@dataclass(eq=False, repr=False)
class Submitter:
    """Submits the tasks of one run.

    Parameters
    ----------
    session : Session
        The executor's session with the manager.
    link : ManagerLink
        The link of the session.
    tasks : PendingTasks
        Receives the submitted tasks.
    settings : EngineSettings
        The executor's settings.
    spool : str
        Directory for values that are too large for a message.
    path : SearchPath
        Where nodes import modules from.
    files : FileRules
        Where tasks find files.
    references : References or None
        The executor's proxies, if results are references.
    under_dfk : bool
        Whether a DataFlowKernel submits tasks.
    """

    session: Session
    link: ManagerLink
    tasks: PendingTasks
    settings: EngineSettings
    spool: str
    path: SearchPath
    files: FileRules
    references: References | None
    under_dfk: bool

    def __post_init__(self) -> None:
        self.functions = FunctionCache(self.spool, self.path, partial(_retire, weakref.ref(self.session)))
        """The serialized functions."""
        self.buffers = Buffers()
        """The large arguments that are stored."""
        self._futures = self.tasks.futures
        self._limit = self.settings.inline_limit
        self._may_keep = self.under_dfk
        self._numbers, self._profile_numbers = itertools.count(), itertools.count()
        self._profile_lock = threading.Lock()
        self._remote = RemoteInputs(self.files.temp_files, self._run_own, self.spool)
        self.files = replace(self.files, remote=self._remote)

    def submit(
        self, func: Callable[..., Any], specification: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TaskFuture:
        """Submit one call; return its future. If this raises an exception, no task was submitted."""
        return self.call(self.prepare(func, specification), args, kwargs)

    def prepare(
        self, func: Callable[..., Any], specification: Mapping[str, Any] | None, *, is_chunk: bool = False
    ) -> Prepared:
        """Prepare calls of a function as it is now, with the same resources.

        The results of chunks always come home, and a chunk that has begun is not interrupted when it is cancelled.
        """
        asked = resources.parse(specification)
        function = self.functions.reference(func)
        name = getattr(func, "__name__", function.name)
        if type(name) is not str:
            name = function.name
        profile = function.profiles.get((asked, name))
        if profile is None:
            profile = self._new_profile(function, asked, name, is_chunk)
        return Prepared(function, name, profile, is_chunk)

    def call(self, prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskFuture:
        """Submit one call of a prepared function, as :meth:`submit` does."""
        _, name, profile, is_chunk = prepared
        number = next(self._numbers)
        future = TaskFuture(number, time.time())
        plan = self._plan_files(args, kwargs, future) if has_files(args, kwargs) else None
        if plan is not None:
            args, kwargs = plan.args, plan.kwargs
        values: Sequence[Value] = ()
        edges: Sequence[Edge] = ()
        written = self.buffers.written
        arguments: payload.Payload | None = encode_scalars(args, kwargs, self._limit)
        if arguments is None:
            arguments, values, edges, plan = self._encode(args, kwargs, plan, future, name)
            future.needs = values
        if is_chunk:
            own = len(arguments) if isinstance(arguments, bytes) else os.path.getsize(arguments)
            future.argument_bytes = own + self.buffers.written - written
        self._futures[number] = future
        try:
            record = None if is_chunk else self._record()
            keeps = not is_chunk and self._keeps_result(record)
            if plan is None and not values and not keeps:
                self.link.submit(Invocation(number, profile, arguments), at_once=len(self._futures) <= FEW_TASKS)
            else:
                self._send(future, Invocation(number, profile, arguments), record, plan, values, edges, keeps=keeps)
        except BaseException as error:  # such as Ctrl-C: the caller gets no future
            self._futures.pop(number, None)
            set_exception(future, error)
            raise
        return future

    def _run_own(
        self, function: Callable[..., Any], args: tuple[Any, ...], inputs: tuple[FileUse, ...], output: FileUse
    ) -> TaskFuture:
        """Submit a task of the executor's own, which makes a temp file."""
        prepared = self.prepare(function, {"category": "remote-files"})
        number = next(self._numbers)
        future = TaskFuture(number, time.time())
        self._futures[number] = future
        invocation = Invocation(number, prepared.profile, pickle.dumps((args, {}), 5), inputs, (output,))
        try:
            self.link.submit(invocation, at_once=len(self._futures) <= FEW_TASKS)
        except BaseException as error:
            self._futures.pop(number, None)
            set_exception(future, error)
            raise
        self._follow_producers(number, number, inputs)
        return future

    # --- functions ---

    def _new_profile(
        self, function: FunctionReference, asked: ResourceSpecification, name: str, uninterrupted: bool
    ) -> int:
        with self._profile_lock:
            known = function.profiles.get((asked, name))
            if known is not None:
                return known
            number = next(self._profile_numbers)
            settings = self.settings
            mode = asked.mode or (settings.function_exec_mode if asked.library is None else L2)
            library = None if asked.library is None else self._library(asked.library, asked)
            if library is None:
                shares = (settings.library_cores, settings.library_memory, settings.library_disk, settings.slots)
            else:
                shares = (library.cores, library.memory, library.disk, library.slots)
            cores, memory, disk, slots = (None if mode == L1 else share for share in shares)
            shown = name.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be sent
            category = asked.category or (shown if settings.autocategory else "parsl-default")
            profile = Profile(
                number,
                function.key,
                shown,
                mode,
                _share(asked.cores, cores, slots),
                _share(asked.memory, memory, slots),
                _share(asked.disk, disk, slots),
                asked.gpus,
                asked.priority,
                category,
                asked.recoverable,
                asked.running_time_min,
                uninterrupted,
                None if library is None else Library(str(asked.library), library.slots, library.memory, library.gpus),
            )
            # The manager keeps the function until _retire says that no more tasks will call it.
            functions = [] if function.profiles else [(function.key, function.encoded)]
            function.encoded = b""
            self.link.define(functions, [profile])
            function.profiles[asked, name] = number
            return number

    def _library(self, name: str, asked: ResourceSpecification) -> LibrarySettings:
        """Return the settings of the library that a call names.

        Raises
        ------
        InvalidResourceSpecification
            If there is no such library, or if the call asks for what the library cannot give it.
        """
        libraries = self.settings.libraries
        library = libraries.get(name)
        if library is None:
            known = resources.did_you_mean(name, libraries) if libraries else "the executor has no libraries={...}."
            raise InvalidResourceSpecification({"library"}, f"Unknown library {name!r}: {known}")
        if library.gpus and asked.gpus is not None:
            reason = f"gpus: the library {name!r} shares out its own {library.gpus} gpus. Leave gpus out."
            raise InvalidResourceSpecification({"gpus"}, reason)
        if library.memory is not None and (asked.memory or 0.0) > library.memory:
            reason = f"memory={asked.memory:g}: the library {name!r} has only {library.memory:g} MB."
            raise InvalidResourceSpecification({"memory"}, reason)
        return library

    # --- arguments and files ---

    def _encode(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], plan: FilePlan | None, future: TaskFuture, name: str
    ) -> tuple[payload.Payload, list[Value], list[Edge], FilePlan | None]:
        """Encode the arguments of a call, and collect the results of other calls and the files in them.

        Raises
        ------
        ArgumentNotSerializable, DiskFull
            If the arguments cannot be pickled or stored. ``future`` fails with the same error, for tasks that wait for
            its outputs.
        """
        nested = NestedFiles(plan, partial(self._plan_files, (), {}, future))
        encode = encode_arguments if self.references is None else self.references.encode
        number, spool, limit = future.parsl_executor_task_id, self.spool, self._limit
        try:
            arguments, values, edges = staging_files(nested, collect, encode, args, kwargs, spool, limit, self.buffers)
        except BaseException as error:  # the arguments' own methods run here, and may raise anything
            if nested.error is not None:
                set_exception(future, nested.error)
                raise nested.error from None
            refusal: DiskFull | ArgumentNotSerializable
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                reason = f"the arguments of {name} cannot be stored: {error.strerror}"
                refusal = DiskFull(task_id=number, reason=reason, path=error.filename or spool)
            else:
                reason = _unresolved(args, kwargs) or failure.describe(error)
                refusal = ArgumentNotSerializable(task_id=number, reason=reason, subject=name)
            set_exception(future, refusal)
            if is_interruption(error):
                raise
            raise refusal from error
        return arguments, values, edges, nested.plan

    def _plan_files(self, args: tuple[Any, ...], kwargs: dict[str, Any], future: TaskFuture) -> FilePlan:
        number = future.parsl_executor_task_id
        try:
            return FilePlan(args, kwargs, self.files, task=f"t{number}", producer=future)
        except BaseException as error:
            refusal = error
            if not is_interruption(error) and not isinstance(error, Exception):
                reason = f"its files cannot be examined: {failure.describe(error)}"
                refusal = ArgumentNotSerializable(task_id=number, reason=reason)
            set_exception(future, refusal)  # for tasks that wait for its outputs
            if refusal is error:
                raise
            raise refusal from error

    # --- edges of the graph ---

    def _record(self) -> dict[str, Any] | None:
        """Return the DFK's record of the task that is being submitted, unless no results are kept."""
        record = frames.launched() if self._may_keep else None
        if record is not None and self.references is None and record["dfk"].dependency_resolver is not DAG_RESOLVER:
            self._may_keep = False  # nor will later tasks: their DFK is the same
        return record

    def _keeps_result(self, record: dict[str, Any] | None) -> bool:
        """Tell whether the result of a task is kept for other tasks to read."""
        if record is None:
            return self.references is not None
        if record["memoize"] or record["join"]:
            return False
        return self.references is not None or record["dfk"].dependency_resolver is DAG_RESOLVER

    def _send(
        self,
        future: TaskFuture,
        invocation: Invocation,
        record: dict[str, Any] | None,
        plan: FilePlan | None,
        values: Sequence[Value],
        edges: Sequence[Edge],
        *,
        keeps: bool,
    ) -> None:
        """Send a call that has files, reads results of other tasks, or keeps its result on nodes."""
        if record is None and self.under_dfk:
            record = frames.launched()
        number = invocation.number
        inputs = [*(plan.inputs if plan else ()), *(FileUse("value", "", value.number) for value in values)]
        outputs = [*(plan.outputs if plan else ())]
        if keeps:
            value = Value.unattended(number) if record is None else Value.of(record["app_fu"])
            future.value = value
            outputs.append(FileUse("value", "", value.number))
        invocation = invocation._replace(inputs=tuple(inputs), outputs=tuple(outputs))
        self.link.submit(invocation, at_once=len(self._futures) <= FEW_TASKS)
        consumer = number if record is None else record["id"]
        if plan is not None:
            self._follow_producers(number, consumer, plan.inputs)
        if record is not None and edges:
            record["app_fu"].add_done_callback(partial(_let_go, edges))
        for value in values:
            value.when_settled(partial(self._value_settled, number, consumer))

    def _follow_producers(self, number: int, consumer: int, inputs: Sequence[FileUse]) -> None:
        """Fail a task if a task that makes its input fails for good. An edge names a future, not one attempt."""
        for use in inputs:
            if use.kind == "temp" and use.source not in self.files.temp_files.made:
                producer = self.files.temp_files.producer(use.source)
                producer.add_done_callback(partial(self._producer_done, use.source, number, consumer))

    def _value_settled(self, number: int, consumer: int, value: Value) -> None:
        if value.error is not None:
            self.tasks.fail(number, dependency_error(value.error, value.producer, consumer))

    def _producer_done(self, version: str, number: int, consumer: int, producer: Future[Any]) -> None:
        over = Outcome(producer)
        if (error := over.exception()) is not None:
            remote = self._remote.error(version, number, error)
            self.tasks.fail(number, remote or dependency_error(error, over.tid, consumer))
        elif version not in self.files.temp_files.made:
            reason = f"the task that should make {version} has ended without it (its result may be memoized)"
            self.tasks.fail(number, FileLost(task_id=number, reason=reason, name=version))


def _share(asked: float | None, library: float | None, slots: float | None) -> float | None:
    """Return a call's amount of a resource: its request, or a slot's share of the library."""
    return asked if asked is not None or library is None else library / (slots or 1)


def _unresolved(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Say where in the arguments of a task a future was left, or return an empty string."""
    named = [(f"args[{number}]", value) for number, value in enumerate(args)]
    for name, value in [*named, *kwargs.items()]:
        if (place := containers.where(name, value)) is not None:
            return (
                f"{place} is a future that was not replaced by its result. Pass futures as arguments or as items of "
                "inputs. With dependency_resolver=DAG_RESOLVER they may also be in lists, tuples, sets, dicts and "
                "dataclasses, but not in other objects"
            )
    return ""


def _let_go(edges: Sequence[Edge], consumer: Future[Any]) -> None:
    """Drop a finished task's references to the results that it read: its record may live long."""
    for edge in edges:
        edge.let_go()


def _retire(reference: weakref.ref[Session], profiles: list[int], size: int) -> None:
    """Tell the manager that no more tasks will call a function. Called during garbage collections, in any thread."""
    session = reference()
    if session is not None:
        session.retire(profiles, size)
