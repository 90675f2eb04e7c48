"""Powers of two by a polynomial, in vectors: all that softmax and SiLU need of the exponential function."""

from std.math import fma
from std.memory import bitcast

comptime LOG2_E = Float32(1.4426950408889634)
comptime LEAST = Float32(-126)
"""Smaller exponents give 0, and no denormal number."""
comptime MOST = Float32(127)
comptime ROUND = Float32(12582912.0)
"""1.5 * 2^23: a float32 of this size has no bits for fractions, and its lowest bits are the integer that was added."""


@always_inline
def exp2_vector[width: Int](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """Computes 2^x to 2.5e-7 of its value, exactly 1 at 0 and 0 below -126; above 127 it stays 2^127.

    Split into 2^n, which is added to the exponent, and 2^f with |f| <= 1/2, for which a polynomial of degree 5 was
    fitted for the least relative error (Cody and Waite 1980, chapter 6).
    """
    comptime Lanes = SIMD[DType.float32, width]
    var clamped = min(max(x, Lanes(LEAST)), Lanes(MOST))
    var shifted = clamped + ROUND
    var f = clamped - (shifted - ROUND)
    var q = Lanes(0.001326472731307149)
    q = fma(q, f, Lanes(0.009671512991189957))
    q = fma(q, f, Lanes(0.05550733581185341))
    q = fma(q, f, Lanes(0.24022242426872253))
    q = fma(q, f, Lanes(0.6931470036506653))
    var power = fma(q, f, Lanes(1))
    var exponent = bitcast[DType.int32, width](shifted) << 23
    var result = bitcast[DType.float32, width](bitcast[DType.int32, width](power) + exponent)
    return x.ge(Lanes(LEAST)).select(result, Lanes(0))


@always_inline
def exp_vector[width: Int](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """The exponential by `exp2_vector`: to 2.5e-7 of its value near 0, and 1e-7 |x| more away from it."""
    return exp2_vector[width](x * LOG2_E)
