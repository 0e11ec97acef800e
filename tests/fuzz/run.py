"""Mutated bytes for every decoder and socket: invalid input is refused as documented, and ends no run.

    python tests/fuzz/run.py --count 200000      this number of inputs, over all targets
    python tests/fuzz/run.py --target trees      only this target

Each input is a valid one in which some bytes are changed, inserted, removed, doubled or taken from another valid one.
All inputs follow from the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import math
import os
import pickle
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from taskvine_exec import radio
from taskvine_exec.blocks import slurm
from taskvine_manager.embedded import incoming
from taskvine_manager.node import limits, trees
from taskvine_manager.record import Recorder, read_record
from taskvine_manager.runtime import claims, failure, payload
from taskvine_manager.vine import access, seals
from taskvine_manager.vine.manager import admission
from taskvine_manager.vine.worker import pipe
from taskvine_manager.vine.worker.trouble import Listener
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import Completion, Invocation
from tests.unit.taskvine_manager.embedded.shell import PROFILE, Node, Shell
from tests.unit.taskvine_manager.embedded.test_incoming import VALID

EXTREMES = [struct.pack("<Q", number) for number in (0, 1, 2**31 - 1, 2**32, 2**63, 2**64 - 1)]


def mutate(rng: random.Random, samples: list[bytes], *, extremes: bool) -> bytes:
    """Change a valid input in one to four places."""
    data = bytearray(rng.choice(samples))
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(7 if extremes else 5)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place:place] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif kind == 2:
            del data[place : place + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            data[place:place] = data[place : place + rng.choice((1, 8, 64))]
        elif kind == 6:
            data[place : place + 8] = rng.choice(EXTREMES)
        elif kind == 5:
            other = rng.choice(samples)
            start = rng.randrange(len(other) + 1)
            data[place:] = other[start:]
    return bytes(data)


class Target(ABC):
    """Code that reads bytes from other processes."""

    allowed: tuple[type[BaseException], ...] = ()
    """The exceptions that it may raise."""
    extremes = True
    """Whether extreme numbers of eight bytes are inserted."""
    share = 1.0
    """Share of the inputs that this target gets, compared with others."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    @abstractmethod
    def samples(self) -> list[bytes]:
        """Valid inputs."""

    @abstractmethod
    def act(self, data: bytes) -> None:
        """Make the target read an input."""

    def close(self) -> None:  # noqa: B027  (few have something to do)
        """Check the state at the end."""


class Messages(Target):
    """Frames between processes, and the checks of messages from nodes."""

    allowed = (ValueError,)

    def samples(self) -> list[bytes]:
        return [messages.encode(*message) for message in VALID]

    def act(self, data: bytes) -> None:
        decoder = messages.Decoder()
        decoder.feed(data)
        while (message := decoder.next()) is not None:
            kind, *rest = message
            incoming.check(kind, tuple(rest))


class Dropped(Exception):
    """The manager has ended a connection."""


class Nodes(Target):
    """The manager's socket, after a valid hello; at the end, another node does all the work."""

    allowed = (Dropped,)
    TASKS = 50

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.shell = Shell(directory)
        calls = [Invocation(number, 0, b"") for number in range(self.TASKS)]
        self.shell.engine.submit([("key", b"function")], [PROFILE], calls)
        self.count = 0
        self.node: Node | None = None

    def samples(self) -> list[bytes]:
        return [messages.encode(*message) for message in VALID]

    def act(self, data: bytes) -> None:
        if self.node is None:
            self.count += 1
            self.node = self.shell.node()
            self.node.say("hello", self.node.info(f"bad{self.count}"))
        self.node.channel.queue_encoded(data)
        self.node.channel.push()
        self.shell.turn()
        if self.node.is_dropped:
            self.shell.peers.remove(self.node)
            self.node.channel.close()
            self.node = None
            raise Dropped

    def close(self) -> None:
        if self.node is not None:
            self.node.channel.close()
            self.shell.turn()
        good = self.shell.node()
        good.say("hello", good.info("good"))
        while good.work():
            pass
        ended = {each.number for each in self.shell.outlet.ended}
        # A node that is given a call may end it in any way, and the call may be given up after some losses.
        if not set(range(self.TASKS)) <= ended:
            raise AssertionError(f"calls did not end: {sorted(set(range(self.TASKS)) - ended)}")
        self.shell.close()


