"""A memory-mapped safetensors file, its header checked entry by entry.

The format: 8 bytes with the header's length (little endian), the header (JSON: name -> dtype, shape,
data_offsets), then the tensors' bytes, each between its offsets, without gaps or overlaps.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from python_layer.model.dtype_conversion import STORAGE
from python_layer.model.quantized import QuantizedRows
from python_layer.utils.errors import WeightError
from python_layer.utils.mapped_file import MappedFile

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F8_E4M3": "float8_e4m3fn", "I32": "int32"}
TYPES = STORAGE | {"float8_e4m3fn": np.dtype(np.uint8), "int32": np.dtype(np.int32)}
"""The NumPy type that holds the values of each type that MILI reads."""
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file.

    Attributes:
        dtype: A name of ``TYPES``, or the format's own where MILI has no use for it.
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
            self._size = path.stat().st_size
            if self._size < 8:
                raise self._error(f"has {self._size} bytes; it is empty or cut off")
            self._map = MappedFile(path)
        except FileNotFoundError:
            raise self._error("does not exist") from None
        except OSError as error:
            raise self._error(f"can't be opened: {error.strerror}") from None
        self.entries = self._read_header()

    def tensors(self) -> "dict[str, PlainTensor]":
        """Every tensor, by name."""
        return {name: PlainTensor(self.path, self._map, entry) for name, entry in self.entries.items()}

    def _read_header(self) -> dict[str, TensorEntry]:
        length = int.from_bytes(self._map.bytes[:8], "little")
        data_start = 8 + length
        if data_start > self._size:
            raise self._error(f"has {self._size:,} bytes but states a header of {length:,}; it is cut off or damaged")
        if length > LONGEST_HEADER:
            raise self._error(f"states a header of {length:,} bytes; at most {LONGEST_HEADER:,} are allowed")
        try:
            header = json.loads(self._map.bytes[8:data_start])
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


class PlainTensor:
    """A tensor that lies in a file as it is; a source of weights if it is float32, bfloat16 or float16.

    Args:
        path: The file.
        mapped: Its bytes.
        entry: Where in them.
    """

    is_plain = True
    format = None

    def __init__(self, path: Path, mapped: MappedFile, entry: TensorEntry) -> None:
        self.path = path
        self.shape = entry.shape
        self.dtype = self.stored_as = entry.dtype
        self.nbytes = entry.end - entry.begin
        self._map = mapped
        self._begin = entry.begin

    def whole(self) -> NDArray[Any]:
        """Its values, in the mapped file; the dtype must be one of ``TYPES``."""
        return self._map.array(self._begin, self._begin + self.nbytes, TYPES[self.dtype]).reshape(self.shape)

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        return self.whole().reshape(self.shape[0], -1)[start:stop]

    def quantized(self, start: int, stop: int) -> QuantizedRows:
        """Not to be called: see :class:`~python_layer.model.tensor_source.TensorSource`."""
        raise TypeError("a plain tensor is not quantized")

    def release(self, start: int, stop: int) -> None:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        row = self.nbytes // self.shape[0]
        self._map.release(self._begin + start * row, self._begin + stop * row)


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
    if known and end - begin != math.prod(shape) * TYPES[known].itemsize:
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
