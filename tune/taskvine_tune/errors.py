"""Every exception this package raises, in one hierarchy.

:class:`TuningError` and the errors of a single parameter are defined beside the parameters, in
:mod:`taskvine_manager.parameter_errors`.

::

    ValueError
    └── TuningError
        ├── UnknownParameter    no parameter has this name
        ├── WrongType           the value is not of the parameter's type
        ├── OutOfRange          the value is outside of the parameter's bounds
        ├── GivenTwice          two spellings of one parameter with different values
        ├── NotTunableNow       it can be set at the start only
        ├── Conflict            values that are valid by themselves and not together
        ├── BadFile             a file or a text cannot be read as parameters
        ├── LibraryMissing      the library for a file's format, or for a figure, is not installed
        ├── BadSamples          measurements that nothing can be concluded from
        └── BadSimulation       a cluster or a workload that cannot be simulated
"""

from __future__ import annotations

from dataclasses import dataclass

from taskvine_manager.parameter_errors import OutOfRange, TuningError, UnknownParameter, WrongType

__all__ = [
    "BadFile",
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
        The names it was given under.
    """

    name: str
    spellings: tuple[str, ...] = ()

    def __str__(self) -> str:
        spellings = f", as {' and '.join(map(repr, self.spellings))}" if self.spellings else ""
        return f"{self.name} is given twice with different values{spellings}"


@dataclass(eq=False, repr=False)
class NotTunableNow(TuningError):
    """The parameter can be set before the start only.

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
    """Values that are valid by themselves contradict each other.

    Parameters
    ----------
    names
        What is in conflict: parameters, and other settings.
    reason
        Why.
    """

    names: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{' and '.join(self.names)} are in conflict: {self.reason}"


@dataclass(eq=False, repr=False)
class BadFile(TuningError):
    """A file, or a text, cannot be read as parameters.

    Parameters
    ----------
    path
        The file, or what the text is.
    reason
        What went wrong.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read as tuning parameters: {self.reason}"


@dataclass(eq=False, repr=False)
class LibraryMissing(TuningError):
    """A library that only some of the work needs is not installed.

    Parameters
    ----------
    what
        What was asked for.
    library
        The name of the library to install.
    extra
        The extra of this distribution that brings it.
    """

    what: str
    library: str
    extra: str = "tune"

    def __str__(self) -> str:
        return f"{self.what} needs {self.library}: pip install 'taskvine-exec[{self.extra}]'"


@dataclass(eq=False, repr=False)
class BadSamples(TuningError):
    """Measurements from which nothing can be concluded.

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
    """A cluster or a workload that cannot be simulated.

    Parameters
    ----------
    reason
        What is wrong with it.
    """

    reason: str

    def __str__(self) -> str:
        return f"this cannot be simulated: {self.reason}"
