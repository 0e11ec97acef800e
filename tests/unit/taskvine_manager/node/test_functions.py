"""Functions are kept as long as tasks may need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskvine_manager.node.calls import Call, Need
from taskvine_manager.node.functions import Functions
from taskvine_manager.runtime import release
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import L2, Invocation, Profile

PROFILE = Profile(0, "key", "f", L2, None, None, None, None, 0.0, "f")
CALL = Call(Invocation(1, 0, b""), PROFILE, Need(1.0, 0.0))


class Pool:
    """The node's functions, and what slots are told to forget."""

    def __init__(self) -> None:
        self.functions: dict[str, Payload] = {}
        self.forgotten: set[str] = set()

    def forget_functions(self, keys: set[str]) -> None:
        self.forgotten |= keys


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def functions(pool: Any, tmp_path: Path) -> Functions:
    (tmp_path / "kept").mkdir()
    return Functions(pool.functions, pool, str(tmp_path / "kept"))


def test_retired_functions_are_forgotten_after_their_last_task(functions: Functions, pool: Pool) -> None:
    functions.add("key", b"encoded")
    functions.add("other", b"other")
    functions.retire(["key"], [])
    functions.forget([CALL])
    assert set(pool.functions) == {"key", "other"}
    assert not pool.forgotten
    functions.forget([])
    assert set(pool.functions) == {"other"}
    assert pool.forgotten == {"key"}


def test_function_that_comes_again_is_kept(functions: Functions, pool: Pool) -> None:
    functions.add("key", b"encoded")
    functions.retire(["key"], [])
    functions.add("key", b"again")
    functions.forget([])
    assert pool.functions == {"key": b"again"}


def test_memory_of_forgotten_functions_is_to_be_trimmed(functions: Functions) -> None:
    functions.add("key", b"x" * release.ENOUGH)
    functions.retire(["key"], [])
    assert functions.memory.wait is None
    functions.forget([])
    assert functions.memory.wait is not None


def test_profiles(functions: Functions) -> None:
    functions.add_profiles([tuple(PROFILE), tuple(PROFILE._replace(number=1))])
    assert functions.profiles == {0: PROFILE, 1: PROFILE._replace(number=1)}
    functions.retire([], [0, 7])
    assert set(functions.profiles) == {1}


def test_copies_are_made_once_and_removed(functions: Functions, pool: Pool, tmp_path: Path) -> None:
    source = tmp_path / "sent"
    source.write_bytes(b"encoded")
    functions.add_copy("key", str(source))
    source.unlink()
    functions.add_copy("key", str(source))
    kept = Path(str(pool.functions["key"]))
    assert kept.read_bytes() == b"encoded"
    functions.retire(["key"], [])
    functions.forget([])
    assert not kept.exists()
    source.write_bytes(b"encoded")
    functions.add_copy("key", str(source))
    assert kept.exists()
