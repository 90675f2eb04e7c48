"""Conversion between the floating-point types of checkpoints; bfloat16 is held as uint16."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

STORAGE: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "float16": np.dtype(np.float16),
}
"""The NumPy type that holds the values of each type."""

CHUNK = 1 << 16
"""Elements converted at a time: the intermediate arrays stay in a core's cache."""


def convert(values: NDArray[np.generic], source: str, target: NDArray[np.generic], dtype: str) -> None:
    """Writes ``values`` of type ``source`` into ``target`` of type ``dtype``; rounds to nearest, ties to even.

    Infinities stay infinite and NaN stays NaN; a finite value beyond bfloat16 becomes infinite.

    Args:
        values: [n] in the storage type of ``source``; need not be aligned.
        source: float32, bfloat16 or float16.
        target: [n] in the storage type of ``dtype``.
        dtype: float32, bfloat16 or float16.

    Raises:
        OverflowError: A finite value lies beyond float16 (largest: 65504).
    """
    if source == dtype:
        target[...] = values
        return
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        exact = _to_float32(values[part], source)
        if dtype == "bfloat16":
            _to_bfloat16(exact, target[part])
        elif dtype == "float16":
            _to_float16(exact, target[part])
        else:
            target[part] = exact


def _to_float32(values: NDArray[np.generic], source: str) -> NDArray[np.float32]:
    if source == "bfloat16":  # the upper half of a float32
        bits = values.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    return values.astype(np.float32, copy=False)


def _to_bfloat16(values: NDArray[np.float32], target: NDArray[np.generic]) -> None:
    bits = values.view(np.uint32)
    # Half of the last kept bit, less the smallest amount when that bit is even: a tie then rounds to even.
    rounded = (bits >> np.uint32(16)) & np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    target[...] = rounded
    nan = np.isnan(values)
    if nan.any():  # rounding may have carried the payload into an infinity: keep its upper half, made quiet
        target[nan] = (bits[nan] >> np.uint32(16)) | np.uint32(0x40)


def _to_float16(values: NDArray[np.float32], target: NDArray[np.generic]) -> None:
    with np.errstate(over="ignore"):
        target[...] = values
    if (np.isinf(target) & np.isfinite(values)).any():
        raise OverflowError("a finite value lies beyond float16")
