"""How many cores this process may use: what the system shows, less what affinity and cgroups take away."""

import os
from pathlib import Path

from python_layer.utils.errors import ConfigError

ROOT = Path("/")


def first_cpus_of_cores(allowed: set[int], root: Path = ROOT) -> list[int]:
    """One logical CPU of each physical core of which any is allowed.

    Args:
        allowed: Logical CPUs that the process may run on.
        root: Where ``sys`` and ``proc`` are.

    Returns:
        Their numbers, ascending; all of ``allowed`` where the system doesn't tell which ones share a core.
    """
    cores: dict[str, int] = {}
    for cpu in sorted(allowed):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            siblings = topology.read_text().strip()
        except OSError:
            siblings = str(cpu)
        cores.setdefault(siblings, cpu)
    return sorted(cores.values())


def cgroup_cpus(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that the process's cgroups grant, the least of them; None is no limit.

    Reads ``cpu.max`` (version 2) and ``cpu.cfs_quota_us`` (version 1) of the process's group and of those around it.
    Inside a container the path of the group may be the host's, and then only the mount's own files exist.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    mount = root / "sys/fs/cgroup"
    grants = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        bases = [mount / controllers, mount / "cpu"] if controllers else [mount, mount / "unified"]
        group = Path(path.strip("/"))
        folders = (base / part for base in bases for part in (group, *group.parents))
        grants += [grant for folder in folders if (grant := _grant(folder))]
    return min(grants, default=None)


def _grant(folder: Path) -> float | None:
    """The CPUs one group grants; None where it sets no limit or isn't there."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def allowed_cpus() -> set[int]:
    """The logical CPUs that the calling thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def choose_threads(requested: int, root: Path = ROOT) -> int:
    """The number of threads to compute with.

    Args:
        requested: 0 is one for each physical core, and no more than the cgroups' time is enough for.
        root: As above.

    Raises:
        ConfigError: Fewer than 0, or more threads than logical CPUs.
    """
    allowed = allowed_cpus()
    if not 0 <= requested <= len(allowed):
        raise ConfigError(
            f"threads is {requested}; this process may use {len(allowed)} CPUs, so it must be 1 to {len(allowed)}, "
            "or 0 for one thread per physical core"
        )
    if requested:
        return requested
    cores = len(first_cpus_of_cores(allowed, root))
    grant = cgroup_cpus(root)
    # Threads that wait for each other all stand still while the group is out of time: rather one less.
    return cores if grant is None else max(1, min(cores, int(grant)))
