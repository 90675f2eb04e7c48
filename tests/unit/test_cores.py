"""How many threads are chosen, from what a system shows."""

import os
from pathlib import Path

import pytest

from python_layer.utils import cores
from python_layer.utils.errors import ConfigError


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def hyper_threads(root: Path) -> Path:
    """Four cores of two logical CPUs: n and n + 4."""
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return write(root, {folder.format(cpu): f"{cpu % 4},{cpu % 4 + 4}\n" for cpu in range(8)})


def test_a_core_counts_once(tmp_path: Path) -> None:
    root = hyper_threads(tmp_path)
    assert cores.first_cpus_of_cores(set(range(8)), root) == [0, 1, 2, 3]
    assert cores.first_cpus_of_cores({1, 5, 6, 7}, root) == [1, 6, 7]
    assert cores.first_cpus_of_cores({8, 9}, root) == [8, 9]  # it tells nothing of these


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "150000 50000\n",
            },
            3.0,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "proc/self/cgroup": "9:memory:/x\n4:cpu,cpuacct:/docker/id\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/x/cpu.max": "100000 100000\n",
            },
            4.0,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/g\n",
                "sys/fs/cgroup/cpu/g/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/g/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_the_least_grant_of_the_groups(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    assert cores.cgroup_cpus(write(tmp_path, files)) == expected


@pytest.mark.parametrize(("grant", "expected"), [(None, 4), ("800000", 4), ("350000", 3), ("10000", 1)])
def test_one_thread_per_core_within_the_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grant: str | None, expected: int
) -> None:
    root = write(hyper_threads(tmp_path), {"proc/self/cgroup": "0::/\n"})
    if grant:
        write(root, {"sys/fs/cgroup/cpu.max": f"{grant} 100000\n"})
    monkeypatch.setattr(cores, "allowed_cpus", lambda: set(range(8)))
    assert cores.choose_threads(0, root) == expected
    assert cores.choose_threads(7, root) == 7


@pytest.mark.parametrize("threads", [-1, len(os.sched_getaffinity(0)) + 1])
def test_other_numbers_are_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads is {threads}; this process may use"):
        cores.choose_threads(threads)
