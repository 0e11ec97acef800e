"""The functions of the executor's own tasks for remote inputs: fetch a file, unpack an archive.

Each such task makes one temp file, which both engines then treat like any other. If all its replicas are lost, the task
runs again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time

from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.remote import archives, transfer
from taskvine_manager.runtime.remote.addresses import Member, shown
from taskvine_manager.runtime.remote.problems import Problem, Version


def fetch(url: str, target: str, spool: str, name: str) -> tuple[int, str, float]:
    """Fetch a remote file to a path in the sandbox.

    Parameters
    ----------
    url, target : str
        Where it is, and where it goes.
    spool : str
        The run's directory for large values. Its nodes on the same machine note there what they have fetched.
    name : str
        The id of the temp file that is made. A file that is fetched again under the same id must not have changed.

    Returns
    -------
    size : int
        In bytes.
    tag : str
        Its ETag or time, if the server states one.
    seconds : float
        The time that it took.

    Raises
    ------
    failure.Lost
        If it cannot be fetched or has changed.
    """
    begun = time.monotonic()
    version = transfer.get(url, target)
    if (first := _first(spool, name, version)) != version:
        reason = f"it has changed since it was first read in this run ({_words(first)} then, {_words(version)} now)"
        raise failure.Lost(failure.lost("remote-input", reason, url=shown(url)))
    return version.size, version.tag, time.monotonic() - begun


def _first(spool: str, name: str, version: Version) -> Version:
    """Return the version that was fetched first, as far as this machine knows."""
    path = os.path.join(spool, f"remote-{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}")
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(version, file)
    except FileExistsError:
        with contextlib.suppress(ValueError, TypeError, OSError), open(path, encoding="utf-8") as file:
            return Version(*json.load(file))
    except OSError:  # the run's directory is on another machine
        pass
    return version


def _words(version: Version) -> str:
    return f"{version.size} bytes, {version.tag}" if version.tag else f"{version.size} bytes"


def unpack(url: str, member: Member, archive: str, target: str) -> None:
    """Unpack a member of an archive in the sandbox; ``url`` names both in error messages."""
    try:
        archives.unpack(archive, member.kind, member.path, target)
    except Problem as problem:
        raise failure.Lost(failure.lost("remote-input", str(problem), url=shown(url))) from problem
    except OSError as error:
        kind = "disk-full" if payload.is_full(error) else "remote-input"
        reason = f"{shown(url)}: {error.strerror or error}"
        raise failure.Lost(failure.lost(kind, reason, url=shown(url), path=os.path.dirname(target))) from error
