"""Problems that keep a node from joining, and their messages."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskvine_manager.node.limits import Kill
from taskvine_manager.vine.worker import trouble
from taskvine_manager.vine.worker.trouble import Address, Listener, Probe, Trouble
from tests.conftest import eventually


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--single-shot", "login1", "9123"], Address("login1", 9123)),
        (["--cores", "4", "10.0.0.1", "1"], Address("10.0.0.1", 1)),
        (["login1:9123;login2:9123"], None),
        (["login1;login2", "9123"], None),
        (["-M", "project"], None),
        (["--cores", "4"], None),
        (["--cores=4"], None),
        ([], None),
    ],
)
def test_address_of_the_manager(arguments: list[str], expected: Address | None) -> None:
    assert trouble.address(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--password", "a"], "a"),
        (["-P", "a", "--password=b"], "b"),
        (["--password="], ""),
        (["--passwords", "a"], None),
        (["--password"], ""),
        ([], None),
    ],
)
def test_effective_options_are_found(arguments: list[str], expected: str | None) -> None:
    assert trouble.option(arguments, "--password", "-P") == expected


def test_every_status_is_no_signal() -> None:
    assert all(0 < status < 128 for status in trouble.Status)
    assert len(trouble.Status) == 8  # equal ones would be one


def test_other_version_is_recognised() -> None:
    trouble.check_version("", "1.0")
    trouble.check_version("1.0", "1.0")
    with pytest.raises(Trouble, match=r"taskvine-exec 1\.0 .* has 1\.1") as raised:
        trouble.check_version("1.1", "1.0")
    assert raised.value.status == trouble.Status.MISMATCH


def test_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Trouble, match=rf"vine_worker is not there on PATH \({tmp_path}\).*worker_init") as raised:
        trouble.find_program("vine_worker")
    assert raised.value.status == trouble.Status.NO_PROGRAM
    program = tmp_path / "vine_worker"
    program.touch()
    with pytest.raises(Trouble, match="cannot be executed") as raised:
        trouble.find_program(str(program))
    assert raised.value.status == trouble.Status.NOT_EXECUTABLE
    program.chmod(0o755)
    assert trouble.find_program("vine_worker") == str(program)


def test_password_file(tmp_path: Path) -> None:
    trouble.check_password(None)
    with pytest.raises(Trouble, match=r"password file .*/secret cannot be read: No such file") as raised:
        trouble.check_password(str(tmp_path / "secret"))
    assert raised.value.status == trouble.Status.UNREADABLE
    (tmp_path / "secret").touch()
    trouble.check_password(str(tmp_path / "secret"))


def test_directory(tmp_path: Path) -> None:
    def make() -> str:
        (tmp_path / "made").mkdir()
        return str(tmp_path / "made")

    assert trouble.make_directory(make) == str(tmp_path / "made")
    with pytest.raises(Trouble, match=rf"cannot work in {tmp_path}/made: File exists\. Set TMPDIR") as raised:
        trouble.make_directory(make)
    assert raised.value.status == trouble.Status.NO_SCRATCH


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no directory in which nobody can write")
def test_directory_that_cannot_be_written() -> None:
    with pytest.raises(Trouble, match="cannot work in /proc"):
        trouble.make_directory(lambda: "/proc")


def test_no_temporary_directory_at_all() -> None:
    def make() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    with pytest.raises(Trouble, match="No usable temporary directory"):
        trouble.make_directory(make)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_reached(listening: socket.socket) -> None:
    trouble.reach(Address("localhost", listening.getsockname()[1]))


def test_closed_port_of_this_machine_is_known_at_once(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    listening.close()
    begun = time.monotonic()
    with pytest.raises(Trouble, match=rf"localhost:{port} fails: Connection refused.*address") as raised:
        trouble.reach(Address("localhost", port))
    assert raised.value.status == trouble.Status.UNREACHABLE
    assert time.monotonic() < begun + 1


def test_address_that_does_not_answer() -> None:
    """A full queue drops packets, as a firewall does."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        begun = time.monotonic()
        with pytest.raises(
            Trouble, match=r"nothing has answered at 127\.0\.0\.1:\d+ for 1 seconds.*firewall"
        ) as raised:
            trouble.reach(Address(*server.getsockname()), 1.0)
        assert raised.value.status == trouble.Status.UNREACHABLE
        assert time.monotonic() < begun + 3


