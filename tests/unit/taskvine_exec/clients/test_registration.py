"""The engine's name is added to the endpoint's module, in processes of the endpoint's command only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import taskvine_exec
import taskvine_manager
from taskvine_exec.clients import registration

ROOTS = [str(Path(package.__file__).parent.parent) for package in (taskvine_exec, taskvine_manager)]
PROGRAM = """
import site, sys
site.addsitedir(sys.argv[1])
assert "globus_compute_endpoint" not in sys.modules
import globus_compute_endpoint.engines as engines
print(engines.Own, hasattr(engines, "TaskVineEngine"), hasattr(engines, "Other"))
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A directory with a package that looks like the endpoint's."""
    package = tmp_path / "fake" / "globus_compute_endpoint" / "engines"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text("Own = 'own'\n")
    (package / "base.py").write_text("GCFuture = object\n")
    (package / "globus_compute.py").write_text("class GlobusComputeEngine: pass\n")
    return tmp_path / "fake"


def run(tmp_path: Path, fake: Path, name: str) -> str:
    program = tmp_path / name
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(fake), *ROOTS])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_only_the_command_of_endpoints_finds_the_engine(
    tmp_path: Path, fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = ["--directory", str(tmp_path)]
    registration.main(["register", *directory])
    registration.main(["register", *directory])
    assert run(tmp_path, fake, "globus-compute-endpoint") == "own True False"
    assert run(tmp_path, fake, "another-program") == "own False False"
    registration.main(["status", *directory])
    registration.main(["unregister", *directory])
    registration.main(["unregister", *directory])
    assert run(tmp_path, fake, "globus-compute-endpoint") == "own False False"
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in said] == [
        *["TaskVineEngine is registered"] * 3,
        *["TaskVineEngine is not registered"] * 2,
    ]


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot be changed"):
        registration.main(["register", "--directory", str(tmp_path / "absent")])
