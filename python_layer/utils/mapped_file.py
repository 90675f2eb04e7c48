"""A file mapped into memory for reading, whose pages can be let go of."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MappedFile:
    """A file's bytes.

    Args:
        path: The file; it must not be empty.

    Raises:
        OSError: It can't be opened.
        ValueError: It is empty.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self.bytes)

    def array(self, begin: int, end: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Bytes ``begin`` to ``end`` as flat, read-only elements, in the mapping itself."""
        return np.frombuffer(self.bytes, np.uint8, end - begin, begin).view(dtype.newbyteorder("<"))

    def release(self, begin: int, end: int) -> None:
        """Tells the system that bytes ``begin`` to ``end`` are no longer needed in memory."""
        first_page = begin // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self.bytes.madvise(mmap.MADV_DONTNEED, first_page, end - first_page)