def test_unknown_host() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    found = trouble.unreachable(Address("login9", 1), error, 10)
    assert found.status == trouble.Status.NO_HOST
    assert "'login9', is not known here (Name or service not known)" in found.text


def test_probe_tries_only_for_a_silent_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(trouble.time, "monotonic", lambda: now)
    tried: list[Address] = []
    monkeypatch.setattr(trouble, "reach", tried.append)
    probe = Probe(Address("login1", 1))
    assert probe.look() is None
    assert not tried
    now = trouble.PROBE_SECONDS
    assert probe.look() is None
    assert eventually(lambda: tried) == [("login1", 1)]
    now = trouble.REACH_SECONDS + 1
    said: list[str] = []

    def look() -> bool:
        assert probe.look() is None
        said.append(capsys.readouterr().err)
        return bool(said[-1])

    eventually(look)
    assert not look(), "it says so once"
    assert "accepts connections, but has not accepted this worker for 11 seconds" in "".join(said)
    assert len(tried) == 1
    nowhere = Probe(None)
    now += 1000
    assert nowhere.look() is None


def test_probe_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(to: Address) -> None:
        raise Trouble(69, "unreachable")

    monkeypatch.setattr(trouble, "reach", fail)
    monkeypatch.setattr(trouble, "PROBE_SECONDS", 0.0)
    probe = Probe(Address("login1", 1))
    assert str(eventually(probe.look)) == f"taskvine-worker on {socket.gethostname()}: unreachable"


LOST = b"couldn't connect to 127.0.0.1:9: Connection refused\n"
WRONG = b"vine_worker: wrong password for manager login1:9\n"


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ([WRONG, WRONG], trouble.Status.REFUSED, "login1:9 refuses the password in /secret.*project_password_file"),
        ([WRONG[:20], WRONG[20:] + WRONG[:5], WRONG[5:]], trouble.Status.REFUSED, "refuses"),
        (
            [b"vine_worker: this manager requires a password. (use the -P option)\n"],
            trouble.Status.REFUSED,
            "asks for a",
        ),
        ([b"vine_worker: could not setup ssl connection.\n"], trouble.Status.UNREACHABLE, "no TLS connection"),
        ([b"vine_worker: failed to setup workspace directory.\n"], trouble.Status.NO_SCRATCH, "cannot work in /work"),
        ([WRONG], None, ""),
        ([WRONG, LOST, WRONG], None, ""),
        ([LOST, LOST, LOST], None, ""),
        ([WRONG, WRONG[:-1]], None, ""),
    ],
)
def test_messages_of_a_worker_are_understood(said: list[bytes], status: int | None, words: str) -> None:
    listener = Listener(Address("login1", 9), "/secret", "/work")
    found = [each for each in (listener.feed("err", data) for data in said) if each]
    assert [each.status for each in found] == ([] if status is None else [status])
    if found:
        assert found[0].text
        with pytest.raises(Trouble, match=words):
            raise found[0]


def test_streams_are_read_apart() -> None:
    listener = Listener(Address("login1", 9), None, "/work")
    listener.feed("err", b"vine_worker: disconnected from")
    listener.feed("out", b"disconnected from manager login1:9")
    assert not listener.has_served
    assert "had accepted it" in listener.silent().text
    listener.feed("out", b"\n")
    assert listener.has_served
    listener.feed("err", b"\nsomething else\n\n")
    assert listener.silent().text.endswith("login1:9 had accepted it: something else")


def test_kill_for_lack_of_memory_is_reported() -> None:
    said = trouble.out_of_memory(Kill("/sys/fs/cgroup/job_7", 1000.0, 999.7))
    assert "may use 1000 MB, of which 1000 MB were in use (limit of /sys/fs/cgroup/job_7)" in said
    assert "of which" not in trouble.out_of_memory(Kill("the machine", 1000.0, 0.0))
