"""A large input that a task on each node reads: how often its source is read, compared with HighThroughputExecutor.

    python -m benchmarks.shared_input                   256 MB, 8 nodes: needs up to 4.3 GB of TMPDIR
    python -m benchmarks.shared_input --megabytes 16    with less disk space

With TaskVineExecutor the file is an input (``inputs=[File("shared.dat")]``): the first node copies it from its source,
the others from nodes that have it. With HighThroughputExecutor every task reads the source. The kernel (inotify) counts
how often the source is opened; the other numbers come from the executor.

On one machine the page cache serves every reader, so copying a file takes longer than reading it in place. The
benchmark shows the load on the source, which on a cluster is the shared file system.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import apart

SYSTEMS = ("taskvine", "htex")
TITLES = {"taskvine": "TaskVineExecutor", "htex": "HighThroughputExecutor"}
SECONDS = 300.0
_IN_ACCESS, _IN_CLOSE, _IN_OPEN = 0x01, 0x10, 0x20


class Opens:
    """A counter of how often a file is opened and read (Linux).

    The kernel merges equal consecutive events. Reads and closes are watched too, because they come between opens;
    still, two opens at the same moment may count as one. An open with an immediate close does not count: programs that
    copy a file first try whether the file system can share extents.
    """

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN | _IN_ACCESS | _IN_CLOSE) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def count(self) -> int:
        """Return the number of opens since the previous call."""
        masks: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1 << 16):
                masks += [mask for _, mask, _, _ in struct.iter_unpack("iIII", data)]
        following = zip(masks, [*masks, 0][1:], strict=True)
        return sum(bool(mask & _IN_OPEN) and not after & _IN_CLOSE for mask, after in following)


def look(gate: str, number: int, count: int, path: str, inputs: Any = ()) -> tuple[int, str]:
    """Read the file once ``count`` tasks have begun, so that each is on a different node."""
    import fcntl
    import os
    import time
    import zlib

    open(os.path.join(gate, str(number)), "w").close()
    while len(os.listdir(gate)) < count:
        time.sleep(0.002)
    with open(f"{gate}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time, or simultaneous opens would count as one
        file = open(inputs[0].filepath if inputs else path, "rb", buffering=0)
        crc = zlib.crc32(file.read(1))
    with file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc, os.environ.get("PARSL_WORKER_BLOCK_ID", "")


def warm(gate: str, number: int, count: int, inputs: Any = ()) -> None:
    """Let every node import the modules for reading files."""
    import os
    import time

    open(os.path.join(gate, str(number)), "w").close()
    while len(os.listdir(gate)) < count:
        time.sleep(0.002)


def measure(system: str, nodes: int, source: Path) -> dict[str, Any]:
    """Run the benchmark on one executor, in the source's directory."""
    import parsl
    from parsl.config import Config
    from parsl.data_provider.files import File
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    from taskvine_exec import DAG_RESOLVER, TaskVineExecutor

    provider = LocalProvider(init_blocks=nodes, min_blocks=nodes, max_blocks=nodes)
    options: dict[str, Any] = {}
    executor: Any
    if system == "taskvine":
        executor = TaskVineExecutor(cores=1, provider=provider, working_directory="sandbox")
        options["dependency_resolver"] = DAG_RESOLVER
    else:
        executor = HighThroughputExecutor(
            encrypted=False, max_workers_per_node=1, cores_per_worker=1, provider=provider
        )
    with tempfile.TemporaryDirectory() as directory:
        gates = [os.path.join(directory, name) for name in ("first", "second")]
        for gate in gates:
            os.mkdir(gate)
        Path("small.dat").write_bytes(b"small")
        run_dir = os.path.join(directory, "runinfo")
        parsl.load(Config([executor], strategy="none", initialize_logging=False, run_dir=run_dir, **options))
        try:
            before: Any = parsl.python_app(warm)
            small, large = ([File(name)] if system == "taskvine" else [] for name in ("small.dat", source.name))
            for future in [before(gates[0], n, nodes, inputs=small) for n in range(nodes)]:
                future.result(SECONDS)
            opens = Opens(source)
            app: Any = parsl.python_app(look)
            begin = time.perf_counter()
            futures = [app(gates[1], n, nodes, str(source), inputs=large) for n in range(nodes)]
            crcs, blocks = zip(*(future.result(SECONDS) for future in futures), strict=True)
            report: dict[str, Any] = {"seconds": time.perf_counter() - begin, "opens": opens.count()}
            assert len(set(crcs)) == 1, "what was read differs"
            assert len(set(blocks)) == nodes, f"calls ran in blocks {sorted(blocks)} only"
            report["crc"] = crcs[0]
            size = source.stat().st_size
            if system == "taskvine":
                stats = executor.stats()
                report["read"] = stats["inputs_read"] - len(b"small")
                report["moved"] = stats["bytes_between_nodes"] - (nodes - 1) * len(b"small")
            else:
                report["read"] = nodes * size  # every task has read all of it
                report["moved"] = 0
        finally:
            parsl.dfk().cleanup()
    return report


def main() -> None:
    """Make the file, run both executors, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--nodes", type=int, default=8, help="nodes, of one core each")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.system:
        print(json.dumps(measure(arguments.system, arguments.nodes, Path(arguments.source))))
        return
    size = arguments.megabytes << 20
    # The file itself, and on each node a copy in the cache and, if extents cannot be shared, another in a sandbox.
    needed, free = size * (1 + 2 * arguments.nodes), shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed * 1.1:
        sys.exit(f"{tempfile.gettempdir()} has {free >> 20} MB free, but up to {needed >> 20} MB are needed")
    reports = {}
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "shared.dat")
        with open(source, "wb") as file:
            for _ in range(arguments.megabytes):
                file.write(os.urandom(1 << 20))
        os.utime(source, (1e9, 1e9))  # a file that has just changed would be checked twice
        for system in SYSTEMS:
            reports[system] = _apart(system, arguments.nodes, source)
    assert len({report["crc"] for report in reports.values()}) == 1
    _print(arguments, reports)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(arguments), "reports": reports}, file, indent=2)


def _apart(system: str, nodes: int, source: Path) -> dict[str, Any]:
    words = ["--system", system, "--nodes", nodes, "--source", source]
    report: dict[str, Any] = apart.measure("benchmarks.shared_input", *words, directory=str(source.parent))
    return report


def _print(arguments: argparse.Namespace, reports: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "system", "source read, times", "read of it (MB)", "between nodes (MB)", "seconds",
        title=f"{arguments.megabytes} MB read on {arguments.nodes} nodes",
    )  # fmt: skip
    for system, report in reports.items():
        moved = [f"{report[name] / 2**20:.0f}" for name in ("read", "moved")]
        table.add_row(TITLES[system], str(report["opens"]), *moved, f"{report['seconds']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
