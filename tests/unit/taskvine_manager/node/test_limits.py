"""Limits of control groups and batch systems, from their files and variables on real systems."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_manager.node import hardware, limits
from taskvine_manager.node.limits import Group, Kill, Kills, Limit

# Slurm 22.05 with version 1 of control groups, in a job of 1,000 MB.
V1_CGROUP = """\
13:cpuset:/slurm_host/uid_1000/job_7/step_batch
12:memory:/slurm_host/uid_1000/job_7/step_batch/task_0
11:cpu,cpuacct:/user.slice
1:name=systemd:/system.slice/slurmd.service
0::/system.slice/slurmd.service
"""
V1_MOUNTS = """\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
35 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct
36 31 0:32 / /sys/fs/cgroup/memory rw,nosuid shared:17 - cgroup cgroup rw,memory
37 31 0:33 / /sys/fs/cgroup/cpuset rw,nosuid shared:18 - cgroup cgroup rw,cpuset
"""
V1_JOB = "/sys/fs/cgroup/memory/slurm_host/uid_1000/job_7"
V1_FILES = {
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/memory/slurm_host/uid_1000/memory.limit_in_bytes": "4194304000\n",
    f"{V1_JOB}/memory.limit_in_bytes": "1048576000\n",
    f"{V1_JOB}/memory.max_usage_in_bytes": "1048576000\n",
    f"{V1_JOB}/step_batch/task_0/memory.limit_in_bytes": "9223372036854771712\n",
    f"{V1_JOB}/step_batch/task_0/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    f"{V1_JOB}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 90\n",
    "/sys/fs/cgroup/cpu,cpuacct/user.slice/cpu.cfs_quota_us": "250000\n",
    "/sys/fs/cgroup/cpu,cpuacct/user.slice/cpu.cfs_period_us": "100000\n",
    "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}
# Slurm 23.11 with version 2.
V2_CGROUP = "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n"
V2_MOUNTS = """\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""
V2_JOB = "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7"
V2_FILES = {
    f"{V2_JOB}/memory.max": "2147483648\n",
    f"{V2_JOB}/memory.peak": "2147000000\n",
    f"{V2_JOB}/step_batch/user/memory.max": "max\n",
    f"{V2_JOB}/step_batch/user/task_0/memory.max": "max\n",
    f"{V2_JOB}/step_batch/user/task_0/memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 3\noom_group_kill 0\n",
    f"{V2_JOB}/memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 90\noom_group_kill 0\n",
    f"{V2_JOB}/cpu.max": "max 100000\n",
    "/sys/fs/cgroup/system.slice/cpu.max": "400000 100000\n",
}


def test_groups_of_version_1() -> None:
    memory = limits.groups("memory", V1_CGROUP, V1_MOUNTS)
    assert [group.path for group in memory if group.version == 1] == [
        f"{V1_JOB}/step_batch/task_0",
        f"{V1_JOB}/step_batch",
        V1_JOB,
        "/sys/fs/cgroup/memory/slurm_host/uid_1000",
        "/sys/fs/cgroup/memory/slurm_host",
        "/sys/fs/cgroup/memory",
    ]
    assert limits.memory_limits(memory, V1_FILES.get) == [
        Limit(1000.0, f"{V1_JOB}/memory.limit_in_bytes"),
        Limit(4000.0, "/sys/fs/cgroup/memory/slurm_host/uid_1000/memory.limit_in_bytes"),
    ]
    cpu = limits.groups("cpu", V1_CGROUP, V1_MOUNTS)
    assert limits.cpu_limits(cpu, V1_FILES.get) == [
        Limit(2.5, "/sys/fs/cgroup/cpu,cpuacct/user.slice/cpu.cfs_quota_us")
    ]


