"""Files at ``http`` and ``https`` URLs. A file takes one request, and is compared with its length and checksums."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from taskvine_manager.runtime.remote.problems import Problem, Version

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which another attempt may succeed."""
_TIMEOUTS = (20.0, 60.0)
"""Seconds to wait for a connection, and for each further part of the file."""
_BLOCK = 1 << 20


def get(url: str, target: str) -> Version:
    """Fetch a file with one request.

    Raises
    ------
    Problem
        If the status is not 200, or the file is not as long as announced, or has another checksum.
    OSError
        If the file cannot be written.
    """
    requests = _requests()
    headers = {"Accept-Encoding": "identity", **_configured_headers()}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUTS) as response:
            _check_status(response, {200})
            announced = response.headers
            is_plain = announced.get("Content-Encoding", "identity").lower() == "identity"
            digests = _digests(announced) if is_plain else {}
            found = {name: hashlib.new(name) for name in digests}
            with open(target, "wb") as file:
                for block in response.iter_content(_BLOCK):
                    file.write(block)
                    for digest in found.values():
                        digest.update(block)
            length, received = announced.get("Content-Length"), response.raw.tell()
            if length is not None and length.isdigit() and received != int(length):
                raise Problem(f"{received} of {length} bytes were received", may_pass=True)
            for name, expected in digests.items():
                if found[name].digest() != expected:
                    reason = f"its {name} is {found[name].hexdigest()}, and the server states {expected.hex()}"
                    raise Problem(reason, may_pass=True)
            tag = announced.get("ETag") or announced.get("Last-Modified") or ""
            return Version(os.path.getsize(target), tag)
    except requests.RequestException as error:
        raise _problem(requests, error) from error


def put(path: str, url: str) -> None:
    """Write a file with a PUT request.

    Raises
    ------
    Problem
        If the status is not one of success.
    """
    requests = _requests()
    try:
        # An empty file would be sent in chunks, which storage services refuse.
        with open(path, "rb") as file:
            body = file if os.path.getsize(path) else b""
            with requests.put(url, data=body, headers=_configured_headers(), timeout=_TIMEOUTS) as response:
                _check_status(response, {200, 201, 202, 204})
    except requests.RequestException as error:
        raise _problem(requests, error) from error


def _requests() -> Any:
    try:
        import requests
    except ImportError as error:
        raise Problem(f"http needs requests, which comes with parsl, on the node ({error})") from error
    return requests


def _check_status(response: Any, expected: set[int]) -> None:
    status = int(response.status_code)
    if status in expected:
        return
    wait = 0.0
    with contextlib.suppress(ValueError):
        wait = float(response.headers.get("Retry-After", 0))
    raise Problem(str(response.reason or "refused"), status, may_pass=status in _PASSING, wait=wait)


def _problem(requests: Any, error: Exception) -> Problem:
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    lasting = (requests.exceptions.SSLError, requests.exceptions.ProxyError)
    # The text of an error of requests holds the URL, with its secrets: only the cause's is used.
    reason: Any = error.args[0] if error.args else error
    reason = getattr(reason, "reason", reason)
    words = re.sub(r"<[^>]*object at 0x[0-9a-f]+>(\([^)]*\))?:? ?|https?://\S+", "", str(reason)).strip(": ")
    may_pass = isinstance(error, passing) and not isinstance(error, lasting)
    return Problem(f"{type(error).__name__}: {words}", may_pass=may_pass)


def _digests(headers: Mapping[str, str]) -> dict[str, bytes]:
    """Return the checksums that a server states for a whole file, by algorithm."""
    stated = [("md5", headers.get("Content-MD5", ""))]
    for item in headers.get("x-goog-hash", "").split(","):
        stated.append(_pair(item))
    if "x-goog-stored-content-encoding" in headers and headers["x-goog-stored-content-encoding"] != "identity":
        stated = []  # of the stored bytes, which are decoded before they are sent
    for name in ("Repr-Digest", "Digest"):
        for item in headers.get(name, "").split(","):
            algorithm, value = _pair(item)
            stated.append((algorithm.replace("-", "").lower(), value.strip(":")))
    for algorithm in ("sha1", "sha256"):
        stated.append((algorithm, headers.get(f"x-amz-checksum-{algorithm}", "")))
    found = {}
    for algorithm, value in stated:
        if algorithm in ("md5", "sha1", "sha256", "sha512"):
            with contextlib.suppress(binascii.Error, ValueError):  # not base64, or of parts of the file
                digest = base64.b64decode(value, validate=True)
                if len(digest) == hashlib.new(algorithm).digest_size:
                    found[algorithm] = digest
    return found


def _pair(item: str) -> tuple[str, str]:
    name, _, value = item.strip().partition("=")
    return name, value


def _configured_headers() -> dict[str, str]:
    """Return the headers that fsspec's configuration has for http, if fsspec is installed."""
    try:
        from fsspec.config import conf
    except ImportError:
        return {}
    headers: dict[str, str] = {}
    for scheme in ("http", "https"):
        settings = conf.get(scheme, {})
        headers.update(settings.get("client_kwargs", {}).get("headers", {}))
        headers.update(settings.get("headers", {}))
    return headers
