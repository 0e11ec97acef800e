"""Resource specifications: accepted ones, refused ones, and the messages."""

from __future__ import annotations

import math
from collections import UserDict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsl.executors.errors import InvalidResourceSpecification

from taskvine_exec.submission.resources import UNSPECIFIED, ResourceSpecification, did_you_mean, normalise_mode, parse


@pytest.mark.parametrize("spec", [None, {}, {"cores": None}, {"exec_mode": None, "category": None}])
def test_empty_specification_is_the_shared_constant(spec: Any) -> None:
    assert parse(spec) is UNSPECIFIED


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"cores": 2}, ResourceSpecification(cores=2.0)),
        ({"cores": 0.5}, ResourceSpecification(cores=0.5)),
        ({"cores": Fraction(1, 4)}, ResourceSpecification(cores=0.25)),
        ({"memory": 1000, "disk": 0}, ResourceSpecification(memory=1000.0, disk=0.0)),
        ({"gpus": 1.0}, ResourceSpecification(gpus=1)),
        ({"gpus": 0.25}, ResourceSpecification(gpus=0.25)),
        ({"gpus": Fraction(1, 4)}, ResourceSpecification(gpus=0.25)),
        ({"gpu_memory": 1000}, ResourceSpecification(gpu_memory=1000.0)),
        ({"gpu_memory": 0}, ResourceSpecification(gpu_memory=0.0)),
        ({"priority": -3}, ResourceSpecification(priority=-3.0)),
        ({"priority": None}, ResourceSpecification(priority=0.0)),
        ({"category": "align"}, ResourceSpecification(category="align")),
        ({"running_time_min": 60}, ResourceSpecification(running_time_min=60.0)),
        ({"function_exec_mode": "regular"}, ResourceSpecification(mode="L1")),
        ({"function_exec_mode": "L2"}, ResourceSpecification(mode="L2")),
        ({"exec_mode": "serverless"}, ResourceSpecification(mode="L2")),
        ({"exec_mode": "serverless", "function_exec_mode": "L2"}, ResourceSpecification(mode="L2")),
        ({"exec_mode": None, "function_exec_mode": "L1"}, ResourceSpecification(mode="L1")),
        ({"library": "resnet", "exec_mode": "L2"}, ResourceSpecification(library="resnet", mode="L2")),
        (UserDict({"cores": 1}), ResourceSpecification(cores=1.0)),
    ],
)
def test_valid_specifications_are_accepted(spec: Any, expected: ResourceSpecification) -> None:
    result = parse(spec)
    assert result == expected
    assert hash(result) == hash(expected)


def test_numbers_become_pythons() -> None:
    numpy = pytest.importorskip("numpy")
    result = parse({"cores": numpy.float32(0.5), "gpus": numpy.int64(1), "priority": numpy.int8(3)})
    assert [type(value) for value in (result.cores, result.gpus, result.priority)] == [float, int, float]


