"""Large buffers in memory of the process's own, in huge pages where the system has them."""

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

HUGE_PAGE = 2 << 20


def anonymous_buffer(size: int) -> NDArray[np.uint8]:
    """Zeroed memory that begins at a multiple of 2 MiB and takes room only where it is written.

    Huge pages are worth a third more read bandwidth on some machines, and are given only when asked for.

    Args:
        size: Bytes.

    Returns:
        A uint8 array that owns the memory.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, size + HUGE_PAGE, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    return whole[start : start + size]
