"""A lock that threads and processes share."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def file_lock(file: Path) -> Iterator[None]:
    """Holds a file for the length of a block, once nobody else does; the end of a process lets go of it too.

    Where the file system has no locks, nobody waits.

    Args:
        file: Made when first needed, and left: were it deleted, others could hold another of its name.

    Raises:
        OSError: The file can't be written.
    """
    with file.open("ab") as held:
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
