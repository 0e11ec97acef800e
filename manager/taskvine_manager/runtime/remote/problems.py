"""Failed transfers, and the version of a file that a storage service states."""

from __future__ import annotations

from typing import NamedTuple


class Problem(Exception):
    """A remote file was not fetched or written.

    Parameters
    ----------
    reason : str
        What happened.
    status : int or None
        The HTTP status, if there was one.
    may_pass : bool
        Whether another attempt may succeed.
    wait : float
        Seconds after which the server wants another attempt.
    """

    def __init__(self, reason: str, status: int | None = None, *, may_pass: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.may_pass = may_pass
        self.wait = wait


class Version(NamedTuple):
    """The version of a remote file: its size in bytes, and the ETag or time that its server states, if any."""

    size: int
    tag: str = ""
