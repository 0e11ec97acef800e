"""The gpus of a node by name, and how tasks are bound to CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from parsl.errors import ConfigurationError

from taskvine_exec.config.rules import Rule, is_whole, or_none, refuse
from taskvine_exec.submission.resources import MOST_GPUS
from taskvine_manager.node import pinning


def _are_names(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or len(set(map(str, value))) < len(value):
        return False
    return all(isinstance(name, str) and name != "" and name.isprintable() for name in value)


_ACCELERATORS = Rule(
    "a list of different names, or a number of gpus",
    lambda value: (0 <= value <= MOST_GPUS) if is_whole(value) else _are_names(value),
)
_MEMORY = Rule("a whole number of MB above 0", lambda value: is_whole(value) and value > 0)


class Hardware(NamedTuple):
    """What the user says of the gpus and CPUs of a node; see :class:`~taskvine_exec.executor.TaskVineExecutor`."""

    available_accelerators: int | Sequence[str] | None = None
    gpu_memory: int | None = None
    cpu_affinity: str = pinning.NONE

    def checked(self, gpus: int | None, slots: int | None) -> Resolved:
        """Check these settings, and resolve them.

        Parameters
        ----------
        gpus
            Number of gpus of a node, as given elsewhere. None: not given.
        slots
            Function slots of the library. None: one for each core.

        Raises
        ------
        ConfigurationError
            If a value is not valid, or contradicts another.
        """
        given = self.available_accelerators
        or_none(_ACCELERATORS).check("available_accelerators", given)
        or_none(_MEMORY).check("gpu_memory", self.gpu_memory)
        names = () if given is None or isinstance(given, int) else tuple(given)
        count = gpus if given is None else given if isinstance(given, int) else len(names)
        if gpus is not None and count != gpus:
            refuse("available_accelerators", given, f"left out, or the {gpus} gpus that gpus gives: leave gpus out")
        return Resolved(
            count, names, None if self.gpu_memory is None else float(self.gpu_memory), self._affinity(slots)
        )

    def _affinity(self, slots: int | None) -> str:
        setting = self.cpu_affinity.lower()
        try:
            if not setting.startswith(pinning.LIST):
                pinning.groups(setting, [0], 1)
            elif slots not in (None, groups := len(pinning.parse(setting))):
                raise ConfigurationError(
                    f"cpu_affinity={self.cpu_affinity!r} has {groups} groups of CPUs: must have one for each of the "
                    f"{slots} slots"
                )
        except ValueError as error:
            refuse("cpu_affinity", self.cpu_affinity, str(error).removeprefix("must be "))
        return setting


UNSAID = Hardware()


class Resolved(NamedTuple):
    """The same, checked: the number of gpus of a node, their names, the memory of each in MB, and the binding."""

    gpus: int | None
    accelerators: tuple[str, ...]
    gpu_memory: float | None
    cpu_affinity: str