def test_groups_of_version_2() -> None:
    memory = limits.groups("memory", V2_CGROUP, V2_MOUNTS)
    assert memory == limits.groups("cpu", V2_CGROUP, V2_MOUNTS)
    assert memory[0] == Group(f"{V2_JOB}/step_batch/user/task_0", 2)
    assert memory[-1] == Group("/sys/fs/cgroup", 2)
    assert limits.memory_limits(memory, V2_FILES.get) == [Limit(2048.0, f"{V2_JOB}/memory.max")]
    assert limits.cpu_limits(memory, V2_FILES.get) == [Limit(4.0, "/sys/fs/cgroup/system.slice/cpu.max")]


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("/docker/abc", "/docker/abc", ["/sys/fs/cgroup"]),  # a container without a namespace for control groups
        ("/docker/abc", "/docker/abc/x", ["/sys/fs/cgroup/x", "/sys/fs/cgroup"]),
        ("/docker/abc", "/docker/abcd", ["/sys/fs/cgroup"]),
        ("/docker/abc", "/", ["/sys/fs/cgroup"]),
        ("/", "/", ["/sys/fs/cgroup"]),
        ("/", "/a", ["/sys/fs/cgroup/a", "/sys/fs/cgroup"]),
        ("/..", "/../other", ["/sys/fs/cgroup/other", "/sys/fs/cgroup"]),
        ("/", "/../../other", ["/sys/fs/cgroup"]),  # outside of this process's namespace
        (r"/a\040b", "/a b/c", ["/sys/fs/cgroup/c", "/sys/fs/cgroup"]),
    ],
)
def test_groups_in_a_container(root: str, path: str, expected: list[str]) -> None:
    mounts = f"31 24 0:26 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    assert [group.path for group in limits.groups("memory", f"0::{path}\n", mounts)] == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [("memory.max", ""), ("memory.max", "0\n"), ("memory.max", "-1\n"), ("cpu.max", "x y\n"), ("cpu.max", "100 0\n")],
)
def test_invalid_values_are_no_limit(name: str, content: str) -> None:
    files = {f"/g/{name}": content}
    assert limits.memory_limits([Group("/g", 2)], files.get) == []
    assert limits.cpu_limits([Group("/g", 2)], files.get) == []


