"""Run Parsl's own test suite with the TaskVineExecutor.

The suite comes with the parsl wheel, but its conftest needs pytest 7. It gets an environment of its own, made from
the interpreter that runs this file, and a temporary directory to work in::

    python tests/parsl_suite/run.py                            the newest parsl
    python tests/parsl_suite/run.py --parsl 2026.4.20          the oldest that is supported
    python tests/parsl_suite/run.py --dag                      with DAG_RESOLVER
    python tests/parsl_suite/run.py --engine taskvine          on TaskVine, if it is installed
    python tests/parsl_suite/run.py --config htex_local.py     for comparison: a configuration from parsl/tests/configs
    python tests/parsl_suite/run.py -- -x -k test_simple       what follows -- goes to pytest
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-parsl-suite"
NEEDED = ("pytest<8", "pytest-timeout", "pytest-random-order", "mock", "pandas")
SECONDS = 180
"""Time limit of one test."""

OUTCOMES = ("passed", "failed", "errors", "skipped")

#: Tests that fail on every executor when root runs them, by the part of the suite's name for them.
FAIL_AS_ROOT = ("test_bad_stdout_file", "test_bad_stderr_file")
ROOT_REASON = "they expect to be forbidden to write to a file, and root is not"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--parsl", metavar="VERSION", help="version of parsl (default: the newest)")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="where the virtual environment is made")
    parser.add_argument(
        "--config",
        default=str(Path(__file__).with_name("config.py")),
        help="configuration file, or the name of one in parsl/tests/configs",
    )
    parser.add_argument("--dag", action="store_true", help="run it with DAG_RESOLVER")
    parser.add_argument("--engine", choices=("auto", "embedded", "taskvine"), default="auto", help="of the executor")
    parser.add_argument("pytest_arguments", nargs="*", metavar="-- PYTEST ARGUMENTS", help="passed on to pytest")
    options = parser.parse_args()

    if options.dag:
        os.environ["PARSL_SUITE_DAG"] = "1"
    os.environ["PARSL_SUITE_ENGINE"] = options.engine
    python = prepare(options.environment.resolve(), options.parsl)
    tests, version = parsl_in(python)
    config = Path(options.config).resolve()
    if not config.exists():
        config = tests / "configs" / options.config
    if not config.exists():
        parser.error(f"no configuration {options.config}, neither here nor in {config.parent}")
    status, counts = run(python, tests, config, options.pytest_arguments)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]) or "nothing ran"
    print(f"parsl {version}, {config.name}, engine={options.engine}{' with DAG_RESOLVER' * options.dag}: {told}")
    return status


def prepare(environment: Path, version: str | None) -> str:
    """Make or update the environment; return its interpreter."""
    python = environment / "bin" / "python"
    if not python.exists():
        print(f"making {environment}", flush=True)
        venv.create(environment, clear=True, with_pip=True)
    parsl = f"parsl[monitoring]=={version}" if version else "parsl[monitoring]"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-qq", "--upgrade"]
    subprocess.run([*pip, "--editable", str(ROOT), parsl, *NEEDED], check=True)
    return str(python)


def parsl_in(python: str) -> tuple[Path, str]:
    """Return the directory of an environment's parsl tests, and its version."""
    code = "import os, parsl, parsl.tests; print(os.path.dirname(parsl.tests.__file__), parsl.__version__)"
    with tempfile.TemporaryDirectory() as elsewhere:
        told = subprocess.run([python, "-c", code], check=True, cwd=elsewhere, stdout=subprocess.PIPE, text=True)
    directory, _, version = told.stdout.strip().rpartition(" ")
    return Path(directory), version


def run(python: str, tests: Path, config: Path, arguments: Sequence[str]) -> tuple[int, Counter[str]]:
    """Run the suite; return pytest's exit status and the number of tests by outcome."""
    # Tests that need the internet are marked cleannet; Parsl's continuous integration leaves them out too.
    selection = ["not cleannet"]
    if os.geteuid() == 0:
        selection += [f"not {name}" for name in FAIL_AS_ROOT]
        print(f"left out, as this is root: {', '.join(FAIL_AS_ROOT)} ({ROOT_REASON})", flush=True)
    with tempfile.TemporaryDirectory(prefix="parsl-suite-") as directory:
        # The environment lies inside this project, whose settings for pytest must not apply to Parsl's tests.
        settings = Path(directory, "pytest.ini")
        settings.write_text("[pytest]\n")
        report = Path(directory, "report.xml")
        command = [python, "-m", "pytest", str(tests), "-k", " and ".join(selection), "--config", str(config)]
        command += ["-c", str(settings), "--rootdir", directory, f"--junit-xml={report}", f"--timeout={SECONDS}"]
        command += ["-p", "no:cacheprovider", "--tb=short", "-q", "-r", "fEX", *arguments]
        # Parsl's executors search for their programs on the path.
        environment = {**os.environ, "PATH": os.pathsep.join([os.path.dirname(python), os.environ.get("PATH", "")])}
        status = subprocess.run(command, check=False, cwd=directory, env=environment).returncode
        return status, read_counts(report)


def read_counts(report: Path) -> Counter[str]:
    """Return the number of tests by outcome, from pytest's report."""
    counts: Counter[str] = Counter()
    if report.exists():
        for case in xml.etree.ElementTree.parse(report).iter("testcase"):
            outcomes = {child.tag for child in case}
            for tag, outcome in (("error", "errors"), ("failure", "failed"), ("skipped", "skipped")):
                if tag in outcomes:
                    counts[outcome] += 1
                    break
            else:
                counts["passed"] += 1
    return counts


if __name__ == "__main__":
    sys.exit(main())
