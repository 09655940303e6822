"""Cores that may be used, with and without a quota of time."""

import os
import subprocess
import sys

import pytest

from localsgd.lab.cores import usable_cores

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture
def system(tmp_path):
    """Write files of a system: ``system({"proc/self/cgroup": "0::/"})``."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="ascii")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", ALL),
        ("nothing that anybody knows", ALL),
        ("100000 100000\n", 1),
        ("10000 100000\n", 1),
        ("150000 100000\n", min(2, ALL)),
        (f"{ALL + 1}00000 100000\n", ALL),
        ("100000 0\n", ALL),
    ],
)
def test_a_quota_of_time_counts_as_cores(system, content, expected):
    assert usable_cores(system({"sys/fs/cgroup/cpu.max": content})) == expected


@pytest.mark.skipif(ALL < 2, reason="needs a second core, to be denied it")
@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/jobs/mine\n", "sys/fs/cgroup/jobs/mine/cpu.max": "100000 100000\n"},
        {
            "proc/self/cgroup": "0::/jobs/mine\n",
            "sys/fs/cgroup/jobs/mine/cpu.max": "max 100000\n",
            "sys/fs/cgroup/jobs/cpu.max": "50000 50000\n",
        },
        {
            "proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/docker/b\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/b/cpu.cfs_quota_us": "80000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/b/cpu.cfs_period_us": "100000\n",
        },
        {
            "proc/self/cgroup": "3:cpu:/not/seen/from/inside\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["own group", "group around it", "first version", "first version in a container"],
)
def test_the_smallest_quota_of_all_groups_around_the_process_counts(system, files):
    assert usable_cores(system(files)) == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "nothing that anybody knows"},
        {
            "proc/self/cgroup": "3:cpu:/a\n2:memory:/a\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/a/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/memory/a/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["no files", "strange files", "no quota"],
)
def test_without_a_quota_every_core_counts(system, files):
    assert usable_cores(system(files)) == ALL


@pytest.mark.skipif(sys.platform != "linux", reason="processes are bound to cores on Linux only")
def test_a_process_bound_to_one_core_counts_one():
    bind = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    count = "from localsgd.lab.cores import usable_cores; print(usable_cores())"
    answer = subprocess.run(
        [sys.executable, "-c", f"{bind}; {count}"], capture_output=True, text=True, timeout=50, check=True
    )
    assert answer.stdout == "1\n"
