"""A memory-mapped safetensors file, its header checked entry by entry.

The format: 8 bytes with the header's length (little endian), the header (JSON: name -> dtype, shape,
data_offsets), then the tensors' bytes, each between its offsets, without gaps or overlaps.
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from python_layer.model.dtype_conversion import STORAGE
from python_layer.utils.errors import WeightError

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file.

    Attributes:
        dtype: float32, bfloat16 or float16; another name of the format where MILI has no use for it.
        shape: Its shape.
        begin: First byte, from the start of the file.
        end: Byte after the last.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """A file's tensors, by name, mapped into memory.

    Args:
        path: The file.

    Raises:
        WeightError: The file is missing, truncated or damaged; lists all that is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._size = path.stat().st_size
                if self._size < 8:
                    raise self._error(f"has {self._size} bytes; it is empty or cut off")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise self._error("does not exist") from None
        except OSError as error:
            raise self._error(f"can't be opened: {error.strerror}") from None
        self.entries = self._read_header()

    def values(self, name: str) -> NDArray[np.generic]:
        """A tensor's elements, flat, in the mapped file; its dtype must be one MILI knows."""
        entry = self.entries[name]
        raw = np.frombuffer(self._map, np.uint8, entry.end - entry.begin, entry.begin)
        return raw.view(STORAGE[entry.dtype].newbyteorder("<"))

    def release(self, name: str, begin: int, end: int) -> None:
        """Tells the system that bytes ``begin`` to ``end`` of a tensor are no longer needed in memory."""
        start = self.entries[name].begin + begin
        first_page = start // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first_page, start + end - begin - first_page)

    def _read_header(self) -> dict[str, TensorEntry]:
        length = int.from_bytes(self._map[:8], "little")
        data_start = 8 + length
        if data_start > self._size:
            raise self._error(f"has {self._size:,} bytes but states a header of {length:,}; it is cut off or damaged")
        if length > LONGEST_HEADER:
            raise self._error(f"states a header of {length:,} bytes; at most {LONGEST_HEADER:,} are allowed")
        try:
            header = json.loads(self._map[8:data_start])
        except (ValueError, RecursionError) as error:
            raise self._error(f"has a header that is not JSON ({error})") from None
        if not isinstance(header, dict):
            raise self._error("has a header that is not a JSON object")
        header.pop("__metadata__", None)
        entries: dict[str, TensorEntry] = {}
        problems: list[str] = []
        for name, raw in header.items():
            found = _entry(raw, data_start)
            if isinstance(found, TensorEntry):
                entries[name] = found
            else:
                problems.append(f"tensor {name} {found}")
        problems = problems or _layout_problems(entries, data_start, self._size)
        if problems:
            raise self._error(f"is damaged or cut off: {', '.join(problems)}")
        return entries

    def _error(self, what: str) -> WeightError:
        return WeightError(f"{self.path.name} {what}")


def _entry(raw: Any, data_start: int) -> TensorEntry | str:
    """A header's entry, or what is wrong with it."""
    try:
        dtype, shape, (begin, end) = raw["dtype"], raw["shape"], raw["data_offsets"]
    except (KeyError, TypeError, ValueError):
        return "lacks dtype, shape or data_offsets"
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not isinstance(dtype, str) or any(type(n) is not int or n < 0 for n in numbers) or end < begin:
        return "has a wrong dtype, shape or data_offsets"
    known = DTYPES.get(dtype)
    if known and end - begin != math.prod(shape) * STORAGE[known].itemsize:
        return f"has {end - begin:,} bytes for shape {shape} of {dtype}"
    return TensorEntry(known or dtype, tuple(shape), begin + data_start, end + data_start)


def _layout_problems(entries: dict[str, TensorEntry], data_start: int, size: int) -> list[str]:
    """Tensors must follow each other from the header's end to the file's, without gaps or overlaps."""
    problems = []
    end = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            problems.append(f"tensor {name} {'overlaps another' if entry.begin < end else 'has a gap before it'}")
        end = max(end, entry.end)
    if end != size:
        problems.append(f"the file has {size:,} bytes where its header asks for {end:,}")
    return problems
