"""Checked sets of tuning parameters, and their conversion from and to dicts and files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from taskvine_manager.parameters import NAMESPACE, PARAMETERS, Engine, Parameter, Value, find
from taskvine_manager.parameters.own import LOSS_INTERVAL
from taskvine_manager.parameters.taskvine import (
    ENFORCE_WORKER_EVICTION_INTERVAL,
    MAX_WORKERS,
    PROPORTIONAL_RESOURCES,
    PROPORTIONAL_WHOLE_TASKS,
    TEMP_REPLICA_COUNT,
    WAIT_FOR_WORKERS,
)
from taskvine_tune import formats
from taskvine_tune.errors import Conflict, GivenTwice, NotTunableNow, TuningError, UnknownParameter

__all__ = ["Source", "TuneParameters", "conflicts", "examine", "flat"]

#: Sources of parameters: values by name, checked parameters, or the path of a file.
Source = Mapping[str, Any] | str | os.PathLike[str]

_ORDER = {name: place for place, name in enumerate(PARAMETERS)}


class TuneParameters(Mapping[str, Value]):
    """Tuning parameters that have been checked: an immutable, hashable mapping from names to values.

    Keys are the names with dashes, in the order in which TaskVine should receive them; a lookup accepts any spelling.
    The mapping holds only values that were set, so that TaskVine's defaults remain TaskVine's.

    Parameters
    ----------
    values
        Values by name. Names have dashes or underscores, and may be TaskVine's aliases. Names in the executor's
        namespace may be nested, as in ``{"executor": {"library_slots": 2}}``.

    Raises
    ------
    TuningError
        For the first name or value that is not valid, or the first conflict. See :func:`examine` for all of them.

    Examples
    --------
    >>> TuneParameters({"temp_replica_count": 2})
    TuneParameters({'temp-replica-count': 2})
    """

    __slots__ = ("_values",)

    _values: dict[str, Value]

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        if isinstance(values, TuneParameters):
            checked = values._values
        else:
            checked, problems = examine(values or {})
            if problems:
                raise problems[0]
        object.__setattr__(self, "_values", checked)

    # --- mapping ---

    def __getitem__(self, name: str) -> Value:
        try:
            return self._values[find(name).name]
        except UnknownParameter as error:
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    # --- immutable value ---

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make another with |")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make another with |")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TuneParameters):
            return self._values == other._values
        return self._values == other if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __or__(self, other: Mapping[str, Any]) -> TuneParameters:
        """Return these parameters, with some replaced or added."""
        return TuneParameters({**self._values, **TuneParameters(other)._values})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._values,)

    def __copy__(self) -> TuneParameters:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TuneParameters:
        return self

    # --- use ---

    def ignored_by(self, engine: Engine) -> tuple[Parameter, ...]:
        """Return the parameters that are set and have no effect on an engine."""
        return tuple(PARAMETERS[name] for name in self if not PARAMETERS[name].on(engine).support.acts)

    def check(self, *, nodes: int | None = None, peer_transfers: bool = True, running: bool = False) -> TuneParameters:
        """Check whether the parameters fit their use.

        Parameters
        ----------
        nodes
            The largest possible number of nodes; None if it is not known.
        peer_transfers
            Whether nodes send files to each other.
        running
            Whether the executor is already running.

        Returns
        -------
        TuneParameters
            These parameters.

        Raises
        ------
        Conflict
            If values contradict each other or their use.
        NotTunableNow
            If one of them can be set only before the start.
        """
        for name in self if running else ():
            if not PARAMETERS[name].live:
                raise NotTunableNow(name)
        for conflict in conflicts(self, nodes=nodes, peer_transfers=peer_transfers):
            raise conflict
        return self

    # --- conversion ---

    def to_dict(self, *, underscores: bool = False) -> dict[str, Value]:
        """Return values by name, with dashes or with underscores."""
        return {(name.replace("-", "_") if underscores else name): value for name, value in self._values.items()}

    @classmethod
    def load(cls, source: Source) -> TuneParameters:
        """Read parameters from a mapping or a file.

        Parameters
        ----------
        source
            Values by name, or the path of a TOML, YAML or JSON file (by its suffix: ``.toml``, ``.yaml`` or ``.yml``,
            ``.json``). In a file the executor's parameters may be in the table ``[executor]``.

        Returns
        -------
        TuneParameters
            The parameters.

        Raises
        ------
        TuningError
            If the file cannot be read, or its parameters are not valid.
        """
        if isinstance(source, Mapping):
            return cls(source)
        return cls(formats.read(os.fspath(source)))

    def dump(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to a file, in the format of its suffix.

        Parameters
        ----------
        path
            The file, which is overwritten.

        Raises
        ------
        TuningError
            If no format has this suffix, or its library is not installed.
        """
        formats.write(os.fspath(path), _nested(self._values))

    @classmethod
    def loads(cls, text: str, form: formats.Format) -> TuneParameters:
        """Read parameters from the text of a file; see :meth:`load`."""
        return cls(formats.parse(text, form))

    def dumps(self, form: formats.Format) -> str:
        """Return the text of a file with these parameters; see :meth:`dump`."""
        return formats.render(_nested(self._values), form)


