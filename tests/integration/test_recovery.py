"""Files that were lost with a node, or damaged, are recreated if a task or the user needs them; no others are."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parsl
import pytest
from parsl.data_provider.files import File
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.errors import DependencyError
from parsl.providers import LocalProvider

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor, TempFile
from taskvine_exec.errors import FileLost
from tests.conftest import eventually, first_node
from tests.engines import on_both

LARGE = 100_000  # doubles: far more than fits a message
Load = Callable[..., DataFlowKernel]


class Cluster:
    """Some nodes of one core each, a record of the calls that ran, and ways to damage files."""

    def __init__(self, load: Load, directory: Path, nodes: int, **settings: Any) -> None:
        provider = LocalProvider(init_blocks=nodes, min_blocks=nodes, max_blocks=nodes)
        self.executor = TaskVineExecutor(label="tv", cores=1, provider=provider, **settings)
        load([self.executor], dependency_resolver=DAG_RESOLVER)
        assert self.executor.wait_for_nodes(nodes, 30)
        self.account = str(directory / "account")

    @property
    def runs(self) -> Counter[str]:
        """How often each call ran."""
        return Counter(Path(self.account).read_text().split()) if os.path.exists(self.account) else Counter()

    def replicas(self) -> dict[str, list[str]]:
        """Nodes by file."""
        found: dict[str, list[str]] = self.executor.stats()["replicas"]
        return found

    def kill(self, name: str) -> None:
        """Kill a node; its files are gone when this returns."""
        node = next(node for node in self.executor.nodes if node["name"] == name)
        os.kill(node["pid"], signal.SIGKILL)
        eventually(lambda: not os.path.exists(node["directory"]))

    def path(self, file: str, node: str) -> Path:
        """Return where a node has a file."""
        directory = next(each["directory"] for each in self.executor.nodes if each["name"] == node)
        return Path(directory) / "cache" / file


@pytest.fixture
def engine() -> str:
    """Most tests here look into nodes' caches; TaskVine behaves differently there, or reports nothing."""
    return "embedded"


@pytest.fixture
def cluster(load: Load, tmp_path: Path, engine: str) -> Callable[..., Cluster]:
    return lambda nodes=2, **settings: Cluster(load, tmp_path, nodes, engine=engine, **settings)


@parsl.python_app
def make(account: str, name: str, fill: float, parsl_resource_specification: Any = None) -> Any:
    import numpy as np

    with open(account, "a") as file:
        file.write(name + "\n")
    return np.full(100_000, fill)


@parsl.python_app
def add(account: str, name: str, *parts: Any, gate: str | None = None) -> Any:
    import os
    import time

    with open(account, "a") as file:
        file.write(name + "\n")
    while gate is not None and not os.path.exists(gate):
        time.sleep(0.005)
    return sum(parts[1:], start=parts[0].copy())


@parsl.python_app
def write(account: str, name: str, text: str, outputs: Any = ()) -> None:
    with open(account, "a") as file:
        file.write(name + "\n")
    with open(outputs[0].filepath, "w") as file:
        file.write(text)


@parsl.python_app
def read(inputs: Any = ()) -> str:
    return "+".join(open(file.filepath).read() for file in inputs)


@on_both
def test_lost_result_is_recreated_on_request(cluster: Callable[..., Cluster]) -> None:
    it = cluster()
    future = make(it.account, "a", 1.0)
    other = make(it.account, "unread", 1.0)
    eventually(lambda: future.done() and other.done())
    for nodes in list(it.replicas().values()):
        for name in nodes:
            if any(node["name"] == name for node in it.executor.nodes):
                it.kill(name)
    assert np.array_equal(future.result(30), np.full(LARGE, 1.0))
    assert it.runs == {"a": 2, "unread": 1}  # a file that is not needed is not recreated


@parsl.python_app
def sized(doubles: int) -> Any:
    import numpy as np

    return np.ones(doubles)


