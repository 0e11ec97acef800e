"""Nodes search for modules where the user's process does, in the same order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from taskvine_manager.runtime import search_path
from taskvine_manager.runtime.search_path import SearchPath, Watch, merged, of_this_process

USER = SearchPath(("/script", "/pythonpath", "/lib/python", "/lib/python/site-packages", "/editable"), "/usr")


def test_same_interpreter_searches_in_the_same_order() -> None:
    own = ["/root", "/lib/python", "/lib/python/site-packages"]
    assert merged(USER, own, "/usr") == [*USER.entries, "/root"]


def test_other_interpreter_searches_its_packages_first() -> None:
    own = ["/root", "/env/python", "/env/python/site-packages"]
    assert merged(USER, own, "/env") == [*own, *USER.entries]


def test_entries_are_absolute_and_nothing_but_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "sub", Path("/path"), b"/bytes", "/a", "/a"])
    assert of_this_process().entries == (str(tmp_path), str(tmp_path / "sub"), "/a")


def test_a_change_is_noticed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    start = of_this_process()
    watch = Watch(start)
    assert not watch.look()
    assert watch.changed is None
    monkeypatch.setattr(sys, "path", ["/new", *sys.path])
    assert watch.look()
    assert not watch.look()
    assert watch.changed is not None
    assert watch.changed.entries == ("/new", *start.entries)
    monkeypatch.setattr(sys, "path", sys.path[1:])
    assert watch.look()
    assert watch.changed is None


def test_relative_entry_follows_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    watch = Watch(of_this_process())
    monkeypatch.chdir(tmp_path)
    assert watch.look()
    assert watch.changed is not None
    assert watch.changed.entries[0] == str(tmp_path)


def test_path_of_a_call_is_used_until_it_is_reset(tmp_path: Path) -> None:
    program = """
import json, sys
from taskvine_manager.runtime import search_path
start = search_path.of_this_process()
search_path.start(start)
seen = [sys.path[0]]
for path in (start._replace(entries=("/other", *start.entries)), None):
    search_path.use(path)
    seen.append(sys.path[0])
    sys.path.insert(0, "/of the call")
    search_path.use(path)
    seen.append(sys.path[0])
print(json.dumps(seen))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True, text=True)
    first = str(tmp_path)
    assert json.loads(ran.stdout) == [first, "/other", "/of the call", first, "/of the call"]


def test_a_function_is_loaded_with_its_own_path(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "of_the_user.py").write_text(f"WHO = {name!r}")
    program = f"""
import pickle, sys
from taskvine_manager.runtime import search_path
from taskvine_manager.runtime.functions import Functions
import cloudpickle
start = search_path.of_this_process()
start = start._replace(entries=({str(tmp_path / "first")!r}, *start.entries))
search_path.start(start)
def other(): pass
def function():
    import of_the_user
    return of_the_user.WHO
functions = Functions()
path = start._replace(entries=({str(tmp_path / "second")!r}, *start.entries))
functions.add("other", pickle.dumps(search_path.OnPath(path, cloudpickle.dumps(other))))
functions.add("plain", cloudpickle.dumps(function))
functions.load("other")()
print(functions.load("plain")())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert ran.stdout.strip() == "first"


def test_process_without_a_path_is_left_alone() -> None:
    before = sys.path.copy()
    search_path.use(None)
    assert sys.path == before