def examine(values: Mapping[Any, Any]) -> tuple[dict[str, Value], list[TuningError]]:
    """Check names and values, and find all problems.

    Parameters
    ----------
    values
        As for :class:`TuneParameters`.

    Returns
    -------
    dict
        The valid ones, by name with dashes, in the order of the declarations.
    list of TuningError
        Errors of the others, and conflicts between the valid ones.
    """
    checked: dict[str, Value] = {}
    spelled: dict[str, str] = {}
    problems: list[TuningError] = []
    for name, value in flat(values):
        try:
            parameter = find(name)
            number = parameter.read(value)
        except TuningError as error:
            problems.append(error)
            continue
        if checked.setdefault(parameter.name, number) != number:
            problems.append(GivenTwice(parameter.name, (spelled[parameter.name], name)))
        spelled[parameter.name] = name
    checked = dict(sorted(checked.items(), key=lambda item: _ORDER[item[0]]))
    return checked, problems + list(conflicts(checked))


def conflicts(
    values: Mapping[str, Value], *, nodes: int | None = None, peer_transfers: bool = True
) -> Iterator[Conflict]:
    """Find values that contradict each other or their use.

    Parameters
    ----------
    values
        Checked values, by name with dashes.
    nodes
        The largest possible number of nodes; None if it is not known.
    peer_transfers
        Whether nodes send files to each other.

    Yields
    ------
    Conflict
        One for each contradiction.
    """
    replicas, limit, awaited = (each.of(values) for each in (TEMP_REPLICA_COUNT, MAX_WORKERS, WAIT_FOR_WORKERS))
    at_most = f"{nodes} node{'' if nodes == 1 else 's'} at most"
    if replicas > 1:
        if nodes is not None and replicas > nodes:
            yield Conflict((*_given(values, TEMP_REPLICA_COUNT), at_most), "a node holds one replica of a file")
        if 0 < limit < replicas:
            yield Conflict(_given(values, TEMP_REPLICA_COUNT, MAX_WORKERS), "a node holds one replica of a file")
        if not peer_transfers:
            names = (*_given(values, TEMP_REPLICA_COUNT), "enable_peer_transfers=False")
            yield Conflict(names, "replicas are made by transfers between nodes")
    if 0 < limit < awaited:
        yield Conflict(_given(values, WAIT_FOR_WORKERS, MAX_WORKERS), "the first task would wait without end")
    if nodes is not None and nodes < awaited:
        yield Conflict((*_given(values, WAIT_FOR_WORKERS), at_most), "the first task would wait without end")
    if LOSS_INTERVAL.of(values) and ENFORCE_WORKER_EVICTION_INTERVAL.of(values):
        yield Conflict(_given(values, LOSS_INTERVAL, ENFORCE_WORKER_EVICTION_INTERVAL), "they are the same")
    if PROPORTIONAL_WHOLE_TASKS.of(values) and not PROPORTIONAL_RESOURCES.of(values):
        names = _given(values, PROPORTIONAL_WHOLE_TASKS, PROPORTIONAL_RESOURCES)
        yield Conflict(names, "there is no share that could be rounded")


def _given(values: Mapping[str, Value], *parameters: Parameter) -> tuple[str, ...]:
    return tuple(f"{each.name}={each.of(values)}" for each in parameters)


def flat(values: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield names and values; those in the table ``executor`` get their full names.

    Parameters
    ----------
    values
        As for :class:`TuneParameters`; nothing is checked.

    Yields
    ------
    tuple
        Name and value.
    """
    for name, value in values.items():
        if f"{name}." == NAMESPACE and isinstance(value, Mapping):
            yield from ((NAMESPACE + inner if isinstance(inner, str) else inner, its) for inner, its in value.items())
        else:
            yield name, value


def _nested(values: Mapping[str, Value]) -> dict[str, Any]:
    """Put the executor's parameters into a table: without it TOML would have to quote these names."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        table, _, inner = name.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[inner] = value
    return nested
