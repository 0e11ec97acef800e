"""Function calls on their way: TaskVine's tasks for the core's flights, and what they bring back."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import os
import pickle
import shlex
import shutil
import tarfile
from dataclasses import dataclass, field
from typing import Any

import taskvine_manager
from taskvine_manager.node import trees
from taskvine_manager.node.cache import deliver
from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine import parcels
from taskvine_manager.vine.manager.events import CACHED, Launch, Staged
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.manager.store import Buffer, Store, Version, remove
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import Completion

logger = logging.getLogger(__name__)

LIBRARY = "taskvine-exec"
"""Name of the supervisor as a library of TaskVine's."""
RESERVE = 4
"""Function slots of TaskVine's on each node beyond those of ours: for parcels that are no work."""
FORSAKEN = 1
"""Times that workers may give a task up that reads cached files before we look into it."""
UNANSWERED = {"library exit", "missing library", "forsaken", "cancelled", "input missing"}
"""Results of TaskVine's with which a supervisor's answer does not come."""


@dataclass(eq=False)
class Outbound:
    """What TaskVine was given for a flight: the task, the file of its answer, and what is let go with it.

    ``brought`` maps the paths that outputs are to have to those that TaskVine brings them to, ``added`` holds those of
    files that they are added to; ``reads`` names its temp files, ``versions`` are the user's files that it reads;
    ``seen`` is whether it has been sent to a worker, ``answered`` what has come of it last; ``kept`` and ``shared``
    are arguments, by their paths, and buffers of theirs that are let go with it.
    """

    task: Any = None
    out: Any = None
    seen: bool = False
    reads: tuple[str, ...] = ()
    answered: bytes = b""
    versions: list[Version] = field(default_factory=list)
    files: list[Any] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    shared: list[Buffer] = field(default_factory=list)
    brought: dict[str, str] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)


