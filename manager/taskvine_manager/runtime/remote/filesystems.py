"""Files in every storage that `fsspec <https://filesystem-spec.readthedocs.io>`_ can open."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import uuid
from typing import Any

from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.remote.problems import Problem, Version

_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"})
"""Protocols of object stores, where a file appears when all of it has been written."""
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError, ImportError)
_TAGS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "modified")


def get(url: str, target: str) -> Version:
    """Fetch a file or directory. It must be the same version before and after.

    Raises
    ------
    Problem
        If it cannot be read, differs from its length or checksum, or changes meanwhile.
    OSError
        If no space is left.
    """
    filesystem, path = _open(url)
    try:
        filesystem.invalidate_cache()
        before = filesystem.info(path)
        if before.get("type") == "directory":
            filesystem.get(path.rstrip("/") + "/", target, recursive=True)
            return Version(0)
        filesystem.get_file(path, target)
        size = os.path.getsize(target)
        if before.get("size") not in (None, size):
            raise Problem(f"{size} of {before['size']} bytes were received", may_pass=True)
        _check_md5(before, target)
        filesystem.invalidate_cache()
        version = Version(size, _tag(before))
        if version != Version(size, _tag(filesystem.info(path))):
            raise Problem("it changed while it was read", may_pass=True)
        return version
    except Exception as error:
        raise _problem(error) from error


def put(path: str, url: str) -> None:
    """Write a file, so that readers never see a part of it.

    Raises
    ------
    Problem
        If it cannot be written.
    """
    filesystem, target = _open(url)
    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    try:
        if protocol in _WHOLE:
            filesystem.put_file(path, target)
        else:
            _put_and_rename(filesystem, path, target)
        filesystem.invalidate_cache()
        size = filesystem.info(target).get("size")
        if size not in (None, os.path.getsize(path)):
            raise Problem(f"{size} of {os.path.getsize(path)} bytes were written", may_pass=True)
    except Exception as error:
        raise _problem(error) from error


def _replace(filesystem: Any, landing: str, target: str, aside: str) -> None:
    """Rename a file over another one, which is kept aside until that has succeeded."""
    filesystem.mv(target, aside)
    try:
        filesystem.mv(landing, target)
    except BaseException:
        with contextlib.suppress(Exception):
            filesystem.mv(aside, target)
        raise
    filesystem.rm_file(aside)


def _put_and_rename(filesystem: Any, path: str, target: str) -> None:
    folder, _, name = target.rpartition("/")
    landing = f"{folder}/.{name}.{uuid.uuid4().hex}.part"
    with contextlib.suppress(NotImplementedError):
        filesystem.makedirs(folder, exist_ok=True)
    try:
        filesystem.put_file(path, landing)
        try:
            filesystem.mv(landing, target)
        except FileNotFoundError:
            raise
        except Exception:
            if not (filesystem.exists(landing) and filesystem.exists(target)):
                raise
            _replace(filesystem, landing, target, f"{landing}.old")  # some servers do not rename over a file
    except BaseException:
        with contextlib.suppress(Exception):
            filesystem.rm_file(landing)
        raise


def _open(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise Problem("it needs fsspec on the node: pip install 'taskvine-exec[remote]'") from error
    try:
        filesystem, path = url_to_fs(url)
    except Exception as error:  # ImportError names the package of the protocol; ValueError an unknown protocol
        raise Problem(failure.describe(error)) from error
    return filesystem, path


def _tag(info: dict[str, Any]) -> str:
    return next((str(info[name]) for name in _TAGS if info.get(name)), "")


def _check_md5(info: dict[str, Any], path: str) -> None:
    stated = info.get("md5Hash")  # of Google's storage; others state no checksum here
    if stated:
        found = hashlib.md5(usedforsecurity=False)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
        if base64.b64encode(found.digest()).decode() != stated:
            raise Problem(f"its md5 is {found.hexdigest()}, and the server states another one", may_pass=True)


def _problem(error: Exception) -> Exception:
    """Return the problem that an exception of a file system means; an error of a full disk stays as it is."""
    if isinstance(error, Problem) or payload.is_full(error):
        return error
    status = getattr(error, "status", None)
    status = status if isinstance(status, int) else None
    return Problem(failure.describe(error), status, may_pass=not isinstance(error, _LASTING))
