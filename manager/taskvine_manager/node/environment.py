"""Python environments of tasks (``env_pack``): unpacked once on a node, and shared by all tasks that name them."""

from __future__ import annotations

import os
import subprocess
import sys

from taskvine_manager.node import digest


class EnvironmentBroken(Exception):
    """An environment cannot be used; the message says why."""


def interpreter(pack: str | None, directory: str, version: tuple[int, ...] | None = None) -> str:
    """Return the path of an environment's Python interpreter.

    Parameters
    ----------
    pack : str or None
        Path of a conda-pack, venv-pack or poncho tarball, or of an environment's directory; None for the current
        interpreter.
    directory : str
        Parent directory of unpacked tarballs, which are named by the hash of their content.
    version : tuple of int, optional
        Major and minor version of the Python that pickles the functions. Functions of ``__main__`` are pickled as
        bytecode, which another version cannot run.

    Raises
    ------
    EnvironmentBroken
        If the tarball cannot be unpacked, has no ``bin/python`` that runs here, or has another Python version.
    """
    if pack is None:
        if version is not None and sys.version_info[:2] != version:
            raise EnvironmentBroken(_mismatch(".".join(map(str, sys.version_info[:3])), sys.executable, version))
        return sys.executable
    if os.path.isdir(pack):  # the user's directory, which must not be changed
        python = _find(pack, pack)
    else:
        python = _find(pack, _unpack(pack, directory))
        _relocate(os.path.dirname(os.path.dirname(python)), python)
    said = _run([python, "-ISc", "import sys; print(*sys.version_info[:3], sep='.')"]).strip()
    found = tuple(int(number) for number in said.split(".")[:2] if number.isdigit())
    if found < (3, 10):
        raise EnvironmentBroken(f"Python 3.10 or later is needed, but {python} is {said}")
    if version is not None and found != version:
        raise EnvironmentBroken(_mismatch(said, f"{python}, of env_pack {pack}", version))
    return python


def _mismatch(said: str, python: str, version: tuple[int, ...]) -> str:
    wanted = ".".join(map(str, version))
    return (
        f"the node has Python {said} ({python}) and your program Python {wanted}: functions cannot travel between "
        f"minor versions. Give the node Python {wanted}, ideally with the environment that your program runs in"
    )


def _find(pack: str, root: str) -> str:
    try:
        folders = sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
    except OSError as error:
        raise EnvironmentBroken(f"env_pack {pack} cannot be read: {error}") from error
    for folder in (root, *folders):
        python = os.path.join(folder, "bin", "python")
        if os.access(python, os.X_OK):
            return python
    raise EnvironmentBroken(f"env_pack {pack} has no bin/python that may be executed")


def _unpack(pack: str, directory: str) -> str:
    import tarfile  # here, since every node imports this module, and few have a pack

    try:
        root = os.path.join(directory, digest.of_file(pack, 16))
        if not os.path.isdir(root):
            partial = f"{root}.partial"
            with tarfile.open(pack) as archive:
                if hasattr(tarfile, "tar_filter"):
                    archive.extractall(partial, filter="tar")
                else:
                    archive.extractall(partial)
            os.rename(partial, root)
    except Exception as error:  # each compression format raises different errors
        raise EnvironmentBroken(f"env_pack {pack} cannot be unpacked: {type(error).__name__}: {error}") from error
    return root


def _relocate(root: str, python: str) -> None:
    # conda-pack's script corrects the path prefixes in an environment's files.
    unpack = os.path.join(root, "bin", "conda-unpack")
    done = os.path.join(root, ".unpacked")
    if not os.path.exists(unpack) or os.path.exists(done):
        return
    _run([python, unpack])
    with open(done, "w", encoding="utf-8"):
        pass


def _run(command: list[str]) -> str:
    try:
        finished = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise EnvironmentBroken(f"{command[0]} cannot be run: {error}") from error
    if finished.returncode:
        said = finished.stderr.strip()[-500:]
        raise EnvironmentBroken(f"{' '.join(command[:2])} failed with status {finished.returncode}: {said}")
    return finished.stdout


def activated(pack: str | None, python: str, environment: dict[str, str]) -> dict[str, str]:
    """Return environment variables as activating an environment would set them."""
    if pack is None:
        return environment
    binaries = os.path.dirname(python)
    kept = {name: value for name, value in environment.items() if name != "PYTHONHOME"}
    return {
        **kept,
        "PATH": binaries + os.pathsep + environment.get("PATH", os.defpath),
        "VIRTUAL_ENV": os.path.dirname(binaries),
        "CONDA_PREFIX": os.path.dirname(binaries),
    }
