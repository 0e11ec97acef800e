"""The declarations by name, in any spelling."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from taskvine_manager.parameters import own, taskvine
from taskvine_manager.parameters.errors import UnknownParameter
from taskvine_manager.parameters.kinds import NAMESPACE, Parameter
from taskvine_manager.parameters.support import Engine

__all__ = ["PARAMETERS", "canonical", "find", "honoured", "nearest"]

#: Every declaration by name: TaskVine's, then the executor's own, each in the order of its module. This is also the
#: order in which to set them: proportional-resources sets proportional-whole-tasks, so it comes first.
PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {each.name: each for module in (taskvine, own) for each in vars(module).values() if isinstance(each, Parameter)}
)

_BY_ANY_NAME: Mapping[str, Parameter] = MappingProxyType(
    dict(PARAMETERS) | {alias: each for each in PARAMETERS.values() for alias in each.aliases}
)

#: Parameters under names that users may try, where the spelling is too different for a guess.
_FOREIGN = {
    "wait-retrieve-many": (taskvine.MAX_RETRIEVALS, taskvine.WORKER_RETRIEVALS),  # until 7.5.0
    "replicas": (taskvine.TEMP_REPLICA_COUNT,),
    "replication": (taskvine.TEMP_REPLICA_COUNT,),
    "batching": (own.BATCH,),
    "losses": (own.LOSS_INTERVAL,),
    "loss-rate": (own.LOSS_INTERVAL,),
    "num-slots": (own.LIBRARY_SLOTS,),
    "function-slots": (own.LIBRARY_SLOTS,),
}


def canonical(name: str) -> str:
    """Return a name with dashes instead of underscores."""
    return name.replace("_", "-")


def find(name: object) -> Parameter:
    """Return the declaration of a parameter.

    Parameters
    ----------
    name
        A parameter's name or one of its aliases, with dashes or underscores.

    Returns
    -------
    Parameter
        Its declaration.

    Raises
    ------
    UnknownParameter
        If there is none. The error names the most similar parameters.
    """
    if isinstance(name, str) and (found := _BY_ANY_NAME.get(canonical(name))) is not None:
        return found
    raise UnknownParameter(name, nearest(name) if isinstance(name, str) else ())


def nearest(name: str) -> tuple[str, ...]:
    """Return the names of parameters that are most similar to a name, best first, at most three."""
    wanted = canonical(name.strip().lower())
    if wanted in _BY_ANY_NAME:
        return (wanted,)
    if wanted in _FOREIGN:
        return tuple(each.name for each in _FOREIGN[wanted])
    import difflib  # late: only a wrong name needs it

    # The executor's own parameters are also found without their prefix.
    spellings = {each: each for each in _BY_ANY_NAME}
    spellings |= {each.removeprefix(NAMESPACE): each for each in _BY_ANY_NAME if each.startswith(NAMESPACE)}
    close = difflib.get_close_matches(wanted, spellings, n=3, cutoff=0.6)
    return tuple(dict.fromkeys(spellings[each] for each in close))


def honoured(engine: Engine) -> frozenset[str]:
    """Return the names of the parameters that an engine acts on."""
    return frozenset(each.name for each in PARAMETERS.values() if each.on(engine).support.acts)
