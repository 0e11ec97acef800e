"""Results that stay readable after their executor has ended.

A result on nodes is a file in a directory that is removed with the run. Before that, the file of each result whose
future is still in use is mapped. The bytes stay in memory or on disk, without a file name, until the future is dropped
or the process ends. Results that are not on this machine, or were lost, are first transferred to the user's process.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil

from taskvine_exec.errors import FileLost, FileUnreadable
from taskvine_exec.results.futures import unreadable
from taskvine_exec.values import Value, Where
from taskvine_manager.node.replicas import Source, check
from taskvine_manager.runtime import mapping, payload

logger = logging.getLogger(__name__)

TRIES = 10
"""How often to ask the manager for a file that cannot be read where it was said to be."""
AT_ONCE = 16
"""Most results being transferred at the same time."""


def read(where: Where, value: Value, *, mapped_from: int = mapping.MAPPED_FROM) -> payload.Frames | None:
    """Read or map the file of a result; None if that file is lost.

    Raises
    ------
    FileUnreadable
        If the file exists but cannot be read.
    """
    try:
        check(Source(*where[1:]))
        return payload.read(where.path, mapped_from)
    except (OSError, payload.Damaged) as error:
        if payload.is_lost(error):
            return None
        reason = f"{error}. The file is kept: ask for the result again when the cause is gone"
        raise FileUnreadable(task_id=value.producer, reason=reason, name=value.number) from error


def load(frames: payload.Frames, value: Value) -> Any:
    """Decode a result.

    Raises
    ------
    ResultNotSerializable
        If its classes raise an exception.
    """
    try:
        return frames.load()
    except Exception as error:
        raise unreadable(value.producer, error) from error


@dataclass(eq=False)
class Keeper:
    """Keeps results readable without their executor.

    Parameters
    ----------
    locate : callable
        Asks the manager for a result. Its arguments are the result's number, the replica that was last known (or None),
        and the seconds left. It returns a future of the answer.
    understand : callable
        Turns an answer into the encoded result or its replica; raises the error that the manager reports.
    seconds : float
        Time limit for results that are not on this machine, or were lost.
    """

    locate: Callable[[str, Where | None, float], Future[Any]]
    understand: Callable[[Any], bytes | Where]
    seconds: float

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.seconds
        # Bytes for results that cannot be mapped, because the number of mappings is limited.
        self._room = psutil.virtual_memory().available / 2

    def keep(self, values: Iterable[Value]) -> None:
        """Give each value another loader. If a result cannot be kept, its loader raises the reason."""
        ordered = sorted(values, key=lambda value: 0 if value.where is None else -value.where.size)
        away = deque(value for value in ordered if not self._keep_here(value, value.where))
        if away:
            logger.info("fetching %d results that are not on this machine, or were lost", len(away))
            self._fetch(away)

    def _keep_here(self, value: Value, where: Where | None) -> bool:
        """Map or read a result; return False if it is not there."""
        if where is None:
            return False
        try:
            if mapping.count() >= mapping.MOST_MAPPED:
                self._room -= where.size
                if self._room < 0:
                    raise MemoryError("too little memory is left")
            found = read(where, value, mapped_from=1)
        except Exception as error:
            reason = f"{error.__cause__ or error}; it could not be kept when the executor ended"
            value.lose(FileUnreadable(task_id=value.producer, reason=reason, name=value.number))
            return True
        if found is None:
            return False
        value.stays(partial(_load, found))
        return True

    def _fetch(self, away: deque[Value]) -> None:
        asked: dict[Future[Any], Value] = {}
        tries: Counter[str] = Counter()
        while away or asked:
            while away and len(asked) < AT_ONCE and self._left:
                value = away.popleft()
                asked[self.locate(value.number, value.where, self._left)] = value
            done, _ = wait(asked, self._left, FIRST_COMPLETED)
            if not done:
                break
            for answer in done:
                value = asked.pop(answer)
                tries[value.number] += 1
                if not self._arrived(value, answer):  # it was moved or replaced meanwhile, so ask again
                    if tries[value.number] < TRIES:
                        away.append(value)
                    else:
                        _give_up(value, "the executor ended, and the result could not be read where it was said to be")
        for value in [*asked.values(), *away]:
            _give_up(value, "the executor ended, and the result did not come home in time")

    @property
    def _left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def _arrived(self, value: Value, answer: Future[Any]) -> bool:
        """Keep a result that the manager has found; return False if it is not there."""
        try:
            where = self.understand(answer.result())
        except ConnectionError:
            _give_up(value, "the executor ended, and its manager had gone before the result came home")
            return True
        except Exception as error:
            value.lose(error)
            return True
        if isinstance(where, bytes):
            value.stays(partial(_load, payload.Frames(where)))
            return True
        value.where = where
        return self._keep_here(value, where)


def _load(frames: payload.Frames, value: Value, timeout: float | None) -> Any:
    loaded = load(frames, value)
    value.stays(partial(_loaded, loaded))  # frees the encoded bytes
    return loaded


def _loaded(loaded: Any, value: Value, timeout: float | None) -> Any:
    return loaded


def _give_up(value: Value, reason: str) -> None:
    value.lose(FileLost(task_id=value.producer, reason=reason, name=value.number))
