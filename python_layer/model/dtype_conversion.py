"""Conversion between the floating-point types of checkpoints; bfloat16 is held as uint16."""

import numpy as np
from numpy.typing import NDArray

STORAGE = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16), "float16": np.dtype(np.float16)}
"""The NumPy type that holds the values of each type."""


def convert(values: NDArray[np.generic], source: str, target: NDArray[np.generic], dtype: str) -> None:
    """Writes ``values`` of type ``source`` into ``target`` of type ``dtype``, rounding to nearest, ties to even.

    Args:
        values: Any shape, in the storage type of ``source``.
        source: float32, bfloat16 or float16.
        target: As many elements, in the storage type of ``dtype``.
        dtype: float32, bfloat16 or float16.
    """
    if source == dtype:
        target[...] = values
        return
    exact = _to_float32(values, source)
    if dtype == "bfloat16":
        _to_bfloat16(exact, target)
    else:
        with np.errstate(over="ignore"):
            target[...] = exact.astype(STORAGE[dtype])


def _to_float32(values: NDArray[np.generic], source: str) -> NDArray[np.float32]:
    if source == "bfloat16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)


def _to_bfloat16(values: NDArray[np.float32], target: NDArray[np.generic]) -> None:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # Rounding could carry a NaN's payload into infinity or zero.
    target[...] = np.where(np.isnan(values), (bits >> np.uint32(16)) | np.uint32(0x40), rounded)
