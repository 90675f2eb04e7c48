"""Numbers of eight bits, e4m3 (arXiv:2209.05433, section 3.1), and pairs of bfloat16 that one instruction handles."""

import numpy as np
from numpy.typing import NDArray

from tests.ptx.memory import Values, bfloat16, from_bfloat16


def from_e4m3(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The float32 values of e4m3 bits."""
    return _NUMBERS[np.asarray(bits, np.uint8)]


def _by_definition(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    exponent, mantissa = (bits >> 3 & 15).astype(int), (bits & 7).astype(np.float32)
    size = np.where(exponent > 0, np.ldexp(8 + mantissa, exponent - 10), np.ldexp(mantissa, -9))
    size = np.where(bits & 127 == 127, np.nan, size)
    return np.where(bits & 128, -size, size).astype(np.float32)


_NUMBERS = _by_definition(np.arange(256, dtype=np.uint8))


def e4m3(values: Values) -> NDArray[np.uint8]:
    """Numbers rounded to the nearest e4m3, ties to even; what lies beyond 448 becomes 448."""
    values = np.asarray(values, np.float64)
    known = from_e4m3(np.arange(127, dtype=np.uint8)).astype(np.float64)
    middles = (known[1:] + known[:-1]) / 2
    below, above = (np.searchsorted(middles, abs(values), side) for side in ("left", "right"))
    code = np.where(below % 2 == 0, below, above)
    code = np.where(np.isnan(values), 127, code)
    return (code | np.where(np.signbit(values), 128, 0)).astype(np.uint8)


def fma_pairs(a: Values, b: Values, c: Values) -> NDArray[np.uint32]:
    """fma.rn.bf16x2: both halves of words."""
    result = np.zeros(len(a), np.uint32)
    for shift in (np.uint32(0), np.uint32(16)):
        x, y, z = (from_bfloat16((v >> shift).astype(np.uint16)).astype(np.float64) for v in (a, b, c))
        result |= bfloat16((x * y + z).astype(np.float32)).astype(np.uint32) << shift
    return result
