"""URLs of remote files."""

from __future__ import annotations

import pytest

from taskvine_manager.runtime.remote.addresses import (
    Member,
    file_name,
    identity,
    is_remote,
    member,
    shown,
    without_checksum,
)


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a",
        "s3://bucket/a",
        "simplecache::s3://bucket/a",
        "zip://a::https://host/b.zip",
        "tar://::s3://b/c",
    ],
)
def test_remote(url: str) -> None:
    assert is_remote(url)


@pytest.mark.parametrize(
    "url",
    ["a", "/a", "a:b", "file:///a", "taskvinetemp:///a", "globus://go#ep1/a", "zip:/a.zip/b", "zip://a.zip/b", "://a"],
)
def test_not_remote(url: str) -> None:
    assert not is_remote(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("zip://a/b.txt::https://host/c.zip", Member("zip", "a/b.txt", "https://host/c.zip")),
        ("zip://::https://host/c.zip", Member("zip", "", "https://host/c.zip")),
        ("tar://a/::s3://bucket/c.tar.gz", Member("tar", "a", "s3://bucket/c.tar.gz")),
        ("zip://a::tar://b.zip::https://host/c.tar", Member("zip", "a", "tar://b.zip::https://host/c.tar")),
        ("simplecache::s3://bucket/a", None),
        ("https://host/a", None),
    ],
)
def test_members_of_archives(url: str, expected: Member | None) -> None:
    assert member(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/a/b.csv?c=d/e#f", "b.csv"),
        ("https://host/a%20b.csv", "a b.csv"),
        ("https://host/a%2Fb", "file"),
        ("https://host/", "file"),
        ("https://host/..", "file"),
        ("s3://bucket/folder/", "folder"),
        ("https://host/a.csv#sha256=00", "a.csv"),
        ("zip://a/b.txt::https://host/c.zip", "b.txt"),
        ("zip://::https://host/c.zip", "c"),
        ("tar://::https://host/c.d.tar.gz", "c.d"),
        ("simplecache::s3://bucket/a", "a"),
        (f"https://host/{'a' * 300}", "file"),
    ],
)
def test_names(url: str, expected: str) -> None:
    assert file_name(url) == expected


def test_checksums() -> None:
    assert without_checksum("https://host/a#sha256=AB12") == ("https://host/a", "sha256", "ab12")
    assert without_checksum("https://host/a#part") == ("https://host/a#part", "", "")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/a?b=c&d", "https://host/a?b=c&d"),
        ("https://me:secret@host:81/a", "https://me:...@host:81/a"),
        ("https://me@host/a", "https://me@host/a"),
        ("https://host/a?X-Amz-Signature=secret&id=3", "https://host/a?X-Amz-Signature=...&id=3"),
        ("zip://a::https://me:secret@host/b.zip", "zip://a::https://me:...@host/b.zip"),
        ("https://[host/a?token=secret", "https://[host/a"),
    ],
)
def test_secrets_are_not_shown(url: str, expected: str) -> None:
    assert shown(url) == expected
    assert "secret" not in identity(url)


def test_urls_that_differ_in_a_secret_have_different_names() -> None:
    first, second = (identity(f"https://me:{word}@host/a") for word in ("one", "two"))
    assert first != second
    assert identity("https://host/a") == "https://host/a"