@pytest.mark.parametrize(
    ("spec", "keys", "says"),
    [
        ({"core": 1}, {"core"}, "did you mean 'cores'"),
        ({"CORES": 1}, {"CORES"}, "did you mean 'cores'"),
        ({"cpus": 1}, {"cpus"}, "did you mean 'cores'"),
        ({"ncpus": 1}, {"ncpus"}, "did you mean 'cores'"),
        ({"cpu": 1}, {"cpu"}, "did you mean 'cores'"),
        ({"mem": 1}, {"mem"}, "did you mean 'memory'"),
        ({"ram": 1}, {"ram"}, "did you mean 'memory'"),
        ({"gpu": 1}, {"gpu"}, "did you mean 'gpus'"),
        ({"walltime": 1}, {"walltime"}, "did you mean 'running_time_min'"),
        ({"runtime": 1}, {"runtime"}, "did you mean 'running_time_min'"),
        ({"mode": "L1"}, {"mode"}, "did you mean 'function_exec_mode'"),
        ({"exec_mod": "L1"}, {"exec_mod"}, "'exec_mode'"),
        ({"num_nodes": 2}, {"num_nodes"}, "MPI"),
        ({"ranks_per_node": 2, "num_ranks": 4}, {"ranks_per_node", "num_ranks"}, "MPI"),
        ({"zzz": 1}, {"zzz"}, "known are category, cores"),
        ({"zzz": None}, {"zzz"}, "known are"),
        ({3: 1}, {"3"}, "known are"),
        ({"cores": -1}, {"cores"}, "cores=-1: must be a number of at least 0"),
        ({"cores": math.nan}, {"cores"}, "cores=nan: must be a finite number"),
        ({"cores": math.inf}, {"cores"}, "must be a finite number"),
        ({"cores": 10**400}, {"cores"}, "must be a finite number"),
        ({"cores": 10**5000}, {"cores"}, "must be a finite number"),
        ({"cores": True}, {"cores"}, "cores=True: must be a number"),
        ({"cores": "2"}, {"cores"}, "cores='2': must be a number"),
        ({"cores": [2]}, {"cores"}, "cores=[2]: must be a number"),
        ({"cores": 2j}, {"cores"}, "must be a number"),
        ({"memory": "4GB"}, {"memory"}, "memory='4GB': must be a number"),
        ({"disk": -0.1}, {"disk"}, "at least 0"),
        ({"gpus": 1.5}, {"gpus"}, "must be a whole number from 0 to"),
        ({"gpus": 0.001}, {"gpus"}, "or a part of one gpu, from 0.01 to 1"),
        ({"gpu_memory": 0.5}, {"gpu_memory"}, "at least 1"),
        ({"vram": 1}, {"vram"}, "did you mean 'gpu_memory'"),
        ({"gpus": 2**64}, {"gpus"}, "must be a whole number from 0 to"),
        ({"category": "\ud800"}, {"category"}, "text that UTF-8 can encode"),
        ({"gpus": False}, {"gpus"}, "must be a whole number"),
        ({"priority": math.nan}, {"priority"}, "finite"),
        ({"priority": "high"}, {"priority"}, "must be a number"),
        ({"category": ""}, {"category"}, "non-empty string"),
        ({"category": 3}, {"category"}, "non-empty string"),
        ({"running_time_min": -5}, {"running_time_min"}, "at least 0"),
        ({"function_exec_mode": "l1"}, {"function_exec_mode"}, "must be one of 'regular', 'L1', 'serverless', 'L2'"),
        ({"exec_mode": 1}, {"exec_mode"}, "one of 'regular'"),
        ({"exec_mode": ["L1"]}, {"exec_mode"}, "one of 'regular'"),
        ({"exec_mode": "L1", "function_exec_mode": "L2"}, {"function_exec_mode"}, "disagree"),
        ({"function_exec_mode": "serverless", "exec_mode": "regular"}, {"exec_mode"}, "disagree"),
        ({"cores": -1, "mem": 1, "disk": 1}, {"cores", "mem"}, "did you mean 'memory'"),
        ([("cores", 1)], set(), "must be a dict, not list"),
        ("cores", set(), "must be a dict, not str"),
    ],
)
def test_invalid_specifications_are_refused(spec: Any, keys: set[str], says: str) -> None:
    with pytest.raises(InvalidResourceSpecification) as caught:
        parse(spec)
    assert caught.value.invalid_keys == keys
    assert says in caught.value.message
    assert says in str(caught.value)


@pytest.mark.parametrize(("value", "mode"), [("regular", "L1"), ("L1", "L1"), ("serverless", "L2"), ("L2", "L2")])
def test_modes_are_read(value: str, mode: str) -> None:
    assert normalise_mode(value) == mode


@pytest.mark.parametrize("value", ["", "l2", "warm", None, 2, ["L1"]])
def test_unknown_modes_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"execution mode .* is not one of 'regular', 'L1', 'serverless', 'L2'"):
        normalise_mode(value)


def test_suggestion_is_the_nearest_name_or_all_names() -> None:
    assert did_you_mean("memry", ["memory", "disk"]) == "did you mean 'memory'?"
    assert did_you_mean("x", ["memory", "disk"]) == "known are disk, memory."
    assert did_you_mean("RAM", ["memory", "disk"], {"ram": "memory"}) == "did you mean 'memory'?"


AMOUNTS = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
VALID = st.fixed_dictionaries(
    {},
    optional={
        "cores": AMOUNTS | st.integers(0, 10**6),
        "memory": AMOUNTS,
        "disk": AMOUNTS,
        "gpus": st.integers(0, 10**6),
        "priority": st.floats(allow_nan=False, allow_infinity=False),
        "category": st.text(min_size=1),
        "running_time_min": AMOUNTS,
        "function_exec_mode": st.sampled_from(["regular", "serverless", "L1", "L2"]),
    },
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KNOWN = st.sampled_from([*ResourceSpecification._fields, "function_exec_mode", "exec_mode"])


@given(VALID)
def test_valid_specification_is_kept(spec: dict[str, Any]) -> None:
    result = parse(spec)
    for key, value in spec.items():
        if key == "function_exec_mode":
            assert result.mode == normalise_mode(value)
        else:
            assert getattr(result, key) == value
    for name in set(ResourceSpecification._fields) - spec.keys() - {"mode"}:
        assert getattr(result, name) == getattr(UNSPECIFIED, name)
    assert {result: 1}[parse(dict(reversed(spec.items())))] == 1


@given(st.dictionaries(KNOWN | st.text(max_size=12) | st.integers(), ANYTHING, max_size=6))
def test_anything_is_parsed_or_refused_by_name(spec: dict[Any, Any]) -> None:
    keys = list(spec)
    try:
        result = parse(spec)
    except InvalidResourceSpecification as error:
        refused, message = error.invalid_keys, str(error)
    else:
        refused, message = set(), "accepted"
        hash(result)
        amounts = (result.cores, result.memory, result.disk, result.gpus, result.gpu_memory, result.running_time_min)
        assert all(amount is None or (amount >= 0 and math.isfinite(amount)) for amount in amounts)
    assert bool(refused) == (message != "accepted")
    assert refused <= {str(key) for key in keys}
    assert list(spec) == keys