class Traffic:
    """All that TaskVine was given and has not been let go of.

    Parameters
    ----------
    base : str
        The run's private directory.
    vine : VinePort
        TaskVine.
    store : Store
        Declares the files that others read too.
    """

    def __init__(self, base: str, vine: VinePort, store: Store) -> None:
        self._base = base
        self._vine = vine
        self._store = store
        self._outbound: dict[int, Outbound] = {}
        self._flights: dict[int, int] = {}  # by TaskVine's task id

    def install(self, config: dict[str, Any], python: str, slots: int, *, ships: bool) -> None:
        """Install the supervisor as a library.

        TaskVine gives one up that has ended twice. Its successor has the same name, for that is what the tasks ask for
        that TaskVine may have to run again.

        Parameters
        ----------
        config : dict
            What the supervisors are told.
        python : str
            Interpreter for them, where it exists.
        slots : int
            Calls that a node is expected to run at once.
        ships : bool
            Whether a packed environment is to travel to the nodes. The directory of one is used where it is.
        """
        inputs = [
            (self._vine.buffer(runtime_archive(), cache=True), "runtime.tar"),
            (self._vine.buffer(pickle.dumps(config), cache=True), "config"),
        ]
        pack = config["env_pack"]
        if ships and pack is not None and os.path.isfile(pack):
            inputs.append((self._store.local(pack).file, parcels.PACK))
        command = (
            f"exec >library.out 2>&1 </dev/null; tar xf runtime.tar; p={shlex.quote(python)}; "
            f'[ -x "$p" ] || p=python3; '
            f'exec "$p" runtime/taskvine_manager/__main__.py supervise {LIBRARY} config'
        )
        self._vine.install(command, LIBRARY, slots + RESERVE, inputs)

    def launch(self, said: Launch) -> None:
        """Give TaskVine a function call.

        Raises
        ------
        OSError
            If a file on this machine is not there; nothing has been launched then.
        """
        outbound = self._outbound.setdefault(said.flight, Outbound())
        sizes: dict[str, int] = {}
        inputs = []
        for staged in said.inputs:
            file = self._input(staged, said.flight, outbound, sizes)
            if file is not None:
                inputs.append((file, staged.name))
        outputs = []
        for staged in said.outputs:
            if staged.kind == "temp":
                file = self._store.declare(staged.source)
            else:  # moved to its own name when it is whole
                path = os.path.join(self._base, "files", f"{said.flight}-{staged.name}")
                outbound.brought[staged.source] = path
                if staged.kind == "added":
                    outbound.added.add(staged.source)
                file = self._own(path, outbound)
            outputs.append((file, staged.name))
        command, data = parcels.pack(said.parcel._replace(sizes=sizes) if sizes else said.parcel)
        task = self._vine.task(command, LIBRARY)
        if data is not None:
            file = self._vine.buffer(data)
            outbound.files.append(file)
            task.add_input(file, parcels.IN)
        for file, name in inputs:
            task.add_input(file, name)
        for file, name in outputs:
            task.add_output(file, name, success_only=True)
        outbound.out = None
        if not said.parcel.brief:
            outbound.out = self._vine.buffer(None)
            outbound.files.append(outbound.out)
            task.add_output(outbound.out, parcels.OUT, failure_only=not said.outputs)
        if said.priority:
            task.set_priority(said.priority)
        if said.category:
            task.set_category(said.category)
        if said.running_time_min:
            task.set_time_min(math.ceil(said.running_time_min))  # whole seconds
        if not said.near:
            self._vine.spread(task)
        if any(staged.kind in CACHED for staged in said.inputs):
            # A worker whose cache has lost an input gives the task up, and TaskVine would send it there for ever.
            task.set_max_forsaken(FORSAKEN)
        self._vine.manager.submit(task)
        if said.feature is not None:
            # After it was submitted: the copy of it that TaskVine may run to make temp files again must not be tied to
            # a node that is gone then.
            task.add_feature(said.feature)
        outbound.task = task
        outbound.seen = False
        outbound.reads = tuple(staged.source for staged in said.inputs if staged.kind == "temp")
        self._flights[task.id] = said.flight

    def _input(self, staged: Staged, flight: int, outbound: Outbound, sizes: dict[str, int]) -> Any | None:
        """Make a file of TaskVine's of an input; None for one that does not travel."""
        kind, source, name = staged
        if kind == "temp":
            return self._store.temp(source)
        if kind == "local":
            version = self._store.local(source)
            outbound.versions.append(version)
            sizes[source] = version.size
            return version.file
        if kind == "shared":
            outbound.shared.append(self._store.share(source))
            return outbound.shared[-1].file
        if kind == "kept":  # it may be needed once more after the call has ended, and with it its own file
            is_path = os.path.isabs(name)
            kept = name if is_path else f"{source}-{flight}"
            outbound.kept.append(kept)
            with contextlib.suppress(FileNotFoundError):
                payload.link(source, kept)
            if is_path:
                return None
            source = kept
        return self._own(source, outbound)

    def _own(self, path: str, outbound: Outbound) -> Any:
        file = self._vine.local(path)
        outbound.files.append(file)
        return file

    def ended(self, task: Any) -> int | None:
        """Take a task that TaskVine has returned; its flight, None if it was aborted."""
        return self._flights.pop(task.id, None)

    def abort(self, flight: int) -> None:
        """Take a function call back."""
        task = self._outbound[flight].task
        if self._flights.pop(task.id, None) is not None:
            self._vine.manager.cancel_by_task_id(task.id)

    def release(self, flight: int) -> None:
        """Let the files of a function call go that has ended."""
        outbound = self._outbound.pop(flight, None)
        if outbound is not None:
            self._vine.undeclare(outbound.files)
            for path in outbound.kept:
                payload.discard(path)
            for buffer in outbound.shared:
                self._store.unshare(buffer)
            for version in outbound.versions:
                self._store.leave(version)

    def placed(self) -> dict[int, str]:
        """Addresses of workers that function calls have been sent to since this was last asked.

        They are to be remembered, for TaskVine forgets them when the worker goes.
        """
        found = {}
        for flight in self._flights.values():
            outbound = self._outbound[flight]
            if not outbound.seen and (address := outbound.task.addrport):
                outbound.seen = True
                found[flight] = str(address)
        return found

    @property
    def is_out(self) -> bool:
        """Whether anything is in TaskVine's hands."""
        return bool(self._flights)

    def answer(self, flight: int, task: Any) -> Answer | None:
        """A supervisor's answer; None if there is none."""
        if task.result in UNANSWERED:
            return None
        outbound = self._outbound[flight]
        try:
            outbound.answered = parcels.from_output(task.std_output) or outbound.out.contents()
            return Answer(*pickle.loads(outbound.answered))
        except Exception:  # it may have been cut anywhere, and unpickling that raises what it likes
            said = "task %d brought no answer: %s, exit code %d"
            logger.warning(said, task.id, task.result, task.exit_code, exc_info=True)
            return None

    def awaited(self) -> set[str]:
        """Temp files that function calls read which have not been sent to a worker yet."""
        outbound = (self._outbound[flight] for flight in self._flights.values())
        return {name for each in outbound if not each.seen for name in each.reads}

    def failed_again(self, flight: int) -> Payload | None:
        """The record of a function call that TaskVine has run once more and that failed since this was last asked.

        TaskVine keeps such a task to itself, but its answer is where that of the first was.
        """
        outbound = self._outbound.get(flight)
        if outbound is None or outbound.out is None:
            return None
        said = outbound.out.contents()
        if not said or said == outbound.answered:
            return None
        outbound.answered = said
        for item in Answer(*pickle.loads(said)).done:
            completion = Completion(*item)
            if completion.outcome != failure.RETURNED:
                return completion.body
        return None

    def bring_home(self, flight: int) -> bytes | None:
        """Give the files that have come their names; return the failure record if one cannot have it."""
        for target, path in self._outbound[flight].brought.items():
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                if target in self._outbound[flight].added:
                    with open(path, "rb") as come, open(target, "ab") as there:
                        shutil.copyfileobj(come, there)
                    os.unlink(path)
                else:
                    _move(path, target)
            except OSError as error:
                words = error.strerror or str(error)
                return failure.lost("output-missing", words, path=os.path.basename(target))
        return None

    def write_home(self, flight: int, files: dict[str, bytes]) -> None:
        """Write what a failed call has left, as far as that is possible: it may tell why."""
        for path, data in files.items():
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if data.startswith(trees.MAGIC):
                    archive = os.path.join(self._base, "files", f"{flight}-left")
                    with open(archive, "wb") as file:
                        file.write(data)
                    _move(archive, path)
                    continue
                with open(path, "ab" if path in self._outbound[flight].added else "wb") as file:
                    file.write(data)


def _move(path: str, target: str) -> None:
    """Move a file, or lay out an archive, where the user wants it."""
    try:
        if trees.is_packed(path):
            deliver(path, target)
        elif os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, "it is a directory, and the task made a file", target)
        else:
            shutil.move(path, target)
    finally:
        remove([path])


def runtime_archive() -> bytes:
    """What a node needs of this package, as a tarball: it is run from there, by whatever Python the node has."""
    root = os.path.dirname(os.path.abspath(taskvine_manager.__file__))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(root, "runtime/taskvine_manager", filter=_needed)
    return made.getvalue()


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "/tests" in member.name or member.name.endswith((".orig", ".rej")):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
