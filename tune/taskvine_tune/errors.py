"""All exceptions that this package raises, in one hierarchy.

:class:`TuningError` and the errors of a single parameter are defined beside the parameters, in
:mod:`taskvine_manager.parameters.errors`.

::

    ValueError
    └── TuningError
        ├── UnknownParameter    no parameter has this name
        ├── WrongType           the value has the wrong type
        ├── OutOfRange          the value is outside of the parameter's bounds
        ├── GivenTwice          two spellings of one parameter have different values
        ├── NotTunableNow       the parameter can be set only before the start
        ├── Conflict            valid values contradict each other
        ├── BadFile             a file or a text cannot be read as parameters
        ├── BadInstance         a file cannot be read as an instance of WfFormat
        ├── BadRecord           the record of a run cannot be written in WfFormat
        ├── LibraryMissing      the library for a file's format, or for a figure, is not installed
        ├── BadSamples          the measurements allow no conclusion
        └── BadSimulation       a cluster or a workload cannot be simulated
"""

from __future__ import annotations

from dataclasses import dataclass

from taskvine_manager.parameters.errors import OutOfRange, TuningError, UnknownParameter, WrongType

__all__ = [
    "BadFile",
    "BadInstance",
    "BadRecord",
    "BadSamples",
    "BadSimulation",
    "Conflict",
    "GivenTwice",
    "LibraryMissing",
    "NotTunableNow",
    "OutOfRange",
    "TuningError",
    "UnknownParameter",
    "WrongType",
]


@dataclass(eq=False, repr=False)
class GivenTwice(TuningError):
    """Two spellings of one parameter have different values.

    Parameters
    ----------
    name
        The parameter.
    spellings
        The names under which it was given.
    """

    name: str
    spellings: tuple[str, ...] = ()

    def __str__(self) -> str:
        spellings = f", as {' and '.join(map(repr, self.spellings))}" if self.spellings else ""
        return f"{self.name} is given twice with different values{spellings}"


@dataclass(eq=False, repr=False)
class NotTunableNow(TuningError):
    """The parameter can be set only before the start.

    Parameters
    ----------
    name
        The parameter.
    """

    name: str

    def __str__(self) -> str:
        return f"{self.name} cannot be changed while the executor runs: set it in tune_parameters"


@dataclass(eq=False, repr=False)
class Conflict(TuningError):
    """Values that are valid alone contradict each other.

    Parameters
    ----------
    names
        The conflicting parameters and other settings.
    reason
        Why they conflict.
    """

    names: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{' and '.join(self.names)} are in conflict: {self.reason}"


@dataclass(eq=False, repr=False)
class BadFile(TuningError):
    """A file or a text cannot be read as parameters.

    Parameters
    ----------
    path
        The file, or a description of the text.
    reason
        What went wrong.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read as tuning parameters: {self.reason}"


@dataclass(eq=False, repr=False)
class BadInstance(TuningError):
    """A file cannot be read as an instance of WfFormat.

    Parameters
    ----------
    path
        The file.
    reason
        What went wrong.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read as an instance of WfFormat: {self.reason}"


@dataclass(eq=False, repr=False)
class BadRecord(TuningError):
    """The record of a run cannot be written in WfFormat.

    Parameters
    ----------
    reason
        What is wrong with it.
    """

    reason: str

    def __str__(self) -> str:
        return f"the record cannot be written in WfFormat: {self.reason}"


@dataclass(eq=False, repr=False)
class LibraryMissing(TuningError):
    """An optional library is not installed.

    Parameters
    ----------
    what
        The operation that needs it.
    library
        The name of the library to install.
    extra
        The extra of this distribution that installs it.
    """

    what: str
    library: str
    extra: str = "tune"

    def __str__(self) -> str:
        return f"{self.what} needs {self.library}: pip install 'taskvine-exec[{self.extra}]'"


@dataclass(eq=False, repr=False)
class BadSamples(TuningError):
    """The measurements allow no conclusion.

    Parameters
    ----------
    reason
        What is wrong with them.
    """

    reason: str

    def __str__(self) -> str:
        return f"the samples cannot be compared: {self.reason}"


@dataclass(eq=False, repr=False)
class BadSimulation(TuningError):
    """A cluster or a workload cannot be simulated.

    Parameters
    ----------
    reason
        What is wrong with it.
    """

    reason: str

    def __str__(self) -> str:
        return f"this cannot be simulated: {self.reason}"