SLURM = {"SLURM_JOB_ID": "7"}
PBS = {"PBS_JOBID": "7.server"}
SGE = {"JOB_ID": "7"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        ({**SLURM, "SLURM_CPUS_ON_NODE": "4"}, {"SLURM_CPUS_ON_NODE": 4}),
        ({"SLURM_CPUS_ON_NODE": "4"}, {}),
        (
            {**SLURM, "SLURM_JOB_CPUS_PER_NODE": "72(x2),36", "SLURM_NODEID": "2"},
            {"SLURM_JOB_CPUS_PER_NODE": 36},
        ),
        ({**SLURM, "SLURM_JOB_CPUS_PER_NODE": "72(x2),36"}, {"SLURM_JOB_CPUS_PER_NODE": 72}),
        ({**SLURM, "SLURM_JOB_CPUS_PER_NODE": "72(x2)", "SLURM_NODEID": "2"}, {}),
        ({**SLURM, "SLURM_JOB_CPUS_PER_NODE": "many"}, {}),
        # A batch script with four tasks of two cores has eight; each task of a step has two.
        (
            {**SLURM, "SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "2", "SLURM_TASKS_PER_NODE": "4(x2)"},
            {"SLURM_CPUS_ON_NODE": 8, "SLURM_CPUS_PER_TASK": 8},
        ),
        (
            {**SLURM, "SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "2", "SLURM_TASKS_PER_NODE": "4(x2)"},
            {"SLURM_CPUS_PER_TASK": 2},
        ),
        ({**PBS, "NCPUS": "16", "OMP_NUM_THREADS": "1"}, {"NCPUS": 16}),
        ({"NCPUS": "16"}, {}),
        ({**PBS, "PBS_NUM_PPN": "3"}, {"PBS_NUM_PPN": 3}),
        ({**SGE, "NSLOTS": "6", "NHOSTS": "1"}, {"NSLOTS": 6}),
        ({**SGE, "NSLOTS": "6"}, {"NSLOTS": 6}),
        ({**SGE, "NSLOTS": "6", "NHOSTS": "2"}, {}),
        ({**SGE, "NSLOTS": "0"}, {}),
        ({**SGE, "NSLOTS": "-3"}, {}),
    ],
)
def test_cores_of_a_job(environment: dict[str, str], expected: dict[str, float]) -> None:
    assert {limit.source: limit.amount for limit in limits.job_cores(environment)} == expected


@pytest.mark.parametrize(("host", "expected"), [("node1.site", 4.0), ("node2", 3.0), ("node", None)])
def test_cores_of_a_grid_engine_job_on_several_hosts(host: str, expected: float | None) -> None:
    hosts = "node1.site.org 4 all.q@node1 UNDEFINED\nnode2.site.org 2 a.q@node2 <NULL>\nnode2.site.org 1 b.q@node2\n\n"
    found = limits.job_cores({**SGE, "NSLOTS": "7", "NHOSTS": "2"}, hosts, host)
    assert [limit.amount for limit in found] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        ({**SLURM, "SLURM_MEM_PER_NODE": "1000"}, {"SLURM_MEM_PER_NODE": 1000}),
        ({**SLURM, "SLURM_MEM_PER_NODE": "0"}, {}),
        ({"SLURM_MEM_PER_NODE": "1000"}, {}),
        ({**SLURM, "SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "4"}, {"SLURM_MEM_PER_CPU": 2000}),
        ({**SLURM, "SLURM_MEM_PER_CPU": "500", "SLURM_JOB_CPUS_PER_NODE": "3(x2)"}, {"SLURM_MEM_PER_CPU": 1500}),
        ({**SLURM, "SLURM_MEM_PER_CPU": "500"}, {}),
        ({**SLURM, "SLURM_MEM_PER_GPU": "500", "SLURM_GPUS_ON_NODE": "2"}, {"SLURM_MEM_PER_GPU": 1000}),
        ({**PBS, "PBS_RESC_MEM": "4294967296"}, {"PBS_RESC_MEM": 4096}),
        ({**PBS, "PBS_RESC_MEM": "4GB"}, {"PBS_RESC_MEM": 4096}),
        ({**PBS, "PBS_RESC_MEM": "512kb"}, {"PBS_RESC_MEM": 0.5}),
        ({**PBS, "PBS_RESC_MEM": "plenty"}, {}),
    ],
)
def test_memory_of_a_job(environment: dict[str, str], expected: dict[str, float]) -> None:
    assert {limit.source: limit.amount for limit in limits.job_memory(environment)} == expected


def test_smallest_limit_applies() -> None:
    assert limits.smallest(Limit(3, "a"), Limit(2, "b"), Limit(2, "c")) == Limit(2, "b")


NAMES = ["SLURM_JOB_ID", "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE"]
NAMES += ["SLURM_MEM_PER_CPU", "SLURM_NODEID", "SLURM_TASKS_PER_NODE", "PBS_JOBID", "NCPUS", "PBS_RESC_MEM", "JOB_ID"]
NAMES += ["NSLOTS", "NHOSTS"]
WORDS = st.one_of(
    st.integers(-5, 1 << 40).map(str),
    st.text(string.digits + "(x),kmgt -.", max_size=12),
    st.text(max_size=5),
)


@given(st.dictionaries(st.sampled_from(NAMES), WORDS), WORDS, WORDS, st.text(max_size=40))
def test_node_offers_something_and_at_most_its_machine(
    environment: dict[str, str], memory: str, cpu: str, hosts: str
) -> None:
    """Files and variables with any text."""
    files = {f"/sys/fs/cgroup/{name}": memory for name in ("memory.max", "memory.limit_in_bytes")}
    files |= {f"/sys/fs/cgroup/{name}": cpu for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "read", {**files, "/hosts": hosts}.get)
        patch.setattr(limits, "groups", lambda *_: [Group("/sys/fs/cgroup", 1), Group("/sys/fs/cgroup", 2)])
        patch.setattr(hardware.os, "environ", {**environment, "PE_HOSTFILE": "/hosts"})
        patch.setattr(hardware, "machine_memory", lambda: 4096.0)
        patch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        assert 1 <= hardware.cores() <= 8
        assert 0 < hardware.memory() <= 4096.0


@given(st.text(max_size=200), st.text(max_size=200))
def test_files_with_any_text_are_read(cgroup: str, mounts: str) -> None:
    for group in limits.groups("memory", cgroup, mounts):
        assert group.version in (1, 2)


@pytest.mark.parametrize(
    ("files", "cgroup", "mounts", "counter", "expected"),
    [
        (
            V1_FILES,
            V1_CGROUP,
            V1_MOUNTS,
            f"{V1_JOB}/step_batch/task_0/memory.oom_control",
            Kill(V1_JOB, 1000.0, 1000.0),
        ),
        (
            V2_FILES,
            V2_CGROUP,
            V2_MOUNTS,
            f"{V2_JOB}/step_batch/user/task_0/memory.events",
            Kill(V2_JOB, 2048.0, 2147000000 / 2**20),
        ),
    ],
)
def test_kills_are_recognised_by_their_count(
    files: dict[str, str], cgroup: str, mounts: str, counter: str, expected: Kill
) -> None:
    files = dict(files)
    kills = Kills(limits.groups("memory", cgroup, mounts), 4096.0, files.get)

    def kill() -> None:
        count = int(files[counter].partition("oom_kill ")[2].split()[0])
        files[counter] = files[counter].replace(f"oom_kill {count}", f"oom_kill {count + 1}")

    assert kills.explain(0.0) is None  # kills before this task
    kill()
    assert kills.explain(10.0) == expected
    assert kills.explain(11.0) == expected  # another process that was killed at the same time
    assert kills.explain(13.0) is None
    kill()
    kills.look(20.0)
    assert kills.explain(30.0) is None  # those kills did not end a task
    kill()
    assert kills.explain(40.0) == expected


def test_kill_without_a_limited_group() -> None:
    files = {"/g/memory.events": "oom_kill 0\n"}
    kills = Kills([Group("/g", 2)], 4096.0, files.get)
    files["/g/memory.events"] = "oom_kill 1\n"
    assert kills.explain(0.0) == Kill("the machine", 4096.0, 0.0)


@pytest.mark.parametrize("found", [[], [Group("/g", 1), Group("/g", 2)]])
def test_kills_without_a_count(found: list[Group]) -> None:
    kills = Kills(found, 4096.0, {}.get)
    kills.look(0.0)
    assert kills.explain(1.0) is None
