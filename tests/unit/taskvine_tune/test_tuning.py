"""Sets of parameters: wrong ones are refused with a reason; valid ones are read from files as they were written."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskvine_tune
from taskvine_manager.parameters import PARAMETERS, Flag, Parameter, Value, Whole
from taskvine_tune import TuneParameters, formats
from taskvine_tune.errors import (
    BadFile,
    Conflict,
    GivenTwice,
    LibraryMissing,
    NotTunableNow,
    OutOfRange,
    TuningError,
    UnknownParameter,
    WrongType,
)
from taskvine_tune.formats import FORMATS, Format
from taskvine_tune.tuning import conflicts, examine

BIG = 2**31 - 1

#: Wrong names and values, the exception of each, and a part of its message.
BAD: list[tuple[dict[Any, Any], type[TuningError], str]] = [
    # names
    ({"temp-replica-cuont": 2}, UnknownParameter, r"'temp-replica-cuont': did you mean 'temp-replica-count'"),
    ({"temp replica count": 2}, UnknownParameter, r"did you mean 'temp-replica-count'"),
    ({"TEMP_REPLICA_COUNT": 2}, UnknownParameter, r"did you mean 'temp-replica-count'\?"),
    ({"disconnect-slow-workers-factor": 3}, UnknownParameter, r"did you mean 'disconnect-slow-worker-factor'"),
    ({"proportional": True}, UnknownParameter, r"did you mean"),
    ({"wait_retrieve_many": 1}, UnknownParameter, r"did you mean 'max-retrievals' or 'worker-retrievals'"),
    ({"inline-limit": 1}, UnknownParameter, r"did you mean 'executor\.inline-limit'"),
    ({"executor.inline": 1}, UnknownParameter, r"did you mean 'executor\.inline-limit'"),
    ({"executor": {"temp-replica-count": 2}}, UnknownParameter, r"executor\.temp-replica-count"),
    ({"executor": {3: 2}}, UnknownParameter, r"parameter 3"),
    ({"executor": 2}, UnknownParameter, r"parameter 'executor'"),
    ({"taskvine": {"temp-replica-count": 2}}, UnknownParameter, r"parameter 'taskvine'"),
    ({"": 1}, UnknownParameter, r"parameter ''"),
    ({"zzzzzzzz": 1}, UnknownParameter, r"taskvine-tune list"),
    ({"z" * 500: 1}, UnknownParameter, r"z\.\.\.: "),
    ({3: 1}, UnknownParameter, r"parameter 3"),
    ({None: 1}, UnknownParameter, r"parameter None"),
    # types
    ({"temp-replica-count": "2"}, WrongType, r"temp-replica-count='2' .*a whole number"),
    ({"temp-replica-count": True}, WrongType, r"temp-replica-count=True .*a whole number"),
    ({"temp-replica-count": None}, WrongType, r"=None .*a whole number"),
    ({"temp-replica-count": 2.5}, WrongType, r"=2\.5 .*a whole number"),
    ({"temp-replica-count": [2]}, WrongType, r"=\[2\]"),
    ({"temp-replica-count": math.nan}, WrongType, r"=nan"),
    ({"temp-replica-count": math.inf}, WrongType, r"=inf"),
    ({"temp_replica_count": {"count": 2}}, WrongType, r"temp-replica-count=\{"),
    ({"sandbox-grow-factor": "1.5"}, WrongType, r"a finite number"),
    ({"sandbox-grow-factor": True}, WrongType, r"a finite number"),
    ({"sandbox-grow-factor": math.inf}, WrongType, r"a finite number"),
    ({"sandbox-grow-factor": 10**400}, WrongType, r"a finite number"),
    ({"prefer-dispatch": 2}, WrongType, r"prefer-dispatch=2 .*true or false"),
    ({"prefer-dispatch": 0.5}, WrongType, r"true or false"),
    ({"prefer-dispatch": "yes"}, WrongType, r"true or false"),
    ({"prefer-dispatch": None}, WrongType, r"true or false"),
    ({"executor": {"batch": "8"}}, WrongType, r"executor\.batch='8'"),
    # bounds
    ({"temp-replica-count": 0}, OutOfRange, r"=0 is out of range: must be at least 1"),
    ({"temp-replica-count": BIG + 1}, OutOfRange, r"at most 2147483647"),
    ({"temp-replica-count": 10**400}, OutOfRange, r"at most 2147483647"),
    ({"max-workers": -2}, OutOfRange, r"at least -1"),
    ({"wait-for-workers": -1}, OutOfRange, r"wait-for-workers=-1 is out of range: must be at least 0"),
    ({"transient-error-interval": 0.5}, OutOfRange, r"=0\.5 s is out of range: must be at least 1"),
    ({"sandbox-grow-factor": 1.0}, OutOfRange, r"at least 1\.1"),
    ({"asynchrony_multiplier": 0.9}, OutOfRange, r"resource-submit-multiplier=0\.9 .*at least 1"),
    ({"disk-proportion-available-to-task": 1}, OutOfRange, r"above 0 and below 1"),
    ({"disk-proportion-available-to-task": 0.0}, OutOfRange, r"above 0 and below 1"),
    ({"disconnect-slow-worker-factor": 0.5}, OutOfRange, r"0 or at least 1"),
    ({"disconnect-slow-worker-factor": -1}, OutOfRange, r"0 or at least 1"),
    ({"transfer-outlier-factor": 0}, OutOfRange, r"at least 1"),
    ({"large-task-check-interval": 0}, OutOfRange, r"=0 µs is out of range"),
    ({"executor.inline-limit": 2**16 + 1}, OutOfRange, r"65537 bytes .*0 to 65536"),
    ({"executor.loss-interval": 0.001}, OutOfRange, r"=0\.001 s is out of range: must be 0 or 0\.01 to"),
    ({"executor.loss-seed": -1}, OutOfRange, r"executor\.loss-seed=-1 is out of range"),
    ({"executor.weight-wait": 1001}, OutOfRange, r"0 to 1000"),
    ({"executor": {"prefetch": -0.1}}, OutOfRange, r"executor\.prefetch=-0\.1 s .*0 to 60"),
    # twice
    ({"max-workers": 1, "max_workers": 2}, GivenTwice, r"max-workers .*'max-workers' and 'max_workers'"),
    (
        {"proportional-resources": True, "force_proportional_resources": False},
        GivenTwice,
        r"proportional-resources is given twice",
    ),
    ({"executor.batch": 1, "executor": {"batch": 2}}, GivenTwice, r"executor\.batch"),
    # together
    ({"temp-replica-count": 3, "max-workers": 2}, Conflict, r"temp-replica-count=3 and max-workers=2 are in conflict"),
    ({"wait-for-workers": 3, "max-workers": 2}, Conflict, r"wait-for-workers=3 and max-workers=2 are in conflict"),
    (
        {"proportional-whole-tasks": True, "proportional-resources": False},
        Conflict,
        r"proportional-whole-tasks=True and proportional-resources=False",
    ),
    (
        {"executor.loss-interval": 2, "enforce-worker-eviction-interval": 3},
        Conflict,
        r"executor\.loss-interval=2\.0 and enforce-worker-eviction-interval=3 are in conflict",
    ),
]


@pytest.mark.parametrize(("values", "error", "says"), BAD, ids=lambda each: each if isinstance(each, str) else "")
def test_bad_names_and_values_are_refused(values: dict[Any, Any], error: type[TuningError], says: str) -> None:
    with pytest.raises(error, match=says):
        TuneParameters(values)
    with pytest.raises(error, match=says):
        TuneParameters.load(values)
    # A wrong value among valid ones is found too, and the valid ones are kept.
    checked, problems = examine({**values, "monitor-interval": 7})
    assert [type(problem) for problem in problems] == [error]
    assert checked["monitor-interval"] == 7


def test_there_are_enough_bad_values() -> None:
    assert len(BAD) >= 40
    assert {error for _, error, _ in BAD} == {UnknownParameter, WrongType, OutOfRange, GivenTwice, Conflict}


def test_everything_wrong_is_found_at_once() -> None:
    checked, problems = examine({"nothing-such": 1, "max-workers": -5, "prefer-dispatch": 3, "temp-replica-count": 2})
    assert [type(problem) for problem in problems] == [UnknownParameter, OutOfRange, WrongType]
    assert checked == {"temp-replica-count": 2}


@pytest.mark.parametrize(
    ("use", "says"),
    [
        ({"nodes": 1}, r"temp-replica-count=2 and 1 node at most are in conflict"),
        ({"peer_transfers": False}, r"temp-replica-count=2 and enable_peer_transfers=False are in conflict"),
        ({"nodes": 2}, None),
        ({"nodes": None}, None),
    ],
)
def test_conflicts_with_the_context_are_found(use: dict[str, Any], says: str | None) -> None:
    tune = TuneParameters({"temp-replica-count": 2})
    if says is None:
        assert tune.check(**use) is tune
    else:
        with pytest.raises(Conflict, match=says):
            tune.check(**use)
    assert not list(conflicts({"temp-replica-count": 1}, nodes=1, peer_transfers=False))
    assert not list(conflicts({"wait-for-workers": 2}, nodes=2))
    with pytest.raises(Conflict, match=r"wait-for-workers=2 and 1 node at most are in conflict: .* without end"):
        TuneParameters({"wait-for-workers": 2}).check(nodes=1)


def test_fixed_parameters_of_a_running_executor_are_refused() -> None:
    tune = TuneParameters({"temp-replica-count": 2, "executor.library-slots": 2})
    assert tune.check() is tune
    with pytest.raises(NotTunableNow, match=r"executor\.library-slots cannot be changed"):
        tune.check(running=True)


# ---- A value


def test_keys_may_have_any_spelling() -> None:
    tune = TuneParameters({"executor": {"library_slots": 2}, "asynchrony_multiplier": 1.5, "temp_replica_count": 2})
    assert isinstance(tune, Mapping)
    assert dict(tune) == {"temp-replica-count": 2, "resource-submit-multiplier": 1.5, "executor.library-slots": 2}
    assert tune["temp_replica_count"] == tune["temp-replica-count"] == 2
    assert tune["asynchrony-multiplier"] == 1.5
    assert "executor.library_slots" in tune
    assert "max-workers" not in tune
    assert tune.get("max-workers") is None
    assert tune.to_dict(underscores=True)["executor.library_slots"] == 2
    with pytest.raises(KeyError):
        tune["max-workers"]
    with pytest.raises(KeyError, match="did you mean"):
        tune["max-wokers"]


def test_parameters_are_a_value() -> None:
    one, other = TuneParameters({"max-workers": 1, "perf-log-interval": 2}), {"perf_log_interval": 2, "max-workers": 1}
    assert one == TuneParameters(other)
    assert hash(one) == hash(TuneParameters(other))
    assert one == {"max-workers": 1, "perf-log-interval": 2}
    assert one != TuneParameters({"max-workers": 1})
    assert one != 3
    assert copy.copy(one) is copy.deepcopy(one) is one
    assert pickle.loads(pickle.dumps(one)) == one
    assert eval(repr(one), {"TuneParameters": TuneParameters}) == one
    assert one | {"max_workers": 4} == {"max-workers": 4, "perf-log-interval": 2}
    assert one["max-workers"] == 1
    assert not TuneParameters()
    with pytest.raises(OutOfRange):
        one | {"max-workers": -4}
    with pytest.raises(Conflict):
        one | {"temp-replica-count": 2}
    for change in (lambda: setattr(one, "_values", {}), lambda: delattr(one, "_values")):
        with pytest.raises(AttributeError, match="cannot be changed"):
            change()


def test_given_mapping_is_copied() -> None:
    given = {"max-workers": 1}
    tune = TuneParameters(given)
    given["max-workers"] = 2
    tune.to_dict()["max-workers"] = 3
    assert tune["max-workers"] == 1


def test_parameters_without_effect_are_listed() -> None:
    tune = TuneParameters({"temp-replica-count": 2, "transfer-temps-recovery": True, "hungry-minimum": 3})
    assert [each.name for each in tune.ignored_by("embedded")] == ["hungry-minimum"]
    assert [each.name for each in tune.ignored_by("taskvine")] == ["transfer-temps-recovery"]


# ---- Files


def values_of(parameter: Parameter) -> st.SearchStrategy[Value]:
    if isinstance(parameter, Flag):
        return st.booleans()
    low, high = parameter.minimum, parameter.maximum
    if isinstance(parameter, Whole):
        return st.integers(None if low is None else int(low), None if high is None else int(high))
    within = st.floats(
        low,
        high,
        allow_nan=False,
        allow_infinity=False,
        exclude_min=parameter.open_bounds,
        exclude_max=parameter.open_bounds,
    )
    return st.one_of(within, st.sampled_from(parameter.also)) if parameter.also else within


SETS = st.fixed_dictionaries({}, optional={name: values_of(each) for name, each in PARAMETERS.items()}).filter(
    lambda values: not list(conflicts(values))
)


@pytest.mark.parametrize("form", FORMATS)
@given(values=SETS)
def test_file_round_trip(form: Format, values: dict[str, Value]) -> None:
    tune = TuneParameters(values)
    back = TuneParameters.loads(tune.dumps(form), form)
    assert back == tune
    assert [(name, type(value)) for name, value in back.items()] == [(name, type(v)) for name, v in tune.items()]


@given(values=SETS)
def test_round_trip_of_dicts(values: dict[str, Value]) -> None:
    tune = TuneParameters(values)
    assert tune == values
    assert TuneParameters(tune.to_dict()) == TuneParameters(tune.to_dict(underscores=True)) == tune
    assert TuneParameters(tune) == tune


@pytest.mark.parametrize("name", ["a.toml", "a.yaml", "a.yml", "a.json", "A.TOML"])
def test_files(tmp_path: Path, name: str) -> None:
    tune = TuneParameters({"temp-replica-count": 2, "executor.prefetch": 0.5, "prefer-dispatch": True})
    tune.dump(tmp_path / name)
    assert TuneParameters.load(tmp_path / name) == TuneParameters.load(str(tmp_path / name)) == tune


def test_every_format_gives_the_same_set() -> None:
    texts: dict[Format, str] = {
        "toml": 'temp_replica_count = 2  # two\n"executor.batch" = 3\n[executor]\nprefetch = 1\n',
        "yaml": "temp_replica_count: 2  # two\nexecutor.batch: 3\nexecutor:\n  prefetch: 1\n",
        "json": '{"temp_replica_count": 2, "executor.batch": 3, "executor": {"prefetch": 1}}',
    }
    expected = {"temp-replica-count": 2, "executor.batch": 3, "executor.prefetch": 1.0}
    for form, text in texts.items():
        assert TuneParameters.loads(text, form) == expected


@pytest.mark.parametrize("form", ["toml", "yaml"])
@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_empty_set(form: Format, text: str) -> None:
    assert TuneParameters.loads(text, form) == {}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "temp-replica-count = ", "cannot be read"),
        ("a.toml", "max-workers = 1\nmax-workers = 2\n", "cannot be read"),
        ("a.toml", "\0", "cannot be read"),
        ("a.yaml", "a: b: c", "cannot be read"),
        ("a.yaml", "- max-workers", "a list, not values by name"),
        ("a.yaml", "2", "an? int, not values by name"),
        ("a.yaml", "false", "bool, not values by name"),
        ("a.yaml", "max-workers: 1\nmax-workers: 2\n", "'max-workers' appears twice"),
        ("a.yaml", "executor:\n  batch: 1\n  batch: 2\n", "'batch' appears twice"),
        ("a.yaml", "a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a.yaml", "? [a]\n: 1\n", "cannot be read"),
        ("a.json", "", "cannot be read"),
        ("a.json", "[1]", "a list, not values by name"),
        ("a.json", '{"max-workers": 1, "max-workers": 2}', "'max-workers' appears twice"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.ini", "max-workers=1", r"must end with \.toml, \.yaml, \.yml, \.json"),
        ("a", "{}", "must end with"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadFile, match=says) as caught:
        TuneParameters.load(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def test_unopenable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    (tmp_path / "directory.toml").mkdir()
    for name in ("absent.toml", "latin.toml", "directory.toml"):
        with pytest.raises(BadFile, match=name):
            TuneParameters.load(tmp_path / name)


def test_missing_yaml_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    for use in (lambda: TuneParameters.loads("{}", "yaml"), lambda: TuneParameters().dumps("yaml")):
        with pytest.raises(LibraryMissing, match=r"needs pyyaml: pip install 'taskvine-exec\[tune\]'"):
            use()
    assert formats.parse("{}", "json") == {}


def test_reading_parameters_needs_nothing_large() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from taskvine_tune import TuneParameters\n"
        "import json; assert TuneParameters({'max-workers': 2})\n"
        "print(json.dumps([name for name in sys.modules if name.partition('.')[0] in "
        "('numpy', 'rich', 'yaml', 'matplotlib', 'msgpack', 'parsl', 'taskvine_exec', 'taskvine_manager')]))"
    )
    root = str(Path(taskvine_tune.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    allowed = ("taskvine_manager.parameters", "taskvine_manager.node_parameters")
    assert all(name == "taskvine_manager" or name.startswith(allowed) for name in loaded)
