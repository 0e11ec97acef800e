"""A file exists as long as a claim to it does, and exactly one process is told to remove it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from taskvine_manager.runtime import claims


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "file").write_bytes(b"content")
    claims.offer(str(tmp_path / "file"))
    return str(tmp_path / "file")


def test_file_is_removed_with_its_last_claim(file: str, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abc"]
    for path in paths:
        claims.claim(file, path)
        assert claims.claimed(path) == file
    assert [claims.release(path) for path in paths] == [None, None, file]
    assert os.listdir(tmp_path) == ["file"], "the file is for its caller to remove"
    assert not claims.is_offered(file)
    with pytest.raises(FileNotFoundError):
        claims.claim(file, paths[0])


def test_released_claim_does_not_count(file: str, tmp_path: Path) -> None:
    claims.claim(file, path := str(tmp_path / "a"))
    assert claims.release(path) == file
    assert claims.release(path) is None
    assert claims.release(str(tmp_path / "never")) is None


def test_claim_takes_no_space(file: str, tmp_path: Path) -> None:
    for number in range(100):
        claims.claim(file, str(tmp_path / str(number)))
    assert len({os.stat(entry).st_ino for entry in os.scandir(tmp_path)}) == 2


def test_claim_during_the_release_of_the_last(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim is made between the check of the count and the end of the offer."""
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    claims.claim(file, first)
    rename = os.rename

    def late(source: str, target: str) -> None:
        monkeypatch.setattr(claims.os, "rename", rename)
        claims.claim(file, second)
        rename(source, target)

    monkeypatch.setattr(claims.os, "rename", late)
    assert claims.release(first) is None
    assert claims.is_offered(file)
    assert claims.release(second) == file


def test_claim_that_links_after_the_last_check(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has looked the claims file up before its rename, and links it just before its end."""
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    claims.claim(file, first)
    link, unlink = os.link, os.unlink
    refused: list[OSError] = []

    def claim_late(path: str) -> None:
        if path.endswith(".ending"):
            monkeypatch.setattr(claims.os, "unlink", unlink)
            monkeypatch.setattr(claims.os, "link", lambda source, target: link(path, target))
            with pytest.raises(FileNotFoundError) as caught:
                claims.claim(file, second)
            refused.append(caught.value)
        unlink(path)

    monkeypatch.setattr(claims.os, "unlink", claim_late)
    assert claims.release(first) == file
    assert refused
    assert os.listdir(tmp_path) == [os.path.basename(file)]


def test_late_claim_that_the_last_check_sees(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The releaser keeps the file for the claim. The claimer did not know, gives its claim up, and removes the file."""
    link = os.link
    os.rename(file + ".claims", file + ".ending")  # by a releaser

    def end_check(_: str) -> bool:
        os.rename(file + ".ending", file + ".claims")  # by the releaser, which has seen two links
        return False

    monkeypatch.setattr(claims.os, "link", lambda _, path: link(file + ".ending", path))
    monkeypatch.setattr(claims.os.path, "exists", end_check)
    with pytest.raises(FileNotFoundError):
        claims.claim(file, str(tmp_path / "claim"))
    assert os.listdir(tmp_path) == []


def test_concurrent_claims_and_releases(file: str, tmp_path: Path) -> None:
    """Every holder of a claim finds the file; it is removed once, with the last claim."""
    over: list[str] = []
    missing: list[str] = []

    def use(name: int) -> None:
        path = str(tmp_path / f"claim-{name}")
        for _ in range(1000):
            try:
                claims.claim(file, path)
            except FileNotFoundError:  # it has been removed, or seems so for a moment
                continue
            if not os.path.exists(claims.claimed(path)):
                missing.append(path)
            if (last := claims.release(path)) is not None:
                os.unlink(last)
                over.append(last)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not missing
    assert over == [file]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"x" * 5000], ids=["empty", "data", "long"])
def test_file_that_is_not_a_claim_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(ValueError, match="not a claim"):
        claims.claimed(str(tmp_path / "data"))
