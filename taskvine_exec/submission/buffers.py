"""Large buffers of arguments, stored once for any number of tasks.

An argument of many tasks is pickled for each of them. To store its bytes only once, :class:`Buffers` compares each
large buffer with the stored ones. Two buffers share a file only if all their bytes are equal when the second one is
submitted: neither object identity nor a digest is trusted. An array that was changed in place therefore gets a new
file.

Each task has a claim to the files of its buffers (:mod:`taskvine_manager.runtime.claims`). The manager removes the
claim when the task cannot be run again, and a file is removed with its last claim. This process is not told: it sees
that a file is gone when it tries to claim it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Sequence

from taskvine_exec.parsl_hooks import comparison
from taskvine_manager.runtime import claims, payload

_SAMPLE_PIECES = 64
_PIECE_BYTES = 64
"""A buffer's sample has so many pieces, of so many bytes, evenly spread. Buffers with equal samples are compared."""
_CANDIDATES = 4
"""Most stored buffers that a new one is compared with."""
_FEW = 64
"""A table with fewer entries is not searched for those of removed files."""


class Buffers:
    """The large buffers that an executor has stored. Thread-safe.

    ``shared`` counts the bytes that were not stored again, because an equal buffer was there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alike: dict[bytes, _Alike] = {}
        self._most = _FEW
        self.shared = 0

    def sample(self, buffer: memoryview) -> bytes:
        """Return a key that is the same for equal buffers, and rarely for others."""
        step = max(_PIECE_BYTES, (buffer.nbytes - _PIECE_BYTES) // (_SAMPLE_PIECES - 1))
        pieces = [buffer[start : start + _PIECE_BYTES] for start in range(0, buffer.nbytes, step)]
        return hashlib.blake2b(b"".join(pieces), digest_size=16, salt=buffer.nbytes.to_bytes(8, "little")).digest()

    def directory(self, samples: Sequence[bytes]) -> str | None:
        """Return the directory of a stored buffer with one of these samples, since claims do not cross file systems."""
        for sample in samples:
            if (alike := self._alike.get(sample)) is not None and (found := alike.directory()) is not None:
                return found
        return None

    def put(self, buffer: memoryview, sample: bytes, path: str) -> None:
        """Make a claim at ``path`` to a file with the bytes of a buffer; write the file if there is none.

        Raises
        ------
        OSError
            If the file system is full.
        """
        with self._lock:
            alike = self._alike.get(sample)
            if alike is None:
                self._forget_removed()
                alike = self._alike[sample] = _Alike()
        with alike.lock:  # if two threads submit the same new buffer, the second one waits and finds it
            if alike.claim(buffer, path):
                with self._lock:
                    self.shared += buffer.nbytes
            else:
                alike.add(_write(buffer, path), buffer.nbytes)

    @property
    def known(self) -> int:
        """Number of samples that new buffers are compared with."""
        return len(self._alike)

    def stored(self) -> int:
        """Return the number of bytes stored now."""
        with self._lock:
            every = list(self._alike.values())
        return sum(alike.stored() for alike in every)

    def _forget_removed(self) -> None:
        """Drop the samples of removed buffers, whenever the number of samples has doubled."""
        if len(self._alike) >= self._most:
            self._alike = {sample: alike for sample, alike in self._alike.items() if not alike.is_unused()}
            self._most = max(_FEW, 2 * len(self._alike))


class _Alike:
    """The stored buffers with equal samples, the most recently used one last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._most = _FEW

    def directory(self) -> str | None:
        """Return the directory of the most recently used buffer, if it is still stored."""
        last = list(self._sizes)[-1:]
        return os.path.dirname(last[0]) if last and claims.is_offered(last[0]) else None

    def claim(self, buffer: memoryview, path: str) -> bool:
        """Make a claim to a file with the bytes of a buffer, if there is one."""
        for file in list(self._sizes)[: -_CANDIDATES - 1 : -1]:
            try:
                claims.claim(file, path)
            except FileNotFoundError:  # its last claim has been removed
                del self._sizes[file]
                continue
            except OSError:  # another file system, or one that allows no more links to a file
                continue
            if comparison.holds(file, buffer):
                self._sizes[file] = self._sizes.pop(file)
                return True
            payload.release(path)  # only the sample was equal
        return False

    def add(self, file: str, size: int) -> None:
        """Add a new file."""
        if len(self._sizes) >= self._most:
            self._sizes = {each: size for each, size in self._sizes.items() if claims.is_offered(each)}
            self._most = max(_FEW, 2 * len(self._sizes))
        self._sizes[file] = size

    def stored(self) -> int:
        """Return the number of bytes stored now."""
        with self.lock:
            return sum(size for file, size in self._sizes.items() if claims.is_offered(file))

    def is_unused(self) -> bool:
        """Whether no buffer of this sample is stored or being written."""
        return not self.lock.locked() and not any(map(claims.is_offered, list(self._sizes)))


def _write(buffer: memoryview, path: str) -> str:
    try:
        return payload.write_buffer(buffer, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = f"{error.strerror}: an argument of {buffer.nbytes / 1e6:,.0f} MB cannot be stored"
        raise OSError(error.errno, said, os.path.dirname(path)) from error
