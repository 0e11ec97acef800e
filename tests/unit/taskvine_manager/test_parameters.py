"""The declarations: complete, consistent with themselves, and strict."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from taskvine_manager.parameters import ENGINES, PARAMETERS, Kind, Parameter, Support, find, honoured, nearest
from taskvine_tune.errors import OutOfRange, UnknownParameter, WrongType

#: What ``vine_tune`` of cctools 8.0.0 takes.
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
def test_a_declaration_is_complete(parameter: Parameter) -> None:
    assert re.fullmatch(r"(executor\.)?[a-z]+(-[a-z]+)*", parameter.name)
    assert re.fullmatch(r"[A-Z].{10,}\.", parameter.effect)
    assert parameter.bounds
    assert bool(parameter.since) != parameter.ours
    for engine in ENGINES:
        standing = parameter.on(engine)
        assert not standing.note.endswith(".")
        # "Ours" is for what TaskVine does not have; TaskVine ignores nothing that it knows.
        expected = {Support.OURS, Support.CLAMPED, Support.IGNORED} if parameter.ours else set(Support) - {Support.OURS}
        if engine == "taskvine" and not parameter.ours:
            expected = {Support.NATIVE, Support.CLAMPED, Support.NO_EFFECT}
        assert standing.support in expected
        # What is worse than it looks is explained.
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
        assert type(read) is {Kind.FLAG: bool, Kind.WHOLE: int, Kind.REAL: float}[parameter.kind]


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


@EACH
def test_names_are_found_in_any_spelling(parameter: Parameter) -> None:
    for name in (parameter.name, *parameter.aliases):
        assert find(name) is parameter
        assert find(name.replace("-", "_")) is parameter
        assert find(name.replace("-", "_", 1)) is parameter
        assert nearest(name.upper()) == (name,)


def test_declarations_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PARAMETERS["mine"] = find("max-workers")  # type: ignore[index]
    with pytest.raises(AttributeError):
        find("max-workers").maximum = 3  # type: ignore[misc]


def test_what_the_engines_act_on() -> None:
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


def test_setting_order_keeps_taskvine_from_undoing_a_setting() -> None:
    # vine_tune("proportional-resources", x) sets proportional-whole-tasks to x too.
    names = list(PARAMETERS)
    assert names.index("proportional-resources") < names.index("proportional-whole-tasks")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temp-replica-cuont", "temp-replica-count"),
        ("temp_replicas_count", "temp-replica-count"),
        ("Temp-Replica-Count", "temp-replica-count"),
        ("replication", "temp-replica-count"),
        ("worker-source-max-transfer", "worker-source-max-transfers"),
        ("disconnect-slow-workers-factor", "disconnect-slow-worker-factor"),  # so spelled in taskvine.h
        ("wait-for-worker", "wait-for-workers"),
        ("wait_retrieve_many", "max-retrievals"),
        ("keep-alive-interval", "keepalive-interval"),
        ("library-slots", "executor.library-slots"),
        ("inline_limit", "executor.inline-limit"),
        ("num_slots", "executor.library-slots"),
    ],
)
def test_the_nearest_name_is_named(name: str, meant: str) -> None:
    with pytest.raises(UnknownParameter, match=f"did you mean .*'{meant}'") as caught:
        find(name)
    assert caught.value.nearest[0] == meant


@pytest.mark.parametrize("name", ["", "qqqqqq", 3, None, ("temp-replica-count",)])
def test_what_is_like_nothing_is_not_guessed(name: object) -> None:
    with pytest.raises(UnknownParameter, match="taskvine-tune list"):
        find(name)


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("prefer-dispatch", 1, True),
        ("prefer-dispatch", 0.0, False),
        ("prefer-dispatch", np.bool_(True), True),
        ("prefer-dispatch", np.int8(0), False),
        ("max-retrievals", 2.0, 2),
        ("max-retrievals", np.int64(2), 2),
        ("max-retrievals", np.float32(2), 2),
        ("max-retrievals", Fraction(4, 2), 2),
        ("sandbox-grow-factor", 2, 2.0),
        ("sandbox-grow-factor", np.float32(1.5), 1.5),
        ("sandbox-grow-factor", Fraction(3, 2), 1.5),
    ],
)
def test_numbers_of_any_kind_become_the_declared_type(name: str, value: Any, read: Any) -> None:
    found = find(name).read(value)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize("value", [Decimal(2), "2", b"2", [2], None, 2j, np.array([2])])
@pytest.mark.parametrize("name", ["prefer-dispatch", "max-retrievals", "sandbox-grow-factor"])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(WrongType, match=name):
        find(name).read(value)
