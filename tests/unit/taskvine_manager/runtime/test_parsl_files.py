"""A File can be loaded without the rest of Parsl, and stays Parsl's own class."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from parsl.data_provider.files import File

from taskvine_manager.runtime import payload

FILE = pickle.dumps(File("file:///a/b"))


def run(program: str, *path: str) -> str:
    """Run a program that has the bytes ``FILE`` and loads values; return its output."""
    begin = f"import sys\nfrom taskvine_manager.runtime import payload\nFILE = {FILE!r}\n"
    environment = {"PYTHONPATH": ":".join([*path, *sys.path])}
    command = [sys.executable, "-c", begin + program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_file_is_loaded_without_parsl() -> None:
    assert run("file = payload.decode(FILE)\nprint(file.filepath, 'parsl' in sys.modules)") == "/a/b False"


@pytest.mark.parametrize(
    "use",
    [
        "import parsl\nkind = parsl.File",
        "from parsl.data_provider.files import File as kind",
        "import parsl.data_provider.files\nkind = parsl.data_provider.files.File",
        "import parsl.data_provider.files as files\nkind = files.File",
        "from parsl.data_provider import files\nkind = files.File",
        "import parsl\nkind = parsl.data_provider.files.File",
        "import parsl.data_provider\nkind = parsl.data_provider.files.File",
    ],
)
def test_parsl_uses_the_same_class_later(use: str) -> None:
    program = (
        f"file = payload.decode(FILE)\n{use}\n"
        "import parsl.data_provider as package\n"
        "print(type(file) is kind, package.__loader__ is package.__spec__.loader, type(package.__loader__).__name__)"
    )
    assert run(program) == "True True SourceFileLoader"


def test_parsl_that_needs_its_package_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "parsl" / "data_provider"
    package.mkdir(parents=True)
    (tmp_path / "parsl" / "__init__.py").write_text("kind = 'its own'\n")
    (package / "__init__.py").write_text("")
    (package / "files.py").write_text(
        "import sys\nkind = sys.modules['parsl'].kind\n"
        "class File:\n    def __setstate__(self, state): self.filepath = kind\n"
    )
    assert run("print(payload.decode(FILE).filepath)", str(tmp_path)) == "its own"


def test_missing_parsl_is_the_usual_error() -> None:
    program = (
        "sys.path[:] = [each for each in sys.path if 'site-packages' not in each]\n"
        "try:\n    payload.decode(FILE)\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    assert run(program) == "No module named 'parsl'"


def test_other_values_do_not_load_it() -> None:
    assert run("payload.decode(__import__('pickle').dumps([1, 'parsl']))\nprint('parsl' in sys.modules)") == "False"


def test_loaded_module_stays() -> None:
    assert type(payload.decode(FILE)) is File
