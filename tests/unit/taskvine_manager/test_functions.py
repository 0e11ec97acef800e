"""The manager keeps a function as long as one of its profiles exists."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from taskvine_manager.functions import Functions
from taskvine_manager.runtime import release
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import Profile


def profile(number: int, function: str) -> Profile:
    return Profile(number, function, "f", "L2", None, None, None, None, 0.0, "f")


@pytest.fixture
def functions() -> Functions:
    """Make functions named ``a``, with the bytes of a message."""
    functions = Functions()
    functions.define("a", b"body")
    return functions


def test_function_is_removed_with_its_last_profile(functions: Functions) -> None:
    held = [functions.hold(profile(number, "a")) for number in (1, 2)]
    del held[0]
    assert functions.gone() == []
    assert functions["a"] == b"body"
    held.clear()
    (gone,) = functions.gone()
    assert (gone.key, sorted(gone.profiles)) == ("a", [1, 2])
    assert "a" not in functions
    assert functions.gone() == []


def test_function_sent_again_soon_stays(functions: Functions) -> None:
    held = functions.hold(profile(1, "a"))
    del held
    functions.define("a", b"body")
    held = functions.hold(profile(2, "a"))
    assert functions.gone() == []
    del held
    (gone,) = functions.gone()
    assert gone.profiles == (1, 2)


def test_function_sent_again_later_is_new(functions: Functions) -> None:
    held = functions.hold(profile(1, "a"))
    del held
    functions.gone()
    functions.define("a", b"body")
    held = functions.hold(profile(2, "a"))
    assert functions["a"] == b"body"
    del held
    assert [gone.profiles for gone in functions.gone()] == [(2,)]


def test_file_of_a_function_is_removed(functions: Functions, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("first", "second")]
    for path in paths:
        path.write_bytes(b"body")
        functions.define("large", str(path))
    assert [path.exists() for path in paths] == [True, False]  # nodes may be about to read the first one
    held = functions.hold(profile(1, "large"))
    del held
    assert [gone.encoded for gone in functions.gone()] == [str(paths[0])]
    assert not paths[0].exists()


def test_sent_objects_are_plain(functions: Functions) -> None:
    held = functions.hold(profile(1, "a"))
    assert held == profile(1, "a")
    assert type(pickle.loads(pickle.dumps(tuple(held)))[1]) is str
    assert messages.decode(messages.encode("run", held))[1] == tuple(held)


def test_memory_is_returned_when_much_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[None] = []
    monkeypatch.setattr(release, "trim", lambda: trimmed.append(None))
    monkeypatch.setattr(release.time, "monotonic", lambda: now[0])
    now, memory = [0.0], release.Memory()
    memory.freed(release.ENOUGH - 1)
    assert memory.wait is None
    memory.freed(1)
    now[0] += release.QUIET / 2
    assert memory.wait == pytest.approx(release.QUIET / 2)
    memory.tidy()
    assert not trimmed
    now[0] += release.QUIET
    memory.tidy()
    memory.tidy()
    assert len(trimmed) == 1