class Files(Target):
    """Code that reads a file."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.path = os.path.join(directory, "input")

    def act(self, data: bytes) -> None:
        with open(self.path, "wb") as file:
            file.write(data)
        self.read(self.path)

    @abstractmethod
    def read(self, path: str) -> None:
        """Read the file."""

    def written(self, write: Callable[[str], object]) -> bytes:
        """Return the bytes of a valid file."""
        path = os.path.join(self.directory, "valid")
        write(path)
        data = Path(path).read_bytes()
        os.unlink(path)
        return data


class Values(Files):
    """Large values."""

    allowed = (payload.Damaged, OSError)

    def samples(self) -> list[bytes]:
        encoded = [payload.encode(value, self.directory, pickle.dumps, 0) for value in (np.arange(9000), "x" * 9, [1])]
        return [Path(str(path)).read_bytes() for path in encoded]

    def read(self, path: str) -> None:
        payload.read(path)


class Records(Files):
    """The record of a run."""

    allowed = (ValueError,)

    def samples(self) -> list[bytes]:
        def write(path: str) -> None:
            recorder = Recorder(path, engine="embedded", tune_parameters={})
            recorder.submitted([PROFILE], [Invocation(1, 0, b"12345")])
            recorder.done([Completion(1, failure.RETURNED, b"123", "node-1", 1.0, 2.0, 0.5, (("f@t0", 10, 1),))])
            recorder.close()

        return [self.written(write)]

    def read(self, path: str) -> None:
        read_record(path)


class Trees(Files):
    """Archives of directories; nothing may be written beside the target."""

    allowed = (OSError,)

    def samples(self) -> list[bytes]:
        root = Path(self.directory, "tree")
        (root / "a" / "b").mkdir(parents=True)
        (root / "a" / "b" / "file").write_bytes(b"content" * 50)
        (root / "empty").touch()
        os.symlink("a", root / "link")
        data = self.written(lambda path: trees.pack(str(root), path))
        shutil.rmtree(root)
        # an archive that tries to write to another place
        return [data, data.replace(b'"a/b/file"', b'"../outside"'), data.replace(b'"link"', b'"/link"')]

    def read(self, path: str) -> None:
        before = set(os.listdir(self.directory))
        target = os.path.join(self.directory, "target")
        try:
            trees.unpack(path, target)
        finally:
            shutil.rmtree(target, ignore_errors=True)
            if beside := set(os.listdir(self.directory)) - before:
                raise AssertionError(f"written beside the target: {beside}")


class Seals(Files):
    """Files that end with their length."""

    allowed = (OSError,)

    def samples(self) -> list[bytes]:
        def write(path: str) -> None:
            Path(path).write_bytes(b"content")
            seals.seal(path)

        return [self.written(write)]

    def read(self, path: str) -> None:
        seals.check(path)


class Claims(Files):
    """Claims to shared buffers."""

    allowed = (ValueError, OSError)

    def samples(self) -> list[bytes]:
        return [b"/tmp/buffer-1", b"/dev/shm/taskvine-x/buffer-abc"]

    def read(self, path: str) -> None:
        claims.claimed(path)


class Calls(Target):
    """Function calls that come through TaskVine's worker."""

    allowed = (ValueError,)

    def samples(self) -> list[bytes]:
        return [pipe.frame("7 - /sandbox /sandbox/out"), pipe.frame("1 gASV /s /o") + pipe.frame("2 gASV /s /o")]

    def act(self, data: bytes) -> None:
        list(pipe.CallReader().feed(data))


