"""Function calls in TaskVine: the tasks that TaskVine is given for the core's parcels, and their results."""

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
from taskvine_manager.node.config import NodeConfig
from taskvine_manager.node.copying import deliver
from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine import parcels
from taskvine_manager.vine.manager.direct import DirectLinks
from taskvine_manager.vine.manager.events import CACHED, Launch, Staged
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.manager.store import Buffer, Store, Version, remove
from taskvine_manager.vine.parcels import Answer
from taskvine_manager.wire.messages import Completion

logger = logging.getLogger(__name__)

LIBRARY = "taskvine-exec"
"""Name of the supervisor as a TaskVine library."""
RESERVE = 4
"""TaskVine's function slots on each node beyond ours, for parcels that run no user task."""
FORSAKEN = 1
"""Times that workers may give up a task with cached inputs before the engine examines the inputs."""
UNANSWERED = {"library exit", "missing library", "forsaken", "cancelled", "input missing"}
"""TaskVine results that come without a supervisor's answer."""


@dataclass(eq=False)
class Outbound:
    """A parcel on its way: its TaskVine task, the file of its answer, and the resources to release with it.

    ``task`` is None for a parcel that travels over a direct connection.
    ``brought`` maps the final paths of outputs to the paths that TaskVine brings them to, and ``added`` holds those
    final paths to which outputs are appended. ``reads`` names the temp files that it reads, and ``versions`` are the
    user's files that it reads. ``seen`` is whether it has been sent to a worker, and ``answered`` its last answer.
    ``kept`` (paths of arguments) and ``shared`` (their buffers) are released with it.
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
    """All parcels that were sent and are not released yet.

    Parameters
    ----------
    base : str
        The run's private directory.
    vine : VinePort
        TaskVine.
    store : Store
        Declares files that several calls read.
    direct : DirectLinks
        The direct connections of nodes.
    """

    def __init__(self, base: str, vine: VinePort, store: Store, direct: DirectLinks) -> None:
        self._base = base
        self._vine = vine
        self._store = store
        self._direct = direct
        self._outbound: dict[int, Outbound] = {}
        self._parcels: dict[int, int] = {}  # by TaskVine's task id

    def install(self, config: NodeConfig, python: str, slots: int, *, ships: bool) -> None:
        """Install the supervisor as a library.

        TaskVine gives up a library that has ended twice. The next one has the same name, which is required by tasks
        that TaskVine may have to run again.

        Parameters
        ----------
        config : NodeConfig
            Configuration of the supervisors.
        python : str
            Interpreter for them, if it exists on their node.
        slots : int
            Tasks that a node is expected to run at once.
        ships : bool
            Whether a packed environment is sent to the nodes. An environment that is a directory is never sent.
        """
        inputs = [
            (self._vine.manager.declare_buffer(runtime_archive(), cache=True), "runtime.tar"),
            (self._vine.manager.declare_buffer(pickle.dumps(config), cache=True), "config"),
        ]
        pack = config.env_pack
        if ships and pack is not None and os.path.isfile(pack):
            inputs.append((self._store.local(pack).file, parcels.PACK))
        command = (
            f"exec >library.out 2>&1 </dev/null; tar xf runtime.tar; p={shlex.quote(python)}; "
            f'[ -x "$p" ] || p=python3; '
            f'exec "$p" runtime/taskvine_manager/__main__.py supervise {LIBRARY} config'
        )
        self._vine.install(command, LIBRARY, slots + RESERVE, inputs)

    def launch(self, said: Launch) -> bool:
        """Send a parcel to its node directly, or give TaskVine a function call.

        Returns
        -------
        bool
            Whether it was sent directly.

        Raises
        ------
        OSError
            If a file on this machine is missing; nothing has been launched then.
        """
        parcel = said.parcel
        outbound = self._outbound.setdefault(parcel.number, Outbound())
        if self._direct.takes(said):
            self._direct.send(str(said.feature), parcel)
            return True
        sizes: dict[str, int] = {}
        inputs = []
        for staged in said.inputs:
            file = self._input(staged, parcel.number, outbound, sizes)
            if file is not None:
                inputs.append((file, staged.name))
        outputs = []
        for staged in said.outputs:
            if staged.kind == "temp":
                file = self._store.declare(staged.source)
            else:  # moved to its own path when it is whole
                path = os.path.join(self._base, "files", f"{parcel.number}-{staged.name}")
                outbound.brought[staged.source] = path
                if staged.kind == "added":
                    outbound.added.add(staged.source)
                file = self._own(path, outbound)
            outputs.append((file, staged.name))
        command, data = parcels.pack(parcel._replace(sizes=sizes) if sizes else parcel)
        task = self._vine.task(command, LIBRARY)
        if data is not None:
            file = self._vine.manager.declare_buffer(data, cache=False)
            outbound.files.append(file)
            task.add_input(file, parcels.IN)
        for file, name in inputs:
            task.add_input(file, name)
        for file, name in outputs:
            task.add_output(file, name, success_only=True)
        outbound.out = None
        if not parcel.brief:
            outbound.out = self._vine.manager.declare_buffer(None, cache=False)
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
            # A worker that has lost a cached input gives the task up, and TaskVine would send it there for ever.
            task.set_max_forsaken(FORSAKEN)
        self._vine.manager.submit(task)
        if said.feature is not None:
            # Only after the submission: TaskVine may run its copy of the task to recreate temp files. That copy must
            # not be tied to a node that may have left by then.
            task.add_feature(said.feature)
        outbound.task = task
        outbound.seen = False
        outbound.reads = tuple(staged.source for staged in said.inputs if staged.kind == "temp")
        self._parcels[task.id] = parcel.number
        return False

    def _input(self, staged: Staged, parcel: int, outbound: Outbound, sizes: dict[str, int]) -> Any | None:
        """Declare an input to TaskVine; return None if it is not sent."""
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
        if kind == "kept":  # a link: the task may run again when its own file is gone
            is_path = os.path.isabs(name)
            kept = name if is_path else f"{source}-{parcel}"
            outbound.kept.append(kept)
            with contextlib.suppress(FileNotFoundError):
                payload.link(source, kept)
            if is_path:
                return None
            source = kept
        return self._own(source, outbound)

    def _own(self, path: str, outbound: Outbound) -> Any:
        file = self._vine.manager.declare_file(path, cache=False)
        outbound.files.append(file)
        return file

    def ended(self, task: Any) -> int | None:
        """Take a task that TaskVine has returned; return the number of its parcel, or None if it was aborted."""
        return self._parcels.pop(task.id, None)

    def abort(self, parcel: int) -> None:
        """Take a parcel back."""
        self._direct.withdraw(parcel)
        task = self._outbound[parcel].task
        if task is not None and self._parcels.pop(task.id, None) is not None:
            self._vine.manager.cancel_by_task_id(task.id)

    def release(self, parcel: int) -> None:
        """Release the files of a function call that has ended."""
        outbound = self._outbound.pop(parcel, None)
        if outbound is not None:
            self._vine.undeclare(outbound.files)
            for path in outbound.kept:
                payload.discard(path)
            for buffer in outbound.shared:
                self._store.unshare(buffer)
            for version in outbound.versions:
                self._store.leave(version)

    def placed(self) -> dict[int, str]:
        """Return the workers' addresses of function calls sent since the last call of this method.

        The caller must keep them, because TaskVine forgets them when the worker is lost.
        """
        found = {}
        for parcel in self._parcels.values():
            outbound = self._outbound[parcel]
            if not outbound.seen and (address := outbound.task.addrport):
                outbound.seen = True
                found[parcel] = str(address)
        return found

    @property
    def is_out(self) -> bool:
        """Whether TaskVine has any function call."""
        return bool(self._parcels)

    def answer(self, parcel: int, task: Any) -> Answer | None:
        """Return the supervisor's answer; None if there is none."""
        if task.result in UNANSWERED:
            return None
        outbound = self._outbound[parcel]
        try:
            outbound.answered = parcels.from_output(task.std_output) or outbound.out.contents()
            return Answer(*pickle.loads(outbound.answered))
        except Exception:  # cut anywhere, it may raise anything
            said = "task %d returned no answer: %s, exit code %d"
            logger.warning(said, task.id, task.result, task.exit_code, exc_info=True)
            return None

    def awaited(self) -> set[str]:
        """Return the temp files that unsent function calls read."""
        outbound = (self._outbound[parcel] for parcel in self._parcels.values())
        return {name for each in outbound if not each.seen for name in each.reads}

    def failed_again(self, parcel: int) -> Payload | None:
        """Return the failure record of a function call that TaskVine has run again and that failed since the last look.

        TaskVine does not return such a task, but its answer replaces the first one.
        """
        outbound = self._outbound.get(parcel)
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

    def bring_home(self, parcel: int) -> bytes | None:
        """Move the outputs that have arrived to their final paths; return the failure record if that fails."""
        for target, path in self._outbound[parcel].brought.items():
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                if target in self._outbound[parcel].added:
                    with open(path, "rb") as come, open(target, "ab") as there:
                        shutil.copyfileobj(come, there)
                    os.unlink(path)
                else:
                    _move(path, target)
            except OSError as error:
                words = error.strerror or str(error)
                return failure.lost("output-missing", words, path=os.path.basename(target))
        return None

    def write_home(self, parcel: int, files: dict[str, bytes]) -> None:
        """Write what a failed task left in the user's files, as far as possible: it may show the cause."""
        for path, data in files.items():
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if data.startswith(trees.MAGIC):
                    archive = os.path.join(self._base, "files", f"{parcel}-left")
                    with open(archive, "wb") as file:
                        file.write(data)
                    _move(archive, path)
                    continue
                with open(path, "ab" if path in self._outbound[parcel].added else "wb") as file:
                    file.write(data)


def _move(path: str, target: str) -> None:
    """Move a file to its path, or unpack an archive there."""
    try:
        if trees.is_packed(path):
            deliver(path, target)
        elif os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, "it is a directory, but the task created a file", target)
        else:
            shutil.move(path, target)
    finally:
        remove(path)


def runtime_archive() -> bytes:
    """Return a tarball of this package, from which nodes run it with their own Python."""
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
