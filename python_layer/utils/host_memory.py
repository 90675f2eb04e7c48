"""Large buffers in memory of the process's own, in huge pages where the system has them."""

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

from python_layer.utils.errors import MiliError

HUGE_PAGE = 2 << 20


def anonymous_buffer(size: int) -> NDArray[np.uint8]:
    """Zeroed memory that begins at a multiple of 2 MiB and takes room only where it is written.

    Huge pages spare the processor most of its address look-ups when it streams through the buffer; Linux
    gives them to whoever asks.

    Args:
        size: Bytes.

    Returns:
        A uint8 array [size]; the memory is freed when the last view of it is gone.

    Raises:
        MiliError: The system refuses so much memory.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        memory = mmap.mmap(-1, size + HUGE_PAGE, flags=flags)
    except (OSError, OverflowError):
        raise MiliError(f"the system refuses {size:,} bytes of memory; a smaller model or cache may fit") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel built without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    return whole[start : start + size]
