"""The part of ``ndcctools.taskvine`` that the engine uses, with workers that a test plays.

It keeps what matters of the real one: tasks for a library that nobody installed come back at once, ``wait`` returns one
ended task at a time, tasks are dispatched by priority to workers that have the features they ask for, and a task whose
worker goes is queued again.
"""

from __future__ import annotations

import itertools
import pickle
from types import SimpleNamespace
from typing import Any

from taskvine_manager.vine import parcels
from taskvine_manager.vine.parcels import Answer, Parcel
from taskvine_manager.vine.worker.worker import MARK


class File:
    def __init__(self, kind: str, content: Any = None) -> None:
        self.kind = kind
        self.content = content
        self.declared = True
        self.replicas = 1

    def contents(self, unserializer: Any = None) -> Any:
        return self.content


class Task:
    def __init__(self, command: str, **task_info: Any) -> None:
        self.command = command
        self._task = self
        self.library: str | None = None
        self.priority = 0.0
        self.category = ""
        self.features: list[str] = []
        self.inputs: dict[str, File] = {}
        self.outputs: dict[str, File] = {}
        self.id = 0
        self.addrport: str | None = None
        self.result = "unknown"
        self.exit_code = 0
        self.spread = False
        self.std_output = ""
        self.max_forsaken = -1
        self.time_min = 0

    def set_library_required(self, library: str) -> None:
        self.library = library

    def set_max_forsaken(self, max_forsaken: int) -> None:
        self.max_forsaken = max_forsaken

    def set_priority(self, priority: float) -> None:
        self.priority = priority

    def set_time_min(self, seconds: int) -> None:
        self.time_min = seconds

    def set_category(self, name: str) -> None:
        self.category = name

    def add_feature(self, name: str) -> None:
        self.features.append(name)

    def add_input(self, file: File, remote_name: str, strict_input: bool = False, mount_symlink: bool = False) -> None:
        assert file.declared
        self.inputs[remote_name] = file

    def add_output(
        self, file: File, remote_name: str, watch: bool = False, failure_only: Any = None, success_only: Any = None
    ) -> None:
        self.outputs[remote_name] = file

    # --- as a worker's supervisor sees it ---

    @property
    def parcel(self) -> Parcel:
        if self.command == "-":
            return Parcel(*pickle.loads(self.inputs[parcels.IN].content))
        return parcels.unpack(self.command, "")

    def answer(self, answer: Answer, result: str = "success") -> None:
        data, is_output = parcels.to_output(answer)
        if is_output and parcels.OUT not in self.outputs:
            self.std_output = data.decode("ascii")
        else:
            self.outputs[parcels.OUT].content = pickle.dumps(tuple(answer))
        self.result = result


class LibraryTask(Task):
    def __init__(self, fn: str, library_name: str) -> None:
        super().__init__(fn)
        self.name = library_name
        self.slots = 0

    def set_function_slots(self, nslots: int) -> None:
        self.slots = nslots

    def set_function_exec_mode_from_string(self, exec_mode: str) -> None:
        assert exec_mode == "fork"


class Manager:
    def __init__(
        self,
        port: int = 9123,
        name: str | None = None,
        shutdown: bool = False,
        run_info_path: str = "vine-run-info",
        run_info_template: str | None = None,
        staging_path: str | None = None,
        ssl: Any = None,
        init_fn: Any = None,
        status_display_interval: Any = None,
    ) -> None:
        self.port = port or 9123
        self.ssl = ssl
        self.password_file: str | None = None
        self.tuned: dict[str, float] = {}
        self.libraries: dict[str, LibraryTask] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.ready: list[Task] = []
        self.running: list[Task] = []
        self.ended: list[Task] = []
        self.lost: list[Task] = []
        self.numbers = itertools.count(1)
        self.temps: list[File] = []
        self.closed = False
        self.hold = False
        """Whether no file is sent to workers."""
        self.stats = SimpleNamespace(tasks_recovery=0, bytes_sent=0)

    def set_password_file(self, file: str) -> None:
        self.password_file = file

    def disable_peer_transfers(self) -> None:
        self.tuned["peer-transfers"] = 0

    def tune(self, name: str, value: float) -> int:
        self.tuned[name] = value
        return -1 if name == "nonsense" else 0

    def declare_buffer(self, buffer: bytes | None = None, cache: Any = False, peer_transfer: bool = True) -> File:
        return File("buffer", buffer)

    def declare_file(
        self, path: str, cache: Any = False, peer_transfer: bool = True, unlink_when_done: bool = False
    ) -> File:
        return File("file", path)

    def declare_temp(self) -> File:
        self.temps.append(File("temp"))
        return self.temps[-1]

    def undeclare_file(self, file: File) -> None:
        file.declared = False

    def prune_file(self, file: File) -> None:
        file.replicas = 0

    def get_file_replica_count(self, file: File) -> int:
        return file.replicas

    def install_library(self, task: LibraryTask) -> None:
        self.libraries[task.name] = task

    def submit(self, task: Task) -> int:
        task.id = next(self.numbers)
        self.ready.append(task)
        return task.id

    def cancel_by_task_id(self, id: int) -> int:
        for tasks in (self.ready, self.running):
            for task in [task for task in tasks if task.id == id]:
                tasks.remove(task)
                task.result = "cancelled"
                self.ended.append(task)
                return 1
        return 0

    def wait(self, timeout: Any = "wait_forever") -> Task | None:
        self._dispatch()
        return self.ended.pop(0) if self.ended else None

    def _dispatch(self) -> None:
        for task in sorted(self.ready, key=lambda task: (-task.priority, task.id)):
            if task.library is not None and task.library not in self.libraries:
                self.ready.remove(task)
                task.result = "missing library"
                self.ended.append(task)
                continue
            for address, worker in self.workers.items():
                if (
                    not self.hold
                    and set(task.features) <= {worker["arch"].removeprefix(MARK)}
                    and task.library is not None
                ):
                    self.ready.remove(task)
                    task.addrport = address
                    self.running.append(task)
                    break

    def status(self, request: str) -> list[dict[str, Any]]:
        assert request == "workers"
        return list(self.workers.values())

    def workers_shutdown(self, n: int = 0) -> None:
        self.workers.clear()

    def _free(self) -> None:
        self.closed = True

    # --- what a test does ---

    def join(self, name: str, cores: int = 2, address: str | None = None) -> str:
        address = address or f"127.0.0.1:{40000 + next(self.numbers)}"
        self.workers[address] = {
            "addrport": address,
            "arch": MARK + name,
            "ncpus": cores,
            "cores_total": cores,
            "memory_total": 4000,
            "disk_total": 10000,
            "gpus_total": 0,
        }
        return address

    def leave(self, address: str) -> None:
        del self.workers[address]
        for task in [task for task in self.running if task.addrport == address]:
            self.running.remove(task)
            task.addrport = None
            self.ready.append(task)

    def end(self, task: Task, answer: Answer | None, result: str = "success") -> None:
        self.running.remove(task)
        task.result = result
        if answer is not None:
            task.answer(answer, result)
        self.ended.append(task)


def module() -> SimpleNamespace:
    """Stands for ``ndcctools.taskvine``."""

    def set_scheduler(task: Task, algorithm: int) -> None:
        task.spread = True

    cvine = SimpleNamespace(VINE_SCHEDULE_WORST=5, vine_task_set_scheduler=set_scheduler)
    return SimpleNamespace(Manager=Manager, Task=Task, LibraryTask=LibraryTask, File=File, cvine=cvine)
