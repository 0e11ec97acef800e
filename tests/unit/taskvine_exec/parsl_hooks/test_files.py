"""Files that the pickler meets."""

from __future__ import annotations

import copy
import pickle
from typing import Any

from parsl.data_provider.files import File

from taskvine_exec.parsl_hooks.files import staging
from taskvine_exec.parsl_hooks.switches import FILES
from tests.unit.taskvine_exec.parsl_hooks.conftest import Switch


def test_files_are_replaced_while_arguments_are_pickled(switch: Switch) -> None:
    on = switch(FILES)
    met: list[File] = []

    def stage(file: File) -> File:
        met.append(file)
        return File("file:///staged")

    file = File("file:///given")
    argument = {"a": [file, {"b": file}]}
    loaded = pickle.loads(staging(stage, pickle.dumps, argument))
    assert loaded["a"][0].url == ("file:///staged" if on else "file:///given")
    assert loaded["a"][0] is loaded["a"][1]["b"]
    assert met == ([file] if on else [])


def test_files_are_pickled_as_usual_elsewhere(switch: Switch) -> None:
    switch(FILES)
    file = File("file:///given")
    file.local_path = "here"
    for loaded in (pickle.loads(pickle.dumps(file)), copy.copy(file)):
        assert vars(loaded) == vars(file)


def test_files_are_pickled_as_usual_after_an_error(switch: Switch) -> None:
    on = switch(FILES)

    def refuse(file: File) -> File:
        raise ValueError("no")

    def attempt() -> Any:
        try:
            return staging(refuse, pickle.dumps, [File("file:///given")])
        except ValueError as error:
            return str(error)

    assert (attempt() == "no") is on
    assert pickle.loads(pickle.dumps(File("file:///given"))).url == "file:///given"
