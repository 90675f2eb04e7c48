"""Splits independent work over the threads of MAX's pool, when it is worth it."""

from std.atomic import Atomic
from std.runtime import parallelism_level
from max.algorithm import sync_parallelize

from .types import WritePtr, untracked

comptime MIN_WORK_PER_TASK = 64 * 1024
"""Operations a task needs before waking a thread for it pays (some 10 us)."""

comptime TASKS_PER_THREAD = 2
"""More tasks than threads, so that a thread that is held up does not hold up the rest."""


def task_count(items: Int, work_per_item: Int) -> Int:
    """Number of tasks to split `items` into.

    Args:
        items: Number of independent items.
        work_per_item: Rough number of operations (FMAs, bytes) of one item.

    Returns:
        Between 1 and `items`; 1 where threads would cost more than they save.
    """
    var by_work = (items * work_per_item) // MIN_WORK_PER_TASK
    var threads = parallelism_level()
    var most = min(items, threads * TASKS_PER_THREAD) if threads > 1 else 1
    return max(1, min(by_work, most))


def parallel_ranges[Work: def(Int, Int) -> None](items: Int, work_per_item: Int, work: Work):
    """Calls `work(begin, end)` so that the ranges cover `0..items` once.

    Args:
        items: Number of independent items.
        work_per_item: Rough number of operations of one item.
        work: Handles the items `begin` to `end`; called from several threads.
    """
    var tasks = task_count(items, work_per_item)
    if tasks == 1:
        work(0, items)
        return

    def task(i: Int) {imm}:
        work(items * i // tasks, items * (i + 1) // tasks)

    sync_parallelize(task, tasks)


@fieldwise_init
struct WorkQueue(Copyable, TrivialRegisterPassable):
    """Hands out the numbers of independent items, each once, to whoever comes first."""

    var taken: WritePtr[DType.int64]
    var items: Int

    @always_inline
    def take(self) -> Int:
        """The next item, or a number not below `items` when all are taken."""
        return Int(Atomic[Int64].fetch_add(self.taken, 1))


def parallel_queue[Work: def(WorkQueue) -> None](items: Int, work: Int, worker: Work):
    """Calls `worker(queue)` on as many cores as pay, for items that take different times.

    Args:
        items: Number of independent items.
        work: Rough number of operations of all items.
        worker: Takes items from the queue until there are no more; called once per thread.
    """
    var taken = Int64(0)
    var queue = WorkQueue(untracked(Pointer(to=taken)), items)
    var tasks = min(task_count(items, work // max(items, 1)), parallelism_level())

    def task(i: Int) {imm}:
        worker(queue)

    if tasks == 1:
        worker(queue)
    else:
        sync_parallelize(task, tasks)
    _ = taken  # must outlive the queue
