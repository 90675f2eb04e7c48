"""Buffers that begin as pages of a file."""

import mmap
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from python_layer.utils import file_pages
from python_layer.utils.file_pages import FilePages
from python_layer.utils.host_memory import anonymous_buffer

OFFSET = mmap.PAGESIZE
SIZES = [0, 1, mmap.PAGESIZE, 10 * mmap.PAGESIZE + 5, (3 << 20) + 12345]


@pytest.fixture(params=[True, False], ids=["mapped", "read"])
def settles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether pages are replaced, as on Linux, in chunks of 1 MiB; else they are read at once."""
    settles = bool(request.param)
    if settles and not file_pages.CAN_SETTLE:
        pytest.skip("this system can't replace pages")
    monkeypatch.setattr(file_pages, "CAN_SETTLE", settles)
    monkeypatch.setattr(file_pages, "CHUNK", 1 << 20)
    return settles


def make(folder: Path, size: int) -> tuple[Path, NDArray[np.uint8]]:
    """A file of so many random bytes after a page of others."""
    content = np.random.default_rng(size).integers(0, 256, OFFSET + size, np.uint8)
    file = folder / "file"
    file.write_bytes(content.tobytes())
    return file, content[OFFSET:]


@pytest.mark.parametrize("size", SIZES)
def test_a_buffer_has_the_file_before_and_after_it_settles(tmp_path: Path, settles: bool, size: int) -> None:
    path, content = make(tmp_path, size)
    buffer = anonymous_buffer(size)
    told: list[int] = []
    pages = FilePages(path.open("rb"), OFFSET, buffer)
    pages.fetch(told.append)
    assert sum(told) == size and all(told)
    np.testing.assert_array_equal(buffer, content)
    mapped = _mappings_of(path)
    assert bool(mapped) == (settles and size > 0)
    pages.settle()
    assert not _mappings_of(path)
    np.testing.assert_array_equal(buffer, content)
    pages.settle()  # again does nothing
    path.write_bytes(b"")  # nor does it matter what becomes of the file
    np.testing.assert_array_equal(buffer, content)


def test_others_read_while_it_settles(tmp_path: Path, settles: bool) -> None:
    path, content = make(tmp_path, 20 << 20)
    buffer = anonymous_buffer(content.nbytes)
    pages = FilePages(path.open("rb"), OFFSET, buffer)
    done, wrong, read = threading.Event(), [], []

    def reader() -> None:
        while not done.is_set():
            wrong.append(not np.array_equal(buffer, content))
            read.append(1)

    pages.fetch(lambda _: None)
    thread = threading.Thread(target=reader)
    thread.start()
    while len(read) < 2:
        pass
    pages.settle()
    done.set()
    thread.join()
    assert not any(wrong)


def test_pages_that_were_written_are_the_buffers_own(tmp_path: Path, settles: bool) -> None:
    path, content = make(tmp_path, 3 * mmap.PAGESIZE)
    buffer = anonymous_buffer(content.nbytes)
    FilePages(path.open("rb"), OFFSET, buffer).fetch(lambda _: None)
    buffer[:] = 7
    assert path.read_bytes()[OFFSET:] == content.tobytes()


def test_a_file_that_is_too_short(tmp_path: Path, settles: bool) -> None:
    path, content = make(tmp_path, 5000)
    with path.open("rb") as file, pytest.raises(EOFError):
        FilePages(file, OFFSET, anonymous_buffer(content.nbytes + 1))


def test_what_cannot_be_copied_stays(tmp_path: Path, settles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = make(tmp_path, 3 << 20)
    buffer = anonymous_buffer(content.nbytes)
    pages = FilePages(path.open("rb"), OFFSET, buffer)
    pages.fetch(lambda _: None)
    read, calls = file_pages.os.preadv, []

    def fails(*args: object) -> int:
        calls.append(args)
        if len(calls) > 1:
            raise OSError
        return read(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(file_pages.os, "preadv", fails)
    pages.settle()
    np.testing.assert_array_equal(buffer, content)
    assert len(calls) == (2 if settles else 0)


def _mappings_of(path: Path) -> list[str]:
    """The process's mappings of a file."""
    maps = Path("/proc/self/maps")
    return re.findall(rf".*{re.escape(str(path))}$", maps.read_text(), re.MULTILINE) if maps.exists() else []
