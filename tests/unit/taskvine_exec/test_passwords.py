"""Password files: which ones can be used, and the default one."""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.providers import LocalProvider, SlurmProvider

from taskvine_exec import passwords
from taskvine_exec.config import TaskVineFactoryConfig, TaskVineManagerConfig, VineSettings, vine_settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "password"


def settings(given: str | None, provider: Any, launch: str = "provider") -> VineSettings:
    manager = TaskVineManagerConfig(project_password_file=given)
    return vine_settings(
        manager, TaskVineFactoryConfig(), function_exec_mode="L2", worker_launch_method=launch, provider=provider
    )


def test_default_is_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        assert passwords.default_path() == "/home/me/.local/state/taskvine-exec/password"
    monkeypatch.setenv("XDG_STATE_HOME", "/shared/me")
    assert passwords.default_path() == "/shared/me/taskvine-exec/password"


def test_new_password_file_is_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a" / "taskvine-exec" / "password"
    passwords.make(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert re.fullmatch("[0-9a-f]{64}", first := path.read_text())
    assert passwords.unusable(str(path)) is None
    passwords.make(str(path))
    assert path.read_text() == first
    assert os.listdir(path.parent) == ["password"]


@pytest.mark.parametrize("links", [True, False])
def test_concurrent_makers_get_the_same_password(path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def read(_: int) -> str:
        passwords.make(str(path))
        return path.read_text()

    def no_links(*_: str) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", no_links)
        assert len(read(0)) == 64
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(read, range(40)))) == 1


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"", 0o600, "it is empty"),
        (b"\n", 0o600, "it is empty"),
        (b"\0secret", 0o600, "it is empty"),
        (b"x" * 1025, 0o600, "more than 1,024 bytes"),
        (b"secret", 0o640, r"mode 640\): chmod 600 /.*password"),
        (b"secret", 0o604, "mode 604"),
        (b"secret", 0o602, "mode 602"),
        (b"secret\n", 0o600, None),
        (b"secret", 0o400, None),
    ],
)
def test_usable_files_are_accepted(path: Path, content: bytes, mode: int, reason: str | None) -> None:
    path.write_bytes(content)
    path.chmod(mode)
    said = passwords.unusable(str(path))
    assert said is None if reason is None else re.search(reason, said or "")
    if reason is None:
        assert settings(str(path), SlurmProvider()).password_file == str(path)
    else:
        with pytest.raises(ConfigurationError, match=f"project_password_file='{path}' cannot be used: .*{reason}"):
            settings(str(path), LocalProvider())


def test_only_files_are_accepted(path: Path) -> None:
    assert "No such file" in (passwords.unusable(str(path)) or "")
    path.mkdir()
    assert passwords.unusable(str(path)) == "it is not a file"


def test_unreadable_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("secret")
    path.chmod(0o600)

    def refuse(*_: Any) -> None:  # root may read anything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert passwords.unusable(str(path)) == "it cannot be read: Permission denied"


def test_local_workers_need_no_password() -> None:
    assert settings(None, LocalProvider()).password_file is None


@pytest.mark.parametrize("launch", ["provider", "manual"])
def test_remote_workers_read_the_users_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, launch: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "taskvine-exec" / "password"
    provider = SlurmProvider() if launch == "provider" else None
    assert settings(None, provider, launch).password_file == str(path)
    assert not path.exists()  # it is made at the start
    path.parent.mkdir()
    path.write_text("secret")
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"chmod 600 .*Give project_password_file"):
        settings(None, provider, launch)


def test_failure_to_make_one_is_explained_at_construction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigurationError, match=r"file is not a directory. Give project_password_file"):
        settings(None, SlurmProvider())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(passwords.os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ConfigurationError, match=f"nothing can be written to {tmp_path}"):
        settings(None, SlurmProvider())
