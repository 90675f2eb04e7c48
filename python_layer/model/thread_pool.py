"""The threads that compute: MAX's pool, of which a process has one."""

import os
import re
from pathlib import Path

from max.driver import CPU

from python_layer.utils.cores import allowed_cpus, choose_threads, first_cpus_of_cores
from python_layer.utils.errors import ConfigError

TASKS = Path("/proc/self/task")


def start_thread_pool(threads: int) -> int:
    """Makes MAX's pool with so many threads, unless the process has one.

    The first use of MAX's CPU device makes a thread for each core that the calling thread may run on, and nothing
    else sets their number (``InferenceSession`` refuses its ``num_threads``, because it has used the device by then).
    So the caller runs on as many CPUs as there are to be threads while the pool is made; then it and they may run on
    all again.

    Args:
        threads: 0 is one for each physical core that the process's affinity and cgroups leave it, or what there is.

    Returns:
        The number of threads of the pool.

    Raises:
        ConfigError: The process has another number of threads already, or can't have so many.
    """
    wanted = choose_threads(threads)
    if not hasattr(os, "sched_setaffinity"):
        if threads:
            raise ConfigError("threads can be set on Linux only; leave it at 0 here")
        CPU()
        return wanted
    present = _pool_size()
    if present:
        if threads not in (0, present):
            raise ConfigError(
                f"threads is {threads}, but this process computes with {present} since it first loaded a model; "
                "leave it at 0, or take a new process"
            )
        return present
    allowed = allowed_cpus()
    cpus = first_cpus_of_cores(allowed)
    cpus += sorted(allowed - set(cpus))
    before = set(os.listdir(TASKS))
    os.sched_setaffinity(0, cpus[:wanted])
    try:
        CPU()
        workers = set(os.listdir(TASKS)) - before
    finally:
        os.sched_setaffinity(0, allowed)
    for worker in workers:
        os.sched_setaffinity(int(worker), allowed)
    return len(workers)


def _pool_size() -> int:
    """Threads of MAX's pool, by the names it gives them; 0 where there is no pool yet."""
    names = [(TASKS / task / "comm").read_text().strip() for task in os.listdir(TASKS)]
    return sum(re.search(r"Thread\d+$", name) is not None for name in names)
