"""Cost of a run's record in the manager, for each task: ``python benchmarks/record.py [--count N]``.

Tasks are submitted in batches of 512, and end in batches of 32. The file is on the file system of ``--directory``
(default: that of temporary files).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "manager"))

from taskvine_manager.record import Recorder, read_record
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import Completion, FileUse, Invocation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--directory")
    options = parser.parse_args()
    count = options.count
    for edges in (False, True):
        invocations = [
            Invocation(
                number,
                0,
                b"x" * 40,
                (FileUse("value", "", f"result-{number}"), FileUse("value", "", f"result-{number + 1}"))
                if edges
                else (),
                (FileUse("value", "", f"result-{number + 2}"),) if edges else (),
            )
            for number in range(count)
        ]
        completions = [
            Completion(number, failure.RETURNED, b"y" * 10, "b0-12345", 1e9, 1e9, 0.001) for number in range(count)
        ]
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            path = os.path.join(directory, "record")
            recorder = Recorder(path)
            begin = time.perf_counter()
            for start in range(0, count, 512):
                recorder.submitted([], invocations[start : start + 512])
                for first in range(start, min(start + 512, count), 32):
                    recorder.done(completions[first : first + 32])
            recorder.close()
            took = time.perf_counter() - begin
            size = os.path.getsize(path)
            begin = time.perf_counter()
            read_record(path)
            read = time.perf_counter() - begin
        what = "two inputs and a result" if edges else "no files"
        print(
            f"{what:24} written {took / count * 1e6:5.2f} us, read {read / count * 1e6:5.2f} us, "
            f"{size / count:6.1f} bytes an invocation"
        )


if __name__ == "__main__":
    main()
