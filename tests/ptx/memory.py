"""Memory of a GPU that is not there, and the numbers that lie in it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.generic]
GAP = 256
"""Bytes between arrays, which nothing may touch."""


def bfloat16(values: Values) -> Values:
    """float32 rounded to the nearest bfloat16, as its bits."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)


def from_bfloat16(bits: Values) -> Values:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class GlobalMemory:
    """Arrays at addresses; whatever lies outside them must not be touched.

    Args:
        arrays: Contiguous ones; copied in, and back by :meth:`give_back`.
    """

    BASE = 1 << 32

    def __init__(self, arrays: Sequence[Values]) -> None:
        self._arrays = arrays
        starts = np.cumsum([GAP, *(-(-a.nbytes // GAP) * GAP + GAP for a in arrays)])
        self.addresses = [self.BASE + int(start) for start in starts[:-1]]
        self._bytes = np.zeros(starts[-1], np.uint8)
        self._valid = np.zeros(starts[-1], bool)
        for start, array in zip(starts, arrays, strict=False):
            if not array.flags.c_contiguous:
                raise ValueError("an array must be contiguous")
            self._bytes[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
            self._valid[start : start + array.nbytes] = True

    def find(self, addresses: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All memory, and where in it these accesses of ``size`` bytes are.

        Raises:
            MemoryError: One is not aligned, or not inside an array.
        """
        offsets = addresses - self.BASE
        if (offsets % size).any():
            raise MemoryError(f"an access of {size} bytes is not aligned")
        ends = np.clip(offsets + size - 1, 0, len(self._valid) - 1)
        if (offsets < 0).any() or (offsets + size > len(self._valid)).any() or not self._valid[[offsets, ends]].all():
            raise MemoryError(f"an access of {size} bytes is outside of all arrays")
        return self._bytes, offsets

    def give_back(self) -> None:
        """Copies the memory back to the arrays."""
        for address, array in zip(self.addresses, self._arrays, strict=True):
            start = address - self.BASE
            array.reshape(-1).view(np.uint8)[:] = self._bytes[start : start + array.nbytes]
