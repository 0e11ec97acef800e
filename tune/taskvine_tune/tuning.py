"""Checked sets of tuning parameters, and their conversion from and to dicts and files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from taskvine_manager.parameters import PARAMETERS, Engine, Parameter, Value, find
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

    def effective(self, name: str) -> Value:
        """Return the value of a parameter, set or not.

        Parameters
        ----------
        name
            The parameter, in any spelling.

        Returns
        -------
        bool, int or float
            The value that was set, or the default.

        Raises
        ------
        UnknownParameter
            If there is no such parameter.
        """
        parameter = find(name)
        return self._values.get(parameter.name, parameter.default)

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
    replicas = values.get("temp-replica-count", 1)
    limit = values.get("max-workers", -1)
    if replicas > 1:
        asked = f"temp-replica-count={replicas}"
        if nodes is not None and replicas > nodes:
            yield Conflict(
                (asked, f"{nodes} node{'' if nodes == 1 else 's'} at most"), "a node holds one replica of a file"
            )
        if 0 < limit < replicas:
            yield Conflict((asked, f"max-workers={limit}"), "a worker holds one replica of a file")
        if not peer_transfers:
            yield Conflict((asked, "enable_peer_transfers=False"), "replicas are made by transfers between nodes")
    awaited = values.get("wait-for-workers", 0)
    if 0 < limit < awaited:
        yield Conflict((f"wait-for-workers={awaited}", f"max-workers={limit}"), "the first task would wait without end")
    if nodes is not None and nodes < awaited:
        names = (f"wait-for-workers={awaited}", f"{nodes} node{'' if nodes == 1 else 's'} at most")
        yield Conflict(names, "the first task would wait without end")
    if values.get("executor.loss-interval") and values.get("enforce-worker-eviction-interval"):
        both = ("executor.loss-interval", "enforce-worker-eviction-interval")
        yield Conflict(tuple(f"{name}={values[name]}" for name in both), "they are the same")
    if values.get("proportional-whole-tasks") and values.get("proportional-resources") is False:
        names = ("proportional-whole-tasks=True", "proportional-resources=False")
        yield Conflict(names, "there is no share that could be rounded")


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
        if name == "executor" and isinstance(value, Mapping):
            yield from ((f"executor.{inner}" if isinstance(inner, str) else inner, its) for inner, its in value.items())
        else:
            yield name, value


def _nested(values: Mapping[str, Value]) -> dict[str, Any]:
    """Put the executor's parameters into a table: without it TOML would have to quote these names."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        table, _, inner = name.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[inner] = value
    return nested
