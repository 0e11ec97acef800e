"""The gpus that a node may use, how much memory they have, and the environment variables that show them to a task."""

from __future__ import annotations

import glob
import itertools
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

NVIDIA, AMD, INTEL, ANY = "nvidia", "amd", "intel", "any"
"""Kinds of gpus. ``ANY`` is for those whose driver was not found here: tasks get the variables of all kinds."""
CUDA, ROCR, HIP, LEVEL_ZERO = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"
_GRANTED = (
    (CUDA, NVIDIA, re.compile(r"\d+|(GPU|MIG)-[\w/-]+")),
    (ROCR, AMD, re.compile(r"\d+|GPU-\w+")),
    (HIP, AMD, re.compile(r"\d+|GPU-\w+")),
    (LEVEL_ZERO, INTEL, re.compile(r"\d+(\.\d+)*")),
)
"""The variables in which a batch system names gpus: the kind, and names that are valid there."""
NO_INTEL = "65535"
"""A gpu that no machine has. Level Zero shows all gpus if the mask is empty, and ignores numbers that do not exist."""
SMI_SECONDS = 5.0
"""Seconds that ``nvidia-smi`` may take. Without its answer, the memory of the gpus is unknown."""
_DEVICES, _KFD, _KFD_NODES = "/dev/nvidia*", "/dev/kfd", "/sys/class/kfd/kfd/topology/nodes"


class Found(NamedTuple):
    """Gpus that a node may use: their kind and their names, as the variables of that kind take them."""

    kind: str
    names: tuple[str, ...] = ()


def find(count: int | None = None, names: Sequence[str] = ()) -> Found:
    """Return the gpus that this process may use.

    They are the given ``names``; or else those that a variable of the batch system names; or else all of NVIDIA's and
    AMD's. With ``count``, return this number of gpus, and add indexes if fewer are found.
    """
    found = _granted(os.environ)
    if found is None:
        kind = _driver()
        found = Found(kind, _nvidia() if kind == NVIDIA else _amd())
    if names:
        return Found(found.kind if found.names else _driver(), tuple(names))
    if count is None:
        return found
    more = (str(number) for number in range(count) if str(number) not in found.names)
    listed = (*found.names, *more)[:count]
    return Found(found.kind if found.names else _driver(), listed)


def _granted(environment: Mapping[str, str]) -> Found | None:
    """Return the gpus that variables name; None if there is no such variable."""
    known = None
    for variable, kind, form in _GRANTED:
        text = environment.get(variable)
        if text is not None:
            # CUDA ignores all names after an invalid one. Slurm sets NoDevFiles for a job without gpus.
            names = tuple(itertools.takewhile(form.fullmatch, (name.strip() for name in text.split(","))))
            if variable == CUDA and _driver() == AMD:
                kind = AMD  # HIP reads the variable of CUDA too
            if names:
                return Found(kind, tuple(dict.fromkeys(names)))
            known = known or Found(kind)
    return known


def _driver() -> str:
    """Return the kind of gpus whose driver is on this machine."""
    if _nvidia():
        return NVIDIA
    return AMD if os.path.exists(_KFD) else ANY


def _nvidia() -> tuple[str, ...]:
    matches = (re.fullmatch(r"nvidia(\d+)", os.path.basename(path)) for path in glob.glob(_DEVICES))
    return tuple(sorted((match.group(1) for match in matches if match), key=int))


def _amd() -> tuple[str, ...]:
    return tuple(str(number) for number in range(len(_amd_memories()))) if os.path.exists(_KFD) else ()


# --- memory ---


def memories(found: Found, given: float | None = None) -> tuple[float, ...]:
    """Return the memory of each gpu in MB, as the user has ``given`` it or as the driver says; nothing if that of any
    is unknown."""
    if given is not None:
        return (given,) * len(found.names)
    if not found.names:
        return ()
    known: dict[str, float] = {}
    if found.kind == NVIDIA:
        known = _nvidia_memories(has_mig=any(name.startswith("MIG-") for name in found.names))
    elif found.kind == AMD:
        known = {str(number): size for number, size in enumerate(_amd_memories())}
    sizes = [_size(name, known) for name in found.names]
    return tuple(sizes) if all(sizes) else ()


def _size(name: str, known: Mapping[str, float]) -> float:
    """Return the memory of a gpu whose name may be the beginning of its full name; 0 if it is unknown."""
    if name in known:
        return known[name]
    fitting = [size for full, size in known.items() if not name.isdecimal() and full.startswith(name)]
    return fitting[0] if len(fitting) == 1 else 0.0


def _amd_memories() -> list[float]:
    """Return the memory of AMD's gpus in MB, in the order of their indexes."""
    found = []
    for folder in sorted(glob.glob(f"{_KFD_NODES}/*"), key=lambda path: (len(path), path)):
        if int(_properties(f"{folder}/properties").get("simd_count", 0)):
            banks = (_properties(f"{path}/properties") for path in glob.glob(f"{folder}/mem_banks/*"))
            found.append(sum(bank.get("size_in_bytes", 0) for bank in banks) / 2**20)
    return found


def _properties(path: str) -> dict[str, int]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            pairs = (line.split() for line in file)
            return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
    except OSError:  # a control group may forbid to read it
        return {}


def _nvidia_memories(*, has_mig: bool) -> dict[str, float]:
    """Return the memory of NVIDIA's gpus in MB, by index and UUID, and of MIG devices by UUID."""
    whole = _smi("--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
    found: dict[str, float] = {}
    indexed: dict[str, float] = {}
    for line in whole.splitlines():
        index, _, rest = line.partition(",")
        uuid, _, size = rest.partition(",")
        if size.strip().isdecimal():
            indexed[index.strip()] = found[uuid.strip()] = float(size)
    if os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and len(set(indexed.values())) > 1:
        indexed = dict.fromkeys(indexed, min(indexed.values()))  # CUDA numbers them in another order
    for line in _smi("-L").splitlines() if has_mig else ():
        if match := re.fullmatch(r"\s+MIG \S*?\.(\d+)gb\S*.*\(UUID: (MIG-\S+)\)", line):
            found[match.group(2)] = float(match.group(1)) * 1024  # nominal: the driver keeps some of it
    return {**indexed, **found}


def _smi(*options: str) -> str:
    import shutil  # imported here, because every node imports this module at its start

    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        said = subprocess.run(
            [program, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SMI_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout if said.returncode == 0 else ""


# --- what tasks see ---


def variables(kind: str | None, visible: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which a task sees some gpus only.

    Parameters
    ----------
    kind : str or None
        Kind of the node's gpus; None if it has none, and tasks keep what they inherit.
    visible : str
        Names of the gpus with commas between them, empty for none.
    inherited : mapping of str to str
        Environment variables that tasks would have otherwise.
    """
    made: dict[str, str] = {}
    if kind in (NVIDIA, ANY):
        made[CUDA] = visible
    if kind in (AMD, ANY):
        made[ROCR] = visible
    if kind == AMD:
        # These two count what ROCR_VISIBLE_DEVICES leaves. HIP reads both.
        left = ",".join(str(number) for number, _ in enumerate(filter(None, visible.split(","))))
        made.update((name, left) for name in (HIP, CUDA) if name in inherited)
    if kind in (INTEL, ANY):
        made[LEVEL_ZERO] = visible or NO_INTEL
        made["ZE_ENABLE_PCI_ID_DEVICE_ORDER"] = "1"
    return made
