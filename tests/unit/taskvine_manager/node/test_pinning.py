"""The CPUs that tasks are bound to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_manager.node.pinning import Cpus, groups, parse, variables

ODD = [1, 3, 5, 7, 9]
"""The CPUs that a batch system may grant."""


@pytest.mark.parametrize(
    ("setting", "slots", "expected"),
    [
        ("none", 2, []),
        ("block", 2, [(1, 3), (5, 7)]),
        ("block-reverse", 2, [(5, 7), (1, 3)]),
        ("alternating", 2, [(1, 5, 9), (3, 7)]),
        ("block", 1, [(1, 3, 5, 7, 9)]),
        ("block", 8, [(1,), (3,), (5,), (7,), (9,)]),  # three slots share
        ("list:1:3,5-7", 2, [(1,), (3, 5, 7)]),  # 6 is not granted
        ("list:9,1", 1, [(9, 1)]),
    ],
)
def test_groups_are_those_of_htex(setting: str, slots: int, expected: list[tuple[int, ...]]) -> None:
    assert groups(setting, reversed(ODD), slots) == expected


@pytest.mark.parametrize(
    "setting", ["blocks", "list", "list:", "list:1-", "list:-1", "list:a", "list:3-1", "list:1:", "list:0-99999999"]
)
def test_malformed_settings_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="must be 'none', 'block'"):
        groups(setting, ODD, 2)


def test_group_that_the_node_may_not_use_is_refused() -> None:
    with pytest.raises(ValueError, match=r"group 1 of 'list:1:2,4' has none of the CPUs .*\[1, 3, 5, 7, 9\]"):
        groups("list:1:2,4", ODD, 2)


def test_list_is_read_without_a_node() -> None:
    assert parse("list:0-2,2:7") == [(0, 1, 2), (7,)]


def test_task_gets_the_groups_with_the_fewest_tasks() -> None:
    cpus = Cpus([(0, 1), (2, 3), (4, 5)], cores=2.0)
    first = cpus.pick(2.0)
    cpus.change(first, 1)
    wide = cpus.pick(3.0)
    assert (first, wide) == ((0,), (1, 2))
    assert cpus.cpus(wide) == (2, 3, 4, 5)
    cpus.change(wide, 1)
    assert cpus.pick(0.5) == (0,)
    assert cpus.pick(99.0) == (0, 1, 2)
    cpus.change(wide, -1)
    assert cpus.pick(1.0) == (1,)


@given(st.lists(st.tuples(st.floats(0.0, 8.0), st.booleans()), max_size=30))
def test_nothing_is_leaked(steps: list[tuple[float, bool]]) -> None:
    cpus = Cpus([(0,), (1,), (2,)])
    held: list[tuple[int, ...]] = []
    for cores, ends in steps:
        if ends and held:
            cpus.change(held.pop(0), -1)
        else:
            held.append(cpus.pick(cores))
            cpus.change(held[-1], 1)
    for chosen in held:
        cpus.change(chosen, -1)
    assert cpus.load(range(3)) == 0
    assert cpus.pick(1.0) == (0,)


def test_threads_of_openmp_are_bound() -> None:
    assert variables((0, 2)) == {"GOMP_CPU_AFFINITY": "0,2", "KMP_AFFINITY": "explicit,proclist=[0,2]"}
    assert list(variables((0,), {"KMP_AFFINITY": "none"})) == ["GOMP_CPU_AFFINITY"]
    assert variables(()) == {}
