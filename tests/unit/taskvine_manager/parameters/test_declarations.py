"""The declarations: complete, consistent with themselves, and strict."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import taskvine_exec
import taskvine_manager
import taskvine_tune
from taskvine_manager import node_parameters
from taskvine_manager.parameters import (
    ENGINES,
    PARAMETERS,
    Flag,
    Parameter,
    Real,
    Support,
    Whole,
    find,
    honoured,
    own,
    taskvine,
)
from taskvine_manager.parameters.errors import OutOfRange
from taskvine_manager.runtime import payload

#: The names that ``vine_tune`` of cctools 8.0.0 takes.
TASKVINE_NAMES = """
    asynchrony-multiplier attempt-schedule-depth category-steady-n-tasks clean-redundant-replicas
    default-transfer-rate disconnect-slow-worker-factor disk-proportion-available-to-task
    enforce-worker-eviction-interval file-source-max-transfers force-proportional-resources
    force-proportional-resources-whole-tasks hungry-minimum hungry-minimum-factor immediate-recovery
    keepalive-interval keepalive-timeout large-task-check-interval load-from-shared-filesystem long-timeout
    max-library-retries max-new-workers max-retrievals max-task-stdout-storage max-workers min-transfer-timeout
    monitor-interval option-blocklist-slow-workers-timeout perf-log-interval prefer-dispatch
    proportional-resources proportional-whole-tasks ramp-down-heuristic resource-management-interval
    resource-submit-multiplier sandbox-grow-factor shift-disk-load short-timeout task-groups temp-replica-count
    transfer-outlier-factor transfer-replica-per-cycle transfer-temps-recovery transient-error-interval
    update-interval wait-for-workers watch-library-logfiles worker-retrievals worker-source-max-transfers
"""

EACH = pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)


def test_every_name_of_taskvine_is_declared_and_no_other() -> None:
    declared = [name for each in PARAMETERS.values() if not each.ours for name in (each.name, *each.aliases)]
    assert sorted(declared) == TASKVINE_NAMES.split()
    assert len(declared) == 48
    assert sum(not each.ours for each in PARAMETERS.values()) == 45


@EACH
def test_declarations_are_complete(parameter: Parameter) -> None:
    assert re.fullmatch(r"(executor\.)?[a-z]+(-[a-z]+)*", parameter.name)
    assert re.fullmatch(r"[A-Z].{10,}\.", parameter.effect)
    assert parameter.bounds
    assert bool(parameter.since) != parameter.ours
    for engine in ENGINES:
        standing = parameter.on(engine)
        assert not standing.note.endswith(".")
        # The kind "ours" is for parameters that TaskVine lacks, so TaskVine does not ignore its own names.
        expected = {Support.OURS, Support.CLAMPED, Support.IGNORED} if parameter.ours else set(Support) - {Support.OURS}
        if engine == "taskvine" and not parameter.ours:
            expected = {Support.NATIVE, Support.CLAMPED, Support.NO_EFFECT}
        assert standing.support in expected
        # A support that is less than it seems is explained.
        if standing.support in (Support.CLAMPED, Support.NO_EFFECT, Support.IGNORED):
            assert standing.note


@EACH
def test_defaults_bounds_and_meanings_are_valid_values(parameter: Parameter) -> None:
    values = [parameter.default, *parameter.also, *(value for value, _ in parameter.meanings)]
    if not parameter.open_bounds:
        values += [bound for bound in (parameter.minimum, parameter.maximum) if bound is not None]
    for value in values:
        read = parameter.read(value)
        assert read == value
        assert type(read) is {Flag: bool, Whole: int, Real: float}[type(parameter)]


@EACH
def test_bounds_are_bounds(parameter: Parameter) -> None:
    for bound, step in ((parameter.minimum, -1), (parameter.maximum, 1)):
        if bound is None:
            continue
        beyond = bound if parameter.open_bounds else bound + step
        while beyond in parameter.also:
            beyond += step
        with pytest.raises(OutOfRange) as caught:
            parameter.read(beyond)
        assert caught.value.bounds.startswith(parameter.bounds)


def test_declarations_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PARAMETERS["mine"] = find("max-workers")  # type: ignore[index]
    with pytest.raises(AttributeError):
        find("max-workers").maximum = 3  # type: ignore[misc]


def test_supported_parameters_of_the_engines() -> None:
    assert honoured("embedded") == {
        "clean-redundant-replicas",
        "default-transfer-rate",
        "enforce-worker-eviction-interval",
        "file-source-max-transfers",
        "immediate-recovery",
        "keepalive-interval",
        "keepalive-timeout",
        "max-library-retries",
        "max-task-stdout-storage",
        "max-workers",
        "proportional-resources",
        "proportional-whole-tasks",
        "resource-submit-multiplier",
        "shift-disk-load",
        "temp-replica-count",
        "transfer-replica-per-cycle",
        "transfer-temps-recovery",
        "wait-for-workers",
        "worker-source-max-transfers",
        *(name for name in PARAMETERS if name.startswith("executor.")),
    }
    assert set(PARAMETERS) - honoured("taskvine") == {
        "transfer-replica-per-cycle",
        "transfer-temps-recovery",
        *("attempt-schedule-depth", "perf-log-interval", "prefer-dispatch"),
        *("executor.prefetch", "executor.weight-transfer", "executor.weight-wait", "executor.loss-seed"),
    }


def test_setting_order_keeps_all_settings() -> None:
    # vine_tune("proportional-resources", x) sets proportional-whole-tasks to x too.
    names = list(PARAMETERS)
    assert names.index("proportional-resources") < names.index("proportional-whole-tasks")


def test_inline_limit_equals_that_of_the_encoding() -> None:
    assert own.INLINE_LIMIT.default == payload.INLINE_LIMIT
    assert own.INLINE_LIMIT.maximum == payload.LARGEST_INLINE_LIMIT


def test_no_other_module_spells_a_name() -> None:
    roots = [Path(package.__file__ or "").parent for package in (taskvine_exec, taskvine_manager, taskvine_tune)]
    modules = {path for root in roots for path in root.rglob("*.py")}
    modules -= {Path(module.__file__) for module in (own, taskvine, node_parameters)}
    names = {name for each in PARAMETERS.values() for name in (each.name, *each.aliases)}
    spelled = [
        f"{path}:{node.lineno}: {node.value}"
        for path in sorted(modules)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]
    assert not spelled, "use the declaration: " + ", ".join(spelled)


def test_parameters_of_nodes_are_declared() -> None:
    assert PARAMETERS.keys() >= node_parameters.ALL


def test_the_start_of_a_node_imports_no_declarations() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import taskvine_manager.embedded.node\n"
        "slow = ('taskvine_manager.parameters', 'dataclasses', 'shutil', 'tempfile', 'hashlib')\n"
        "print([name for name in sys.modules if name.startswith(slow)])"
    )
    root = str(Path(taskvine_manager.__file__ or "").parent.parent)
    done = subprocess.run([sys.executable, "-S", "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