@on_both
def test_unexpectedly_large_result_is_used_for_recoveries(cluster: Callable[..., Cluster]) -> None:
    it = cluster(1)
    for _ in range(3):
        assert sized(1).result(30).size == 1
    large = sized(LARGE)
    total = add(it.account, "sum", large)
    eventually(total.done)
    del large
    gc.collect()
    it.kill(first_node(it.executor)["name"])
    assert np.array_equal(total.result(30), np.ones(LARGE))
    assert it.runs == {"sum": 2}


@on_both
def test_exactly_the_lost_set_is_recreated(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    it = cluster(1)
    gate = str(tmp_path / "gate")
    leaves = [make(it.account, f"leaf{number}", float(number)) for number in range(4)]
    sums = [add(it.account, f"sum{number}", *leaves[2 * number : 2 * number + 2]) for number in range(2)]
    keep = leaves[0]
    last = add(it.account, "last", *sums, gate=gate)
    eventually(lambda: it.runs["last"] == 1)
    del leaves
    it.kill(first_node(it.executor)["name"])
    Path(gate).touch()
    assert last.result(60)[0] == 6.0
    # The sums and their leaves were lost with the node, so all calls before the last one ran again.
    assert it.runs == {**{f"leaf{n}": 2 for n in range(4)}, "sum0": 2, "sum1": 2, "last": 2}
    assert keep.result(30)[0] == 0.0


def test_with_two_replicas_no_task_runs_again(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    it = cluster(3, tune_parameters={"temp-replica-count": 2})
    gate = tmp_path / "gate"
    parts = [make(it.account, f"part{number}", float(number)) for number in range(6)]
    for part in parts:
        eventually(part.done)
    eventually(lambda: [len(nodes) for nodes in it.replicas().values()] == [2] * 6)
    it.kill(first_node(it.executor)["name"])
    gate.touch()
    assert add(it.account, "sum", *parts).result(30)[0] == 15.0
    assert it.runs == {**{f"part{number}": 1 for number in range(6)}, "sum": 1}


@pytest.mark.parametrize("how", ["written to", "cut short", "removed"])
def test_damaged_replica_counts_as_lost(cluster: Callable[..., Cluster], how: str) -> None:
    it = cluster(1)
    future = make(it.account, "a", 1.0)
    eventually(future.done)
    ((file, (node,)),) = it.replicas().items()
    path = it.path(file, node)
    if how == "removed":
        path.unlink()
    else:
        with open(path, "r+b") as stream:
            if how == "cut short":
                stream.truncate(1000)
            else:
                stream.seek(5000)
                stream.write(b"spoiled")
    assert add(it.account, "sum", future, future).result(30)[-1] == 2.0
    assert it.runs == {"a": 2, "sum": 1}
    assert np.array_equal(future.result(30), np.full(LARGE, 1.0))
    assert it.runs == {"a": 2, "sum": 1}


def test_damaged_replica_is_replaced_by_another(cluster: Callable[..., Cluster]) -> None:
    it = cluster(2, tune_parameters={"temp-replica-count": 2})
    future = make(it.account, "a", 1.0)
    eventually(lambda: [len(nodes) for nodes in it.replicas().values()] == [2])
    ((file, nodes),) = it.replicas().items()
    with open(it.path(file, nodes[0]), "r+b") as stream:
        stream.write(b"spoiled")
    sums = [add(it.account, f"sum{number}", future, future) for number in range(4)]
    assert [each.result(30)[-1] for each in sums] == [2.0] * 4
    assert it.runs["a"] == 1


@on_both
def test_unrecoverable_file_is_lost(cluster: Callable[..., Cluster]) -> None:
    it = cluster(1)
    once = {"recoverable": False}
    future = make(it.account, "a", 1.0, parsl_resource_specification=once)
    eventually(future.done)
    node = first_node(it.executor)["name"]
    it.kill(node)
    error = add(it.account, "sum", future).exception(30)
    assert isinstance(error, FileLost)
    assert error.name == f"result-{future.tid}"
    assert node in str(error)
    with pytest.raises(FileLost, match=node):
        future.result(30)
    assert it.runs == {"a": 1}


def test_failed_recovery_names_the_failed_task(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    @parsl.python_app
    def once(flag: str) -> Any:
        import os

        import numpy as np

        os.mkdir(flag)  # this fails at the second run
        return np.ones(100_000)

    it = cluster(1)
    future = once(str(tmp_path / "flag"))
    eventually(future.done)
    it.kill(first_node(it.executor)["name"])
    error = add(it.account, "sum", future).exception(30)
    assert isinstance(error, FileLost)
    assert "FileExistsError" in str(error)
    with pytest.raises(FileLost, match="FileExistsError"):
        future.result(30)


@on_both
def test_temp_files_are_recreated(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    it = cluster(1)
    first = write(it.account, "first", "one", outputs=[File("taskvinetemp:///first")])
    second = write(it.account, "second", "two", outputs=[File("taskvinetemp:///second")])
    for future in (first, second):
        future.result(30)
    it.kill(first_node(it.executor)["name"])
    assert read(inputs=[first.outputs[0]]).result(30) == "one"
    assert it.runs == {"first": 2, "second": 1}
    it.executor.fetch(second.outputs[0], tmp_path / "home")
    assert (tmp_path / "home").read_text() == "two"
    assert it.runs == {"first": 2, "second": 2}


def test_immediate_recovery_needs_no_request(cluster: Callable[..., Cluster]) -> None:
    it = cluster(1, tune_parameters={"immediate-recovery": 1})
    future = make(it.account, "a", 1.0)
    eventually(future.done)
    it.kill(first_node(it.executor)["name"])
    eventually(lambda: it.runs["a"] == 2)


def test_replica_count_of_one_file_and_of_all(cluster: Callable[..., Cluster]) -> None:
    it = cluster(3)
    plain = write(it.account, "plain", "one", outputs=[File("taskvinetemp:///plain")])
    three = write(it.account, "three", "two", outputs=[TempFile("three", replicas=3)])
    for future in (plain, three):
        future.result(30)

    def counts() -> dict[str, int]:
        return {file.partition("@")[0]: len(nodes) for file, nodes in it.replicas().items()}

    eventually(lambda: counts() == {"plain": 1, "three": 3})
    it.executor.tune({"temp-replica-count": 2})
    eventually(lambda: counts() == {"plain": 2, "three": 3})
    it.executor.tune({"temp-replica-count": 1, "clean-redundant-replicas": 1})
    eventually(lambda: counts() == {"plain": 1, "three": 3})
    assert read(inputs=[plain.outputs[0], three.outputs[0]]).result(30) == "one+two"


@pytest.mark.parametrize("restore", [0, 1])
def test_replica_count_is_restored_on_request(cluster: Callable[..., Cluster], restore: int) -> None:
    it = cluster(3, tune_parameters={"temp-replica-count": 2, "transfer-temps-recovery": restore})
    future = make(it.account, "a", 1.0)
    eventually(lambda: [len(nodes) for nodes in it.replicas().values()] == [2])
    ((_, nodes),) = it.replicas().items()
    it.kill(nodes[0])
    if restore:
        eventually(lambda: [len(left) for left in it.replicas().values()] == [2])
    assert add(it.account, "sum", future).result(30)[0] == 1.0
    assert it.runs["a"] == 1


def test_without_peer_transfers_data_passes_through_the_manager(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    it = cluster(2, enable_peer_transfers=False)
    gate = str(tmp_path / "gate")
    parts = [make(it.account, f"part{number}", float(number)) for number in range(4)]
    for part in parts:
        eventually(part.done)
    held = {file: nodes[0] for file, nodes in it.replicas().items()}
    # on the node with most of its inputs, or on the other: something has to move
    blocker = add(it.account, "blocker", parts[0], gate=gate)
    eventually(lambda: it.runs["blocker"] == 1)
    assert add(it.account, "sum", *parts).result(30)[0] == 6.0
    Path(gate).touch()
    assert blocker.result(30)[0] == 0.0
    assert it.executor.stats()["bytes_between_nodes"] > 0
    assert len(held) == 4
    del parts, part, blocker
    eventually(lambda: gc.collect() >= 0 and it.replicas() == {})
    base = Path(first_node(it.executor)["directory"]).parent.parent
    eventually(lambda: not any((base / "relay").iterdir()))


def test_evicted_files_are_recreated(cluster: Callable[..., Cluster]) -> None:
    it = cluster(1, disk=4)  # MB; each part has 0.8
    parts = [make(it.account, f"part{number}", float(number)) for number in range(10)]
    assert [part.result(60)[0] for part in parts] == [float(number) for number in range(10)]
    assert it.executor.stats()["bytes_stored"] <= 4 * 2**20
    sums = [add(it.account, f"sum{number}", parts[number], parts[number + 1]) for number in range(9)]
    assert [each.result(60)[0] for each in sums] == [2.0 * number + 1 for number in range(9)]


def test_unrecoverable_files_are_not_evicted(cluster: Callable[..., Cluster]) -> None:
    from taskvine_exec.errors import DiskFull

    it = cluster(1, disk=2)
    once = {"recoverable": False}
    kept = [make(it.account, f"part{number}", 1.0, parsl_resource_specification=once) for number in range(3)]
    errors = [future.exception(60) for future in kept]
    assert sorted(type(error) for error in errors if error is not None) == [DiskFull]
    assert [future.result(30)[0] for future, error in zip(kept, errors, strict=True) if error is None] == [1.0, 1.0]


class Opens:
    """Counts with the kernel's inotify how often a file is opened and read.

    The kernel merges equal events that follow each other, so reads and closes, which come between, are watched too. A
    file that is closed directly after it was opened was not read: the node tried to share its extents.
    """

    _ACCESS, _CLOSE, _OPEN = 0x01, 0x10, 0x20

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(path), self._ACCESS | self._CLOSE | self._OPEN) > 0

    def count(self) -> int:
        """Return how often the file was read since the last look."""
        masks: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1 << 16):
                masks += [mask for _, mask, _, _ in struct.iter_unpack("iIII", data)]
        following = zip(masks, [*masks, 0][1:], strict=True)
        return sum(bool(mask & self._OPEN) and not after & self._CLOSE for mask, after in following)

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    """A file of the user that is old enough to be trusted unchanged, and a count of its reads."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "shared.dat"
    path.write_bytes(os.urandom(1 << 20))
    os.utime(path, (1e9, 1e9))
    eventually(lambda: time.time() - path.stat().st_ctime > 0.1)
    opens = Opens(path)
    yield opens
    opens.close()


def test_shared_input_is_read_once(cluster: Callable[..., Cluster], shared: Opens, tmp_path: Path) -> None:
    @parsl.python_app
    def look(gate: str, number: int, inputs: Any = ()) -> tuple[str, int]:
        import hashlib
        import os
        import time

        open(f"{gate}.{number}", "w").close()
        while len([name for name in os.listdir(os.path.dirname(gate)) if name.startswith("gate.")]) < 4:
            time.sleep(0.005)  # all four at once, each on another node
        return hashlib.sha256(open(inputs[0].filepath, "rb").read()).hexdigest(), number

    assert shared.count() == 0
    for _ in range(2):
        Path("shared.dat").read_bytes()
    assert shared.count() == 2  # the count of reads works
    it = cluster(4, working_directory="sandbox")
    futures = [look(str(tmp_path / "gate"), number, inputs=[File("shared.dat")]) for number in range(4)]
    assert len({future.result(30)[0] for future in futures}) == 1
    assert shared.count() == 1
    assert it.executor.stats()["inputs_read"] == 1 << 20
    assert it.executor.stats()["bytes_between_nodes"] == 3 << 20


def test_failed_producer_is_a_dependency_error(cluster: Callable[..., Cluster]) -> None:
    @parsl.python_app
    def fail() -> Any:
        raise ValueError("no")

    it = cluster(1)
    with pytest.raises(DependencyError):
        add(it.account, "sum", fail()).result(30)