class Radio(Target):
    """Monitoring messages: any task can send them."""

    extremes = False  # a pickle may ask for a table of many gigabytes, which takes seconds to refuse
    share = 0.02  # modules that do not exist are searched for everywhere

    def samples(self) -> list[bytes]:
        return [pickle.dumps((radio.MessageType.RESOURCE_INFO, {"a": 1})), b"said"]

    def act(self, data: bytes) -> None:
        radio.read_message(data)


class Words(Target):
    """Output of batch systems, the kernel and TaskVine's worker."""

    def samples(self) -> list[bytes]:
        job = "JobId=7 JobName=x JobState=PENDING Reason=Resources ExitCode=0:0 Partition=compute"
        mounts = "31 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n25 1 0:2 / /c rw - cgroup2 x rw"
        slurm_said = "SLURM_JOB_ID 7 SLURM_CPUS_ON_NODE 4 SLURM_JOB_CPUS_PER_NODE 4(x2),8 SLURM_MEM_PER_NODE 100"
        worker = "couldn't connect to host:123\nwrong password for manager\nfailed to setup workspace /x\n"
        return [text.encode() for text in (job, mounts, slurm_said, worker, "4:memory:/a/b\n0::/x", "max 100000")]

    def act(self, data: bytes) -> None:
        text = data.decode(errors="replace")
        slurm.parse(text)
        for controller in ("memory", "cpu"):
            found = limits.groups(controller, text, text)
            limits.memory_limits(found, lambda _: text)
            limits.cpu_limits(found, lambda _: text)
        words = text.split(" ")
        environment = dict(zip(words[::2], words[1::2], strict=False))
        limits.job_cores({"PBS_JOBID": "1", "JOB_ID": "1", **environment}, text, "host")
        limits.job_memory({"PBS_JOBID": "1", **environment})
        Listener(None, None, "/x").feed("err", data)


class Admission(Target):
    """The handshake with processes that connect from other machines."""

    allowed = (access.Refused, EOFError, OSError)

    def samples(self) -> list[bytes]:
        identity = access.IDENTITY + b"\n"
        return [identity + b"a" * 64 + b"\n" + b"b" * 40 + b"\nok\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]

    def act(self, data: bytes) -> None:
        async def shake() -> None:
            reader = asyncio.StreamReader(limit=1 << 16)
            reader.feed_data(data)
            reader.feed_eof()
            await admission.authenticate(reader, _Sink(), b"secret")  # type: ignore[arg-type]

        asyncio.run(shake())


class _Sink(io.BytesIO):
    """A stream that accepts everything."""

    async def drain(self) -> None:
        """Do not wait."""


TARGETS: dict[str, type[Target]] = {
    kind.__name__.lower(): kind
    for kind in (Messages, Nodes, Values, Records, Trees, Seals, Claims, Calls, Radio, Words, Admission)
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)  # each refusal is logged
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def fuzz(name: str, count: int, seed: int) -> int:
    """Give a target mutated inputs; return how many it refused.

    Raises
    ------
    AssertionError
        If it did not behave as documented. The message contains the input.
    """
    rng = random.Random(f"{name}-{seed}")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory, _quiet():
        target = TARGETS[name](directory)
        samples = target.samples()
        refused = 0
        for number in range(count):
            data = mutate(rng, samples, extremes=target.extremes)
            try:
                target.act(data)
            except target.allowed:
                refused += 1
            except BaseException as error:
                raise AssertionError(f"{name}, input {number} of seed {seed}: {data!r}") from error
        target.close()
    return refused


def main() -> int:
    """Fuzz, and print a line for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000, help="inputs, over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, help="that one alone")
    options = parser.parse_args()
    names = list(TARGETS) if options.target is None else [options.target]
    failed = 0
    for name in names:
        begun = time.perf_counter()
        shares = sum(TARGETS[each].share for each in names)
        count = math.ceil(options.count * TARGETS[name].share / shares)
        try:
            refused = fuzz(name, count, options.seed)
        except AssertionError:
            traceback.print_exc()
            failed += 1
            continue
        print(f"{name:<10} {count:8,} inputs, {refused:8,} refused, {time.perf_counter() - begun:6.1f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
