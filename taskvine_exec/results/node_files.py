"""Files on nodes, read in the user's process: results that stay there, and temp files.

The link's thread registers results as they arrive. Any thread may load a result or copy a temp file. The thread that
shuts the executor down makes unread results readable without the manager; threads that want to read one at that time
wait for this.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import weakref
from concurrent.futures import Future
from functools import partial
from typing import Any

from taskvine_exec.errors import ExecutorShutDown, FileLost, from_record
from taskvine_exec.link import ManagerLink
from taskvine_exec.results import keeping
from taskvine_exec.session import Session
from taskvine_exec.values import Place, Value, Where
from taskvine_manager.node.copying import deliver
from taskvine_manager.node.replicas import Source, check, is_lost
from taskvine_manager.runtime import payload
from taskvine_manager.vine import seals

logger = logging.getLogger(__name__)

_HOME_SECONDS = 60.0
"""Time limit at shutdown for bringing home results that are on other machines or were lost."""


class NodeFiles:
    """Results and temp files on the nodes of one executor.

    Parameters
    ----------
    label : str
        Label of the executor.
    session : Session
        Its session with the manager, which knows where files are.
    sealed : bool
        Whether temp files end with a seal, as on TaskVine.
    """

    def __init__(self, label: str, session: Session, *, sealed: bool) -> None:
        self._label = label
        self._session = session
        self._sealed = sealed
        self._values: weakref.WeakValueDictionary[str, Value] = weakref.WeakValueDictionary()
        self._are_kept = threading.Event()

    def arrived(self, value: Value) -> None:
        """Register a result on a node. It is kept readable if the run ends, even if a callback ends it."""
        self._values[value.number] = value

    def hold(self, value: Value) -> None:
        """Have nodes keep a result until nobody refers to it."""
        value.when_gone(partial(_forget, weakref.ref(self._session)))

    def load(self, value: Value, timeout: float | None) -> Any:
        """Load a result from a node. A lost result is recreated."""
        until = None if timeout is None else time.monotonic() + timeout
        for _ in range(keeping.TRIES):
            where = value.where
            if where is None:  # Value.load tries again with the new loader
                raise ExecutorShutDown(label=self._label)
            found = keeping.read(where, value)
            if found is None:
                answer = self._locate(value.number, where, until)
                if isinstance(answer, Where):
                    value.where = answer
                    continue
                found = payload.Frames(answer)
            return keeping.load(found, value)
        raise FileLost(task_id=value.producer, reason="none of its replicas could be read", name=value.number)

    def copy(self, version: str, path: str | os.PathLike[str], until: float | None) -> str:
        """Copy a temp file to a local path by the given time of the monotonic clock; return the absolute path.

        Raises
        ------
        FileLost
            If no replica is left and the file cannot be recreated.
        """
        target = os.path.abspath(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        spoiled = None
        for _ in range(keeping.TRIES):
            where = self._locate(version, spoiled, until)
            assert isinstance(where, Where)  # only results are sent inside messages
            try:
                check(Source(*where[1:]))
                deliver(where.path, target, seals.check(where.path) if self._sealed else None)
            except OSError as error:
                if not isinstance(error, seals.Cut) and not is_lost(error, where.path):
                    raise
                spoiled = where  # its node has just left, or the file was written to: try another replica
                continue
            return target
        raise FileLost(task_id=None, reason="none of its replicas could be read", name=version)

    def _locate(self, file: str, spoiled: Where | None, until: float | None) -> Where | bytes:
        """Ask the manager where a file is, and report the replica that could not be read.

        Raises
        ------
        FileLost
            If no replica is left and the file cannot be recreated.
        ExecutorShutDown
            If the executor has ended. All unread results have then been given another way to be loaded.
        """
        timeout = None if until is None else max(0.0, until - time.monotonic())
        if self._session.is_over:
            self._are_kept.wait(timeout)
        link = self._session.link()
        if spoiled is not None:
            link.say("spoiled", spoiled.node, file, spoiled.stamp)
        return _understood(self._session.ask("locate", file, timeout=timeout))

    def keep(self, link: ManagerLink) -> None:
        """Keep results that are not read yet readable without the manager and its nodes."""

        def locate(file: str, spoiled: Where | None, seconds: float) -> Future[Any]:
            if spoiled is not None:
                link.say("spoiled", spoiled.node, file, spoiled.stamp)
            return link.ask("locate", file, timeout=seconds)

        def unread() -> list[Value]:
            values = list(self._values.values())
            return [value for value in values if value.place is Place.NODES and not value.is_read]

        try:
            if unread():
                gc.collect()  # drop those that only reference cycles hold
                keeping.Keeper(locate, _understood, _HOME_SECONDS).keep(unread())
        except Exception:
            logger.exception("executor %s: unread results cannot be kept after shutdown", self._label)
        finally:
            self._are_kept.set()


def _understood(answer: Any) -> Where | bytes:
    """Return the place of a file, or a small result itself, from the manager's answer; raise an error it reports."""
    if isinstance(answer, bytes):
        return answer
    if len(answer) == 1:
        record = payload.decode(answer[0])
        raise from_record(record.pop("kind"), None, {key: item for key, item in record.items() if item is not None})
    return Where(*answer)


def _forget(reference: weakref.ref[Session], number: str) -> None:
    """Have nodes drop a result. Called during garbage collections too, in any thread."""
    session = reference()
    if session is not None:
        session.say("forget", [number])
