"""The public names of the packages, and the costs of importing them."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from types import ModuleType

import pytest

import taskvine_exec

PUBLIC = [
    "DAG_RESOLVER",
    "TaskVineExecutor",
    "TaskVineFactoryConfig",
    "TaskVineManagerConfig",
    "TaskVineRadio",
    "TaskVineTempStaging",
    "TempFile",
    "load_variable_from_library",
    "local_config",
]


def imported_by(*modules: str) -> set[str]:
    """Return the top-level modules that an interpreter has imported after these, beyond those at its start."""
    code = (
        "import json, sys\n"
        "sys.path[:0] = json.loads(sys.argv[1])\n"
        "before = set(sys.modules)\n"
        "for module in sys.argv[2:]:\n"
        "    __import__(module)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(sys.path), *modules]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return set(json.loads(told))


def seen_by_checkers(package: ModuleType) -> dict[str, str]:
    """Return the names that a package imports for type checkers only, with their modules."""
    blocks = [each for each in ast.parse(inspect.getsource(package)).body if isinstance(each, ast.If)]
    (imports,) = (each.body for each in blocks if ast.unparse(each.test) == "TYPE_CHECKING")
    return {name.name: str(each.module) for each in imports if isinstance(each, ast.ImportFrom) for name in each.names}


def test_public_names() -> None:
    assert taskvine_exec.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(taskvine_exec, name))


def test_checkers_see_the_public_names() -> None:
    seen = seen_by_checkers(taskvine_exec)
    assert sorted(seen) == sorted(PUBLIC)
    for name, home in seen.items():
        assert getattr(importlib.import_module(home), name) is getattr(taskvine_exec, name)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="'taskvine_exec' has no attribute 'TaskVine'"):
        taskvine_exec.TaskVine


def test_importing_the_plugin_alone_imports_no_parsl() -> None:
    theirs = imported_by("taskvine_exec") - set(sys.stdlib_module_names)
    assert theirs == {"taskvine_exec", "taskvine_manager"}


def test_reading_a_librarys_variables_imports_no_parsl() -> None:
    assert not {"parsl"} & imported_by("taskvine_exec", "taskvine_manager.runtime.context")


@pytest.mark.parametrize(
    "module", ["taskvine_manager.loop", "taskvine_manager.embedded.node", "taskvine_manager.runtime.library"]
)
def test_the_processes_import_neither_parsl_nor_networkx(module: str) -> None:
    assert not {"parsl", "networkx", "numpy"} & imported_by(module)


def test_runtime_imports_only_the_standard_library() -> None:
    runtime = ["context", "failure", "library", "oneshot", "payload", "slot"]
    modules = imported_by(*(f"taskvine_manager.runtime.{name}" for name in runtime))
    assert modules - set(sys.stdlib_module_names) == {"taskvine_manager"}
