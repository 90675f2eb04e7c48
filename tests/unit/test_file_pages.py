"""Buffers that begin as pages of a file."""

import mmap
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from python_layer.utils import file_pages
from python_layer.utils.file_pages import FilePages
from python_layer.utils.host_memory import anonymous_buffer

OFFSET = mmap.PAGESIZE
SIZES = [0, 1, mmap.PAGESIZE, 10 * mmap.PAGESIZE + 5, (3 << 20) + 12345]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1 MiB."""
    monkeypatch.setattr(file_pages, "CHUNK", 1 << 20)


@pytest.fixture
def replaced() -> None:
    """For what needs pages to be replaced."""
    if not file_pages.CAN_SETTLE:
        pytest.skip("this system can't replace pages")


@pytest.fixture(params=[True, False], ids=["mapped", "read"])
def settles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether pages are replaced, as on Linux; else they are read at once."""
    if request.param:
        request.getfixturevalue("replaced")
    else:
        monkeypatch.setattr(file_pages, "CAN_SETTLE", False)
    return bool(request.param)


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


def test_others_read_while_it_settles(tmp_path: Path, replaced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = make(tmp_path, 20 << 20)
    buffer = anonymous_buffer(content.nbytes)
    pages = FilePages(path.open("rb"), OFFSET, buffer)
    pages.fetch(lambda _: None)
    settled, turns, begun, read = threading.Event(), threading.Semaphore(0), threading.Semaphore(0), FilePages._read

    def read_in_turn(self: FilePages, start: int, target: NDArray[np.uint8]) -> None:
        assert turns.acquire(timeout=60)
        begun.release()
        read(self, start, target)

    def settle() -> None:
        pages.settle()
        settled.set()
        begun.release()  # nothing more will

    monkeypatch.setattr(FilePages, "_read", read_in_turn)
    for _ in range(2):  # the second waits for the first
        threading.Thread(target=settle, daemon=True).start()
    deadline, lefts = time.monotonic() + 60, set()
    while not settled.is_set() and time.monotonic() < deadline:
        lefts.add(pages.left)
        np.testing.assert_array_equal(buffer, content)
        turns.release()  # for one chunk, which moves while this reads on
        begun.acquire(timeout=1)
    assert settled.is_set() and pages.left == 0
    assert len(lefts) > 10
    np.testing.assert_array_equal(buffer, content)


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


def test_a_file_that_cannot_be_mapped(tmp_path: Path, replaced: None) -> None:
    """Its offset is no whole number of pages."""
    path, _ = make(tmp_path, 5000)
    buffer = anonymous_buffer(5000 - 7)
    with path.open("rb") as file, pytest.raises(OSError, match="Invalid argument"):
        FilePages(file, OFFSET + 7, buffer)
    usable(buffer)


def test_a_file_that_cannot_be_read(tmp_path: Path, replaced: None) -> None:
    """Its end is gone before it is read, so that the pages there could be neither read nor written."""
    path, content = make(tmp_path, 3 << 20)
    buffer = anonymous_buffer(content.nbytes)
    with path.open("r+b") as file:
        pages = FilePages(file, OFFSET, buffer)
        file.truncate(OFFSET + (1 << 20))
        with pytest.raises(OSError):
            pages.fetch(lambda _: None)
    assert pages.left == 0
    usable(buffer)


@pytest.mark.parametrize("failing", ["preadv", "mremap"])
def test_what_cannot_be_copied_stays(
    tmp_path: Path,
    replaced: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing: str,
) -> None:
    path, content = make(tmp_path, 3 << 20)
    buffer = anonymous_buffer(content.nbytes)
    pages = FilePages(path.open("rb"), OFFSET, buffer)
    pages.fetch(lambda _: None)
    library = file_pages._libc()
    calls: list[object] = []

    class Failing:
        """The C library, or the system's, whose second call of one function fails, having unmapped the target."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return self._fail if name == failing else getattr(self._real, name)

        def _fail(self, *arguments: Any) -> int:
            calls.append(arguments)
            if len(calls) == 1:
                return int(getattr(self._real, failing)(*arguments))
            if failing == "preadv":
                raise OSError
            library.mmap(arguments[4], arguments[1], 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1, 0)
            return -1

    monkeypatch.setattr(file_pages, "_libc", lambda: Failing(library))
    monkeypatch.setattr(file_pages, "os", Failing(os))
    pages.settle()
    assert len(calls) == 2 and pages.left == 2 << 20
    assert f"{2 << 20} bytes stay in the pages of {path}" in caplog.text
    np.testing.assert_array_equal(buffer, content)


def usable(buffer: NDArray[np.uint8]) -> None:
    """It is memory as it was."""
    assert not buffer.any()
    buffer[:] = 7
    assert (buffer == 7).all()


def _mappings_of(path: Path) -> list[str]:
    """The process's mappings of a file."""
    maps = Path("/proc/self/maps")
    return re.findall(rf".*{re.escape(str(path))}$", maps.read_text(), re.MULTILINE) if maps.exists() else []
