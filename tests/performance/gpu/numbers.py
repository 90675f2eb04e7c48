"""The numbers that every system computes with: normally distributed, and the same for all.

They matter: a GPU multiplies zeros faster than it multiplies numbers, because they take less power.
"""

import math

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20
"""Numbers that are drawn; what is larger repeats them."""


def bfloat16_bits(*shape: int, seed: int = 0, scale: float = 1.0, unit: int = 0) -> NDArray[np.uint16]:
    """bfloat16 numbers as their bits.

    Args:
        shape: Of the array.
        seed: Other numbers for another seed.
        scale: Their standard deviation.
        unit: Numbers of a group whose root mean square shall be 1; 0 leaves them as they are.
    """
    values = np.random.default_rng(seed).standard_normal(BLOCK, np.float32) * np.float32(scale)
    if unit:
        groups = values.reshape(-1, unit)
        values = (groups / np.sqrt((groups**2).mean(1, keepdims=True))).reshape(-1)
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.resize(rounded, math.prod(shape)).reshape(shape)


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 numbers as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """float32 numbers that bfloat16 has too."""
    return widened(bfloat16_bits(*shape, seed=seed))
