"""Plans of files for tests."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from taskvine_exec.submission.files import FilePlan, FileRules
from taskvine_exec.submission.temp_files import TempFiles


class Planner:
    """Make plans for the tasks t0, t1 and so on of one executor."""

    def __init__(self) -> None:
        self.files = TempFiles()
        self.futures: list[Future[Any]] = []

    def __call__(
        self,
        *args: Any,
        shared_fs: bool = False,
        storage: Any = (),
        travel: bool = False,
        directory: str | None = None,
        in_place: bool = False,
        **kwargs: Any,
    ) -> FilePlan:
        task = f"t{len(self.futures)}"
        self.futures.append(Future())
        return FilePlan(
            args,
            kwargs,
            FileRules(
                temp_files=self.files,
                shared_fs=shared_fs,
                storage=storage,
                streams_travel=travel,
                directory=directory,
                in_place=in_place,
            ),
            task=task,
            producer=self.futures[-1],
        )


@pytest.fixture
def plan() -> Planner:
    return Planner()
