"""Python environments of tasks (``env_pack``): unpacked once on a node, shared by all that names them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile


class EnvironmentBroken(Exception):
    """An environment cannot be used; the message says why."""


def interpreter(pack: str | None, directory: str) -> str:
    """The Python interpreter of an environment.

    Parameters
    ----------
    pack : str or None
        Path of a conda-pack, venv-pack or poncho tarball, or of an environment's directory; None for the interpreter
        that runs this.
    directory : str
        Where tarballs are unpacked, under the hash of their content.

    Raises
    ------
    EnvironmentBroken
        If the tarball cannot be unpacked, or has no ``bin/python``.
    """
    if pack is None:
        return sys.executable
    root = pack if os.path.isdir(pack) else _unpack(pack, directory)
    for candidate in (root, *(entry.path for entry in os.scandir(root) if entry.is_dir())):
        python = os.path.join(candidate, "bin", "python")
        if os.access(python, os.X_OK):
            _relocate(candidate, python)
            return python
    raise EnvironmentBroken(f"env_pack {pack} has no bin/python")


def _unpack(pack: str, directory: str) -> str:
    try:
        with open(pack, "rb") as file:
            digest = hashlib.blake2b(digest_size=16)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        root = os.path.join(directory, digest.hexdigest())
        if not os.path.isdir(root):
            partial = f"{root}.partial"
            with tarfile.open(pack) as archive:
                archive.extractall(partial, filter="tar") if hasattr(tarfile, "tar_filter") else archive.extractall(
                    partial
                )
            os.rename(partial, root)
    except (OSError, tarfile.TarError) as error:
        raise EnvironmentBroken(f"env_pack {pack} cannot be unpacked: {error}") from error
    return root


def _relocate(root: str, python: str) -> None:
    # conda-pack writes this script to mend the prefixes that an environment's files carry.
    unpack = os.path.join(root, "bin", "conda-unpack")
    done = os.path.join(root, ".unpacked")
    if os.path.exists(unpack) and not os.path.exists(done):
        finished = subprocess.run([python, unpack], capture_output=True, text=True, check=False)
        if finished.returncode:
            raise EnvironmentBroken(f"conda-unpack failed in {root}: {finished.stderr[-500:]}")
        with open(done, "w", encoding="utf-8"):
            pass


def activated(pack: str | None, python: str, environment: dict[str, str]) -> dict[str, str]:
    """An environment's variables, as its activation would set them."""
    if pack is None:
        return environment
    binaries = os.path.dirname(python)
    return {
        **environment,
        "PATH": binaries + os.pathsep + environment.get("PATH", os.defpath),
        "VIRTUAL_ENV": os.path.dirname(binaries),
        "CONDA_PREFIX": os.path.dirname(binaries),
    }
