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

from python_layer.utils.errors import WeightError

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
LONGEST_HEADER = 100_000_000


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
        WeightError: The file is missing, truncated or damaged; says how.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._size = path.stat().st_size
                if self._size < 8:
                    raise self._error(f"has {self._size} bytes; it is empty or cut off")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._error(f"can't be opened: {error.strerror}") from None
        self.entries = self._read_header()

    def bytes_of(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, in the mapped file."""
        entry = self.entries[name]
        return np.frombuffer(self._map, np.uint8, entry.end - entry.begin, entry.begin)

    def release(self, name: str) -> None:
        """Tells the system that a tensor's part of the file is no longer needed in memory."""
        entry = self.entries[name]
        begin = entry.begin // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, begin, entry.end - begin)

    def _read_header(self) -> dict[str, TensorEntry]:
        length = int.from_bytes(self._map[:8], "little")
        if length > min(self._size - 8, LONGEST_HEADER):
            raise self._error(f"states a header of {length:,} bytes but has {self._size:,}; it is cut off or damaged")
        try:
            header = json.loads(self._map[8 : 8 + length])
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise self._error(f"has a header that is not JSON ({error}); it is damaged") from None
        if not isinstance(header, dict):
            raise self._error("has a header that is not a JSON object; it is damaged")
        header.pop("__metadata__", None)
        entries = {name: self._entry(name, raw, 8 + length) for name, raw in header.items()}
        end = 8 + length
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != end:
                kind = "overlaps its neighbour" if entry.begin < end else "leaves a gap before it"
                raise self._error(f"is damaged: tensor {name} {kind}")
            end = entry.end
        if end != self._size:
            raise self._error(f"has {self._size:,} bytes where its header needs {end:,}; it is cut off or damaged")
        return entries

    def _entry(self, name: str, raw: Any, data_start: int) -> TensorEntry:
        try:
            dtype, shape, (begin, end) = raw["dtype"], raw["shape"], raw["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise self._error(f"is damaged: tensor {name} lacks dtype, shape or data_offsets") from None
        numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
        if not isinstance(dtype, str) or any(type(n) is not int or n < 0 for n in numbers) or end < begin:
            raise self._error(f"is damaged: tensor {name} has a wrong dtype, shape or data_offsets")
        known = DTYPES.get(dtype)
        if known and end - begin != math.prod(shape) * SIZES[known]:
            raise self._error(f"is damaged: tensor {name} has {end - begin:,} bytes for shape {shape} of {dtype}")
        if end + data_start > self._size:
            raise self._error(f"has {self._size:,} bytes, but tensor {name} ends at {end + data_start:,}; it is cut off")
        return TensorEntry(known or dtype, tuple(shape), begin + data_start, end + data_start)

    def _error(self, what: str) -> WeightError:
        return WeightError(f"{self.path} {what}")
