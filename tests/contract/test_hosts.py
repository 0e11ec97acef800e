"""Three hosts in network namespaces, connected only by a network; one of them is cut off."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parsl.data_provider.files import File

from taskvine_exec import TaskVineExecutor, TaskVineManagerConfig
from tests.conftest import Gate, eventually
from tests.engines import ABSENT

Make = Callable[..., TaskVineExecutor]
SECONDS = 60
HOSTS = 3
MEGABYTES = 4
BRIDGE_TAKES = 20
"""Time limit of a command of ``ip``, which may wait for a lock in the kernel."""


@pytest.fixture(params=["taskvine"])
def engine(request: pytest.FixtureRequest) -> str:
    if ABSENT is not None:
        pytest.skip(ABSENT)
    return str(request.param)


def ip(*words: str, check: bool = True) -> str:
    """Run ``ip``, and return its output."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=BRIDGE_TAKES, check=False)
    if check and done.returncode:
        raise OSError(f"ip {shlex.join(words)}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Hosts:
    """Hosts that are connected only by a bridge on this machine.

    Each has its own network and name, and does not see the run's private directory. Their addresses are reserved for
    tests of network devices (RFC 2544), so no other machine has them.
    """

    token: str = field(default_factory=lambda: f"tv{os.getpid() % 2**20:05x}")
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def _prefix(self) -> str:
        return f"198.18.{os.getpid() % 250}"

    @property
    def address(self) -> str:
        """This machine's address for the hosts."""
        return f"{self._prefix}.254"

    def make(self) -> None:
        """Make the hosts; raises OSError or SubprocessError if that fails."""
        bridge = f"{self.token}b"
        ip("link", "add", bridge, "type", "bridge")
        ip("address", "add", f"{self.address}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number in range(HOSTS):
            name, link = self.name(number), self._link(number)
            ip("netns", "add", name)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", link, "master", bridge, "up")
            ip("-n", name, "address", "add", f"{self._prefix}.{number + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        subprocess.run(self._inside(0, "true"), check=True, capture_output=True, timeout=BRIDGE_TAKES)

    def name(self, number: int) -> str:
        """Return the name of a host."""
        return f"{self.token}h{number}"

    def _link(self, number: int) -> str:
        return f"{self.token}l{number}"

    def _inside(self, number: int, script: str) -> list[str]:
        command = ["ip", "netns", "exec", self.name(number), "unshare", "--uts", "--mount", "sh", "-e", "-c"]
        return [*command, f"hostname {self.name(number)}; {script}"]

    def start(self, number: int, executor: TaskVineExecutor) -> None:
        """Start a worker on a host."""
        script = f"mount -t tmpfs none {shlex.quote(executor.run.places.base)}; exec {executor.launch_cmd}"
        self.processes.append(subprocess.Popen(self._inside(number, script), stdin=subprocess.DEVNULL))

    def cut_off(self, number: int) -> None:
        """Drop all packets of a host. Neither side is told."""
        ip("link", "set", self._link(number), "nomaster")

    def received(self, number: int) -> int:
        """Return the bytes that a host has received."""
        (link,) = json.loads(ip("-j", "-s", "-n", self.name(number), "link", "show", "eth0"))
        return int(link["stats64"]["rx"]["bytes"])

    def remove(self) -> None:
        """Remove the hosts and their processes."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(SECONDS)
        for number in range(HOSTS):
            ip("link", "delete", self._link(number), check=False)
            ip("netns", "delete", self.name(number), check=False)
        ip("link", "delete", f"{self.token}b", check=False)


@pytest.fixture
def hosts(engine: str) -> Iterator[Hosts]:
    """Three hosts, if they can be made."""
    if missing := [program for program in ("ip", "unshare", "hostname") if shutil.which(program) is None]:
        pytest.skip(f"no network namespaces can be made: there is no {' and no '.join(missing)}")
    hosts = Hosts()
    try:
        try:
            hosts.make()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no network namespaces can be made: {getattr(error, 'stderr', None) or error}")
        yield hosts
    finally:
        hosts.remove()


@pytest.fixture
def spread(make_executor: Make, hosts: Hosts, tmp_path: Path) -> Make:
    """Executors with a worker of one core on each host."""

    def make(**settings: Any) -> TaskVineExecutor:
        password = tmp_path / "password"
        password.write_text("of the hosts, too\n")
        password.chmod(0o600)
        manager = TaskVineManagerConfig(
            address=hosts.address,
            project_password_file=str(password),
            tune_parameters={"keepalive-interval": 1, "keepalive-timeout": 2, **settings.pop("tune", {})},
        )
        executor = make_executor(worker_launch_method="manual", manager_config=manager, cores=1, **settings)
        for number in range(HOSTS):
            hosts.start(number, executor)
        assert executor.wait_for_nodes(HOSTS, SECONDS)
        return executor

    return make


def make_array(gate: Callable[[object], object], megabytes: int) -> Callable[..., str]:
    """A task that makes a file, and returns the name of its host. It waits, so that each runs on another host."""

    def make(number: int, outputs: list[File]) -> str:
        import socket

        import numpy as np

        np.full(megabytes * 2**17, float(number)).tofile(outputs[0].filepath)
        gate(f"make{number}")
        return socket.gethostname()

    return make


def add(inputs: list[File]) -> float:
    import numpy as np

    total = sum(np.fromfile(file.filepath) for file in inputs)
    assert np.all(total == total[0])
    return float(total[0])


@pytest.mark.parametrize("ssl", [False, True])
def test_peers_transfer_between_hosts(spread: Make, hosts: Hosts, gate: Gate, ssl: bool) -> None:
    executor = spread(ssl=ssl)
    files = [File(f"taskvinetemp:///f{number}") for number in range(HOSTS)]
    make = make_array(gate.task, MEGABYTES)
    made = [executor.submit(make, {}, number, outputs=[file]) for number, file in enumerate(files)]
    gate.wait(HOSTS)
    gate.open()
    assert sorted(future.result(SECONDS) for future in made) == [hosts.name(number) for number in range(HOSTS)]
    before = [hosts.received(number) for number in range(HOSTS)]
    assert executor.submit(add, {}, inputs=files).result(SECONDS) == 3
    received = [hosts.received(number) - before[number] for number in range(HOSTS)]
    assert max(received) > 2 * MEGABYTES * 2**20  # two of three files were on other hosts
    manager = executor.stats()["inputs_read"]
    # and they did not pass through the manager: these bytes are the supervisors and the calls
    assert manager < MEGABYTES * 2**20
    array = np.arange(MEGABYTES * 2**17, dtype=float)
    assert np.array_equal(executor.submit(lambda x: x + 1, {}, array).result(SECONDS), array + 1)


@pytest.mark.parametrize("replicas", [1, 2])
def test_work_of_a_host_that_is_cut_off_runs_elsewhere(
    spread: Make, hosts: Hosts, tmp_path: Path, nothing_left: str, replicas: int
) -> None:
    """Its files are recreated or read from another replica, and its tasks run elsewhere."""
    executor = spread(tune={"temp-replica-count": replicas})
    first, second = Gate(tmp_path / "first"), Gate(tmp_path / "second")
    files = [File(f"taskvinetemp:///f{number}") for number in range(HOSTS)]
    make = make_array(first.task, MEGABYTES)
    made = [executor.submit(make, {}, number, outputs=[file]) for number, file in enumerate(files)]
    first.wait(HOSTS)
    first.open()
    where = [future.result(SECONDS) for future in made]
    # TaskVine's count includes copies that are under way, and a worker waits for minutes for one that is cut off.
    copies = "taskvine-node-*/cache/temp-rnd-*.meta"
    eventually(lambda: len(list(Path(nothing_left).glob(copies))) >= replicas * HOSTS, SECONDS)
    held = [executor.submit(second.task, {}, number) for number in range(HOSTS)]
    second.wait(HOSTS)
    hosts.cut_off(int(where[0][-1]))
    eventually(lambda: len(executor.nodes) == HOSTS - 1, SECONDS)  # the file was missed
    second.open()
    assert [future.result(SECONDS)[0] for future in held] == list(range(HOSTS))
    sums = [executor.submit(add, {}, inputs=[files[0], file]) for file in files]
    assert [future.result(SECONDS) for future in sums] == [0, 1, 2]
    assert len(second.begun()) == HOSTS + 1
    if replicas == 1:
        eventually(lambda: executor.stats()["tasks_recovered"] >= 1)  # TaskVine's module counts once a second
    else:
        assert executor.stats()["tasks_recovered"] == 0
