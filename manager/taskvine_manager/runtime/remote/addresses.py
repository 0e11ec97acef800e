"""URLs of remote files: their checksums, archives, names, and the form in which they may be shown."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

ARCHIVES = ("zip", "tar")
"""Schemes of archives: ``zip://MEMBER::URL`` is a member of the archive at URL."""
_NOT_REMOTE = frozenset({"", "file", "taskvinetemp", "globus"})
_ARCHIVE_NAME = re.compile(r"\.(zip|tar|t?gz|tgz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_CHECKSUM = re.compile(r"#(md5|sha1|sha256|sha512)=([0-9a-fA-F]+)$")
_SECRET = re.compile(r"signature|token|secret|password|credential|^sig$|key", re.IGNORECASE)
_HIDDEN = "..."


class Member(NamedTuple):
    """A member of an archive; ``path`` is empty for all members."""

    kind: str
    path: str
    archive: str


def is_remote(url: str) -> bool:
    """Whether a URL names a remote file, or a member of an archive (``zip://MEMBER::URL``)."""
    scheme, found, _ = url.partition("://")
    scheme = scheme.partition("::")[0]
    if not found or scheme in _NOT_REMOTE or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return False
    return "::" in url or scheme not in ARCHIVES


def member(url: str) -> Member | None:
    """Take the URL of an archive's member apart; None if it is no such URL."""
    first, found, archive = url.partition("::")
    kind, separator, path = first.partition("://")
    if not found or not separator or kind not in ARCHIVES:
        return None
    return Member(kind, path.strip("/"), archive)


def without_checksum(url: str) -> tuple[str, str, str]:
    """Split the checksum from a URL such as ``https://host/path#sha256=...``.

    Returns
    -------
    url, algorithm, digest : str
        ``digest`` is in lower case. Both are empty if the URL has no checksum.
    """
    found = _CHECKSUM.search(url)
    if found is None:
        return url, "", ""
    return url[: found.start()], found[1], found[2].lower()


def file_name(url: str) -> str:
    """Return the name of a remote file: the last part of its path. An archive's name has no suffix.

    A name that could not be a file's is replaced by ``file``.
    """
    inside = member(url)
    if inside is not None:
        if inside.path:
            return _usable(posixpath.basename(inside.path))
        return _ARCHIVE_NAME.sub("", file_name(inside.archive)) or "file"
    address = without_checksum(url)[0].rpartition("::")[2]
    return _usable(unquote(posixpath.basename(urlsplit(address).path.rstrip("/"))))


def _usable(name: str) -> str:
    fits = name not in ("", os.curdir, os.pardir) and "/" not in name and "\0" not in name
    return name if fits and len(os.fsencode(name)) <= 200 else "file"


def shown(url: str) -> str:
    """Return a URL without passwords, for messages: also without the values of keys and signatures in its query."""
    return "::".join(_without_secrets(part) for part in url.split("::"))


def _without_secrets(url: str) -> str:
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return url.partition("?")[0]
    user, at, host = parts.netloc.rpartition("@")
    if at and ":" in user:
        parts = parts._replace(netloc=f"{user.partition(':')[0]}:{_HIDDEN}@{host}")
    if any(_SECRET.search(name) for name, _ in query):
        hidden = [(name, _HIDDEN if _SECRET.search(name) else value) for name, value in query]
        parts = parts._replace(query=urlencode(hidden))
    return urlunsplit(parts) if parts != urlsplit(url) else url


def without_password(text: str, url: str) -> str:
    """Return a message of another library without the secrets of a URL that it may quote."""
    text = text.replace(url, shown(url))
    for part in url.split("::"):
        try:
            password = urlsplit(part).password
        except ValueError:
            continue
        if password:
            text = text.replace(password, _HIDDEN)
    return text


def identity(url: str) -> str:
    """Return a name for a URL that holds no secret. Different URLs have different names."""
    name = shown(url)
    return name if name == url else f"{name}#{hashlib.blake2b(url.encode(), digest_size=6).hexdigest()}"
