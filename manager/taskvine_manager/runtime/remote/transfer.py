"""One remote file: fetched or written, checked, and tried again if the failure may pass."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.remote.addresses import shown, without_checksum, without_password
from taskvine_manager.runtime.remote.problems import Problem, Version
from taskvine_manager.runtime.removal import remove

_T = TypeVar("_T")
ATTEMPTS = 4
"""Attempts to fetch or write a file, as long as the failure may pass."""
_FIRST_WAIT = 0.5
"""Seconds before the second attempt. Each later wait is twice as long."""
_LONGEST_WAIT = 30.0
_BLOCK = 1 << 20


def get(url: str, target: str) -> Version:
    """Fetch a remote file, or a directory if the URL names one; return what is known of its version.

    Raises
    ------
    failure.Lost
        With a record of kind ``remote-input`` or ``disk-full``.
    """
    address, algorithm, digest = without_checksum(url)

    def attempt() -> Version:
        remove(target)  # what an earlier attempt has left
        version = _fetch(address, target)
        if algorithm and (found := _digest(target, algorithm)) != digest:
            raise Problem(f"its {algorithm} is {found}, and should be {digest}")
        return version

    return _patiently(attempt, "remote-input", url, target)


def put(path: str, url: str) -> None:
    """Write a remote file. It appears whole, or not at all.

    Raises
    ------
    failure.Lost
        With a record of kind ``remote-output``.
    """
    _patiently(lambda: _store(path, url), "remote-output", url, path)


def _fetch(url: str, target: str) -> Version:
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https") and "::" not in url:
        from taskvine_manager.runtime.remote import http

        return http.get(url, target)
    if scheme in ("", "file"):
        return _copy(urlsplit(url).path, target)
    from taskvine_manager.runtime.remote import filesystems

    return filesystems.get(url, target)


def _store(path: str, url: str) -> None:
    if urlsplit(url).scheme in ("http", "https"):
        from taskvine_manager.runtime.remote import http

        http.put(path, url)
        return
    from taskvine_manager.runtime.remote import filesystems

    filesystems.put(path, url)


def _copy(path: str, target: str) -> Version:
    """Copy an archive that the node sees."""
    try:
        shutil.copyfile(path, target)
        return Version(os.path.getsize(target))
    except OSError as error:
        if payload.is_full(error):
            raise
        raise Problem(error.strerror or str(error)) from error


def _digest(path: str, algorithm: str) -> str:
    if os.path.isdir(path):
        raise Problem("it is a directory, and directories have no checksum")
    found = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _patiently(action: Callable[[], _T], kind: str, url: str, path: str) -> _T:
    """Do an action, and repeat it after failures that may pass."""
    wait = _FIRST_WAIT
    for left in reversed(range(ATTEMPTS)):
        try:
            return action()
        except Problem as problem:
            if not problem.may_pass or not left:
                tried = f" ({ATTEMPTS} attempts)" if problem.may_pass else ""
                reason = without_password(str(problem), url)
                record = failure.lost(kind, f"{reason}{tried}", url=shown(url), status=problem.status)
                raise failure.Lost(record) from problem
            time.sleep(min(max(wait, problem.wait), _LONGEST_WAIT))
            wait *= 2
        except OSError as error:
            if payload.is_full(error):
                raise failure.Lost(failure.lost("disk-full", f"{shown(url)}: {error.strerror}", path=path)) from error
            raise failure.Lost(failure.lost(kind, failure.describe(error), url=shown(url))) from error
    raise AssertionError("the last attempt returns or raises")
