"""A buffer that begins as the pages of a file, and becomes memory of the process's own while it is used."""

import ctypes
import errno
import logging
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from python_layer.utils.cores import choose_threads
from python_layer.utils.errors import MiliError
from python_layer.utils.host_memory import anonymous_buffer

LOG = logging.getLogger(__name__)

CHUNK = 1 << 26
"""Bytes that one task reads, and that move at once."""
CAN_SETTLE = sys.platform == "linux"
"""Whether pages can be replaced below an address in use; elsewhere everything is read at once."""

MAP_FIXED = 0x10
MADV_POPULATE_READ = 22
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4

Buffer = NDArray[np.uint8]


class FilePages:
    """Bytes of a file in a buffer.

    New memory is slow to get, on a virtual machine above all: copying a file to it can take ten times as long as
    reading the file. So the file is mapped below the buffer's address, which makes its bytes usable as soon as they
    are in the system's cache; and :meth:`settle` puts copies in huge pages in their place, while other threads read
    the buffer as before.

    Args:
        file: The file, which this closes when everything is copied or it is no longer needed.
        offset: Where in it the bytes begin, a multiple of the system's page size.
        buffer: From :func:`~python_layer.utils.host_memory.anonymous_buffer`, unused so far.

    Attributes:
        left: Bytes that are still the file's pages, which the system counts as memory that it can take back.

    Raises:
        EOFError: The file is too short.
        OSError: It can't be mapped.
    """

    def __init__(self, file: BinaryIO, offset: int, buffer: Buffer) -> None:
        if os.fstat(file.fileno()).st_size < offset + buffer.nbytes:
            raise EOFError
        self._file = file
        self._offset = offset
        self._buffer = buffer
        self._chunk = CHUNK
        self._lock = threading.Lock()
        self.left = 0
        weakref.finalize(self, file.close).atexit = False  # a daemon thread may be reading it then
        if CAN_SETTLE and buffer.nbytes:
            try:
                self._map_file(buffer, 0)
            except OSError:
                self._map_nothing()
                raise
            self.left = buffer.nbytes

    def fetch(self, progress: Callable[[int], None]) -> None:
        """Reads the file where it is not in the system's cache; where that fails, the buffer is plain memory.

        Args:
            progress: Told the bytes that are there, one call after the other.

        Raises:
            OSError: A page can't be read.
            EOFError: The file has become too short.
        """
        task = self._populate if self.left else self._copy
        try:
            with ThreadPoolExecutor(min(8, choose_threads(0))) as pool:
                for count in pool.map(task, self._starts()):
                    progress(count)
        except (OSError, EOFError):
            if self.left:
                self._map_nothing()
            raise

    def settle(self) -> None:
        """Replaces the file's pages by copies; where the system refuses, says so and leaves the rest as it is."""
        with self._lock:
            if self._file.closed:
                return
            with self._file:
                try:
                    self._replace_pages()
                except (OSError, EOFError, MiliError) as error:
                    LOG.warning("%d bytes stay in the pages of %s: %s", self.left, self._file.name, error)

    def _replace_pages(self) -> None:
        if not self.left:
            return
        spare = anonymous_buffer(self._chunk)
        for start in self._starts():
            part = self._part(start)
            self._read(start, spare[: part.nbytes])
            # The copy's pages move in one step, and the memory they leave can be filled anew.
            flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
            place, size = part.ctypes.data, part.nbytes
            if _libc().mremap(spare.ctypes.data, size, size, flags, place) != place:
                error = _last_error()
                self._map_file(part, start)  # the system may have unmapped it before it refused
                raise error
            self.left -= size

    def _starts(self) -> range:
        return range(0, self._buffer.nbytes, self._chunk)

    def _part(self, start: int) -> Buffer:
        return self._buffer[start : start + self._chunk]

    def _map_file(self, part: Buffer, start: int) -> None:
        _map(part, mmap.MAP_PRIVATE, self._file.fileno(), self._offset + start)

    def _map_nothing(self) -> None:
        self.left = 0
        _map(self._buffer, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        _libc().madvise(self._buffer.ctypes.data, self._buffer.nbytes, mmap.MADV_HUGEPAGE)

    def _populate(self, start: int) -> int:
        part = self._part(start)
        if _libc().madvise(part.ctypes.data, part.nbytes, MADV_POPULATE_READ):
            error = _last_error()
            # Linux before 5.14 does not know this request: pages then come when they are first read.
            if error.errno != errno.EINVAL:
                raise error
        return part.nbytes

    def _copy(self, start: int) -> int:
        part = self._part(start)
        self._read(start, part)
        return part.nbytes

    def _read(self, start: int, target: Buffer) -> None:
        done = 0
        while done < target.nbytes:
            count = os.preadv(self._file.fileno(), [target[done:].data], self._offset + start + done)
            if count == 0:
                raise EOFError
            done += count


@cache
def _libc() -> ctypes.CDLL:
    """The C library, whose calls take addresses."""
    library = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.mmap.restype = library.mremap.restype = pointer
    library.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    library.mremap.argtypes = [pointer, size, size, number, pointer]
    library.madvise.argtypes = [pointer, size, number]
    return library


def _map(part: Buffer, flags: int, descriptor: int, offset: int) -> None:
    """Puts a mapping in the place of a buffer's whole pages."""
    place, protection = part.ctypes.data, mmap.PROT_READ | mmap.PROT_WRITE
    if _libc().mmap(place, part.nbytes, protection, flags | MAP_FIXED, descriptor, offset) != place:
        raise _last_error()


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
