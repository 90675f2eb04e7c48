"""The arithmetic of NVIDIA's tensor cores, bit by bit (Xie et al. 2025, "MMA-Sim", arXiv:2511.10909).

The authors found it by tests on hardware, and others found the same (Khattak and Mikaitis 2025, arXiv:2512.07004). PTX
does not promise it. A block of products and what they are added to are one sum: all are aligned to the largest of their
exponents and cut off behind some bits, toward zero; what is left is summed exactly and cut off to float32. Within a
block the order of the products therefore does not matter; a product of more columns is one block after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LEAST = -126
"""Exponent of zero in all formats, and of subnormal numbers of bfloat16 and of float32."""
LEAST_E4M3 = -6
"""Exponent of subnormal e4m3."""
WARPGROUP_E4M3 = 13
"""Bits behind the point of what wgmma sums of e4m3, and of the result."""
NAN = 0x7FFFFFFF
"""The bits of every NaN that is a result."""


@dataclass(frozen=True)
class Blocks:
    """How a GPU sums bfloat16 products.

    Attributes:
        bits: Behind the point of what is summed, aligned to the largest exponent.
        columns: Of a block.
    """

    bits: int
    columns: int


HOPPER = Blocks(25, 16)
BLOCKS = {"sm_80": Blocks(24, 8), "sm_89": Blocks(24, 8), "sm_90": HOPPER, "sm_90a": HOPPER}
"""By architecture; those of mma.sync, and on Hopper of wgmma too."""


def add_products(architecture: str, kind: str, left: Floats, right: Floats, sums: Floats) -> Floats:
    """sums + left @ right as tensor cores compute it.

    Args:
        architecture: Such as sm_90a.
        kind: Of the factors, bf16 or e4m3.
        left: [..., m, k], numbers of that kind; k is that of one instruction.
        right: [..., k, n].
        sums: [..., m, n].

    Raises:
        NotImplementedError: It is not known how.
    """
    blocks, columns = BLOCKS.get(architecture), np.arange(left.shape[-1])
    if kind == "bf16" and blocks is not None:
        parts = [slice(first, first + blocks.columns) for first in range(0, len(columns), blocks.columns)]
        return _add(parts, blocks.bits, left, right, sums)
    if kind != "e4m3" or blocks is not HOPPER:
        raise NotImplementedError(f"the arithmetic of {kind} products on {architecture or 'a GPU without .target'}")
    # Hopper has no such mma.sync (NVIDIA/cutlass, issue 1986). PTX's assembler makes three steps of it, as its machine
    # code for sm_90a shows: two products of float16, which e4m3 becomes without loss, first of the lower halves of all
    # registers, then of the upper ones; and an ordinary addition. Float16 has a least exponent of its own, which only
    # zeros would have here; as no number is a fraction of 2^-18, it would change no sum.
    halves = [columns % 4 < 2, columns % 4 > 1]
    with np.errstate(all="ignore"):
        return _same_nan(sums + _add(halves, HOPPER.bits, left, right, np.zeros_like(sums)))


def add_warpgroup_e4m3(left: Floats, right: Floats, sums: Floats) -> Floats:
    """sums + left @ right as Hopper's wgmma computes it of e4m3: all 32 columns are one block; see `add_products`."""
    result = _add([slice(None)], WARPGROUP_E4M3, left, right, sums, _exponents_e4m3)
    cut = result.view(np.uint32) & np.uint32(-1 << 23 - WARPGROUP_E4M3 & 0xFFFF_FFFF)
    return np.where(np.isnan(result), result, cut.view(np.float32))


def _add(
    parts: Sequence[slice | NDArray[np.bool_]],
    bits: int,
    left: Floats,
    right: Floats,
    sums: Floats,
    exponents_of: Callable[[Floats], NDArray[np.int16]] | None = None,
) -> Floats:
    # Columns first, so that NumPy sums whole matrices; rows last, for they are more than the outputs of mma.sync.
    a, b = np.moveaxis(left, -1, 0)[..., None, :], np.moveaxis(right, -2, 0)[..., None]
    sums = sums.swapaxes(-1, -2)
    exponents_of = exponents_of or _exponents
    exponents = exponents_of(a) + exponents_of(b)
    with np.errstate(all="ignore"):
        products = np.multiply(a, b, dtype=np.float64)  # exact; NaN and infinity become the result's
        for part in parts:
            largest = np.maximum(exponents[part].max(0), _exponents(sums)).astype(np.int64)
            scale = (1023 + bits - largest << 52).view(np.float64)  # 2^(bits - largest)
            terms = products[part]
            terms *= scale
            total = np.trunc(terms, out=terms).sum(0) + np.trunc(sums * scale)
            sums = _toward_zero(total / scale)
    return _same_nan(sums.swapaxes(-1, -2))


def _exponents(values: Floats) -> NDArray[np.int16]:
    field = (values.view(np.uint32) >> np.uint32(23)).astype(np.int16) & np.int16(255)
    return np.maximum(field - np.int16(127), np.int16(LEAST))


def _exponents_e4m3(values: Floats) -> NDArray[np.int16]:
    return np.where(values == 0, np.int16(LEAST), np.maximum(_exponents(values), np.int16(LEAST_E4M3)))


def _toward_zero(values: NDArray[np.float64]) -> Floats:
    nearest, size = values.astype(np.float32), np.abs(values)
    too_large = (np.abs(nearest) > size) & (size < 2.0**128)
    return (nearest.view(np.uint32) - too_large).view(np.float32) + np.float32(0)  # no zero is negative


def _same_nan(values: Floats) -> Floats:
    return np.where(np.isnan(values), np.uint32(NAN), values.view(np.uint32)).view(np.float32)
