"""A memory-mapped GGUF file: metadata and tensors, its header checked entry by entry.

The format (ggml-org/ggml, docs/gguf.md): the magic, a version, the numbers of tensors and of metadata entries; the
metadata (key, type, value); for each tensor its name, sizes (innermost first), type and offset; then, aligned, the
tensors' bytes. Numbers are little endian; a string is its length and its UTF-8 bytes.
"""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from python_layer.utils.errors import WeightError
from python_layer.utils.mapped_file import MappedFile

VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
NUMBERS = dict(enumerate(["<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<?"])) | {10: "<u8", 11: "<i8", 12: "<f8"}
"""NumPy types of the metadata's number types."""
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class BlockType:
    """How a tensor's elements are stored.

    Attributes:
        name: As ggml calls it.
        elements: Of a block.
        nbytes: Of a block.
    """

    name: str
    elements: int
    nbytes: int


BLOCK_TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    30: BlockType("BF16", 1, 2),
}
"""Block types by their numbers in files; of the many others only the number is told."""


@dataclass(frozen=True)
class GgufEntry:
    """A tensor in a file.

    Attributes:
        type: How it is stored; of a type that is not known, the name is its number and the sizes are 0.
        shape: Its shape, outermost first.
        begin: First byte, from the start of the file.
        end: Byte after the last.
    """

    type: BlockType
    shape: tuple[int, ...]
    begin: int
    end: int


class GgufFile:
    """A file's metadata and where its tensors lie.

    Args:
        path: The file.

    Attributes:
        path: The file.
        mapped: Its bytes.
        metadata: Numbers, booleans, strings, and lists of them, by key.
        entries: The tensors, by name.

    Raises:
        WeightError: The file is missing, no GGUF file, one part of several, damaged or cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.mapped = MappedFile(path)
        except OSError as error:
            raise self._error(f"can't be opened: {error.strerror}") from None
        except ValueError:
            raise self._error("has 0 bytes; it is empty or cut off") from None
        self._at = 0
        try:
            self.metadata, self.entries = self._read()
        except (struct.error, ValueError, OverflowError, MemoryError) as error:
            raise self._error(f"is damaged or cut off: {error} (at byte {self._at:,} of its header)") from None

    def _read(self) -> tuple[dict[str, Any], dict[str, GgufEntry]]:
        if bytes(self.mapped.bytes[:4]) != b"GGUF":
            raise self._error("is no GGUF file: it does not begin with GGUF")
        self._at = 4
        version = self._number(U32)
        if version not in VERSIONS:
            raise self._error(f"is a GGUF file of version {version}; supported: 2 and 3, little endian")
        tensors, entries = self._number(U64), self._number(U64)
        metadata = dict(self._unique(entries, lambda: self._value(self._number(U32))))
        parts = metadata.get("split.count")
        if isinstance(parts, int) and parts > 1:
            raise self._error(f"is one of {parts} parts; join them with llama-gguf-split --merge")
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"general.alignment is {alignment!r}")
        found = dict(self._unique(tensors, self._tensor))
        data = -(-self._at // alignment) * alignment
        placed = {name: _placed(*entry, data=data) for name, entry in found.items()}
        self._check(placed)
        return metadata, placed

    def _unique(self, count: int, read: Callable[[], Any]) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for _ in range(count):
            name = self._string()
            if name in seen:
                raise ValueError(f"{name} is there twice")
            seen.add(name)
            yield name, read()

    def _number(self, kind: struct.Struct) -> int:
        (value,) = kind.unpack_from(self.mapped.bytes, self._at)
        self._at += kind.size
        return int(value)

    def _string(self) -> str:
        return self._take(self._number(U64)).decode()

    def _take(self, size: int) -> bytes:
        if size > self.mapped.size - self._at:
            raise ValueError(f"{size:,} bytes are announced where {self.mapped.size - self._at:,} are left")
        self._at += size
        return self.mapped.bytes[self._at - size : self._at]

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            inner, count = self._number(U32), self._number(U64)
            if inner == STRING:
                return self._strings(count)
            return self._numbers(inner, count).tolist()
        (number,) = self._numbers(kind, 1)
        # The decimal number that was meant: 1e-06 and not the float64 next to its float32.
        return float(str(number)) if number.dtype == np.float32 else number.item()

    def _strings(self, count: int) -> list[str]:
        """As many calls of ``_string``, in half the time: a vocabulary has 300,000 of them."""
        content, size, length_at = self.mapped.bytes, self.mapped.size, U64.unpack_from
        strings = []
        for _ in range(count):
            begin = self._at + 8
            self._at = begin + length_at(content, self._at)[0]
            if self._at > size:
                raise ValueError(f"a string ends at byte {self._at:,} of a file of {size:,}")
            strings.append(content[begin : self._at].decode())
        return strings

    def _numbers(self, kind: int, count: int) -> Any:
        if kind not in NUMBERS:
            raise ValueError(f"metadata has type {kind}, which is not known")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _tensor(self) -> tuple[BlockType, tuple[int, ...], int]:
        dimensions = self._number(U32)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        shape = tuple(reversed([self._number(U64) for _ in range(dimensions)]))
        number = self._number(U32)
        kind = BLOCK_TYPES.get(number, BlockType(f"number {number}", 0, 0))
        if 0 in shape or (kind.elements and shape[-1] % kind.elements):
            raise ValueError(f"a tensor of type {kind.name} has shape {list(shape)}")
        return kind, shape, self._number(U64)

    def _check(self, entries: dict[str, GgufEntry]) -> None:
        for name, entry in entries.items():
            if entry.end > self.mapped.size:
                raise ValueError(f"{name} ends at byte {entry.end:,} of a file of {self.mapped.size:,}")
        ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
        for (before, first), (name, second) in pairwise(ordered):
            if second.begin < first.end:
                raise ValueError(f"{before} and {name} overlap")

    def texts(self, key: str) -> list[str] | None:
        """A list of texts in the metadata; None where there is no such thing."""
        value = self.metadata.get(key)
        return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else None

    def _error(self, what: str) -> WeightError:
        return WeightError(f"{self.path.name} {what}")


def _placed(kind: BlockType, shape: tuple[int, ...], offset: int, *, data: int) -> GgufEntry:
    """The entry of a tensor at an offset from the data's first byte."""
    begin = data + offset
    size = math.prod(shape) // kind.elements * kind.nbytes if kind.elements else 0
    return GgufEntry(kind, shape, begin, begin + size)
