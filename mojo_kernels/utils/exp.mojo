"""Powers of two by a polynomial, in vectors: all that softmax and SiLU need of the exponential function."""

from std.math import fma
from std.memory import bitcast

from .simd import WHOLE, larger

comptime LOG2_E = Float32(1.4426950408889634)
comptime LEAST = Float32(-126)
"""What is raised to at least; half a step above it and below, powers are 0, and no denormal numbers."""
comptime MOST = Float32(127)
comptime SHIFT = WHOLE + 126
"""With what is added so, the lowest bits are the exponent of a float32 that is half the power."""


@always_inline
def exp2_vector[width: Int, bounded: Bool = True](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """Computes 2^x to 2.5e-7 of its value, exactly 1 at 0, and 0 below -125.5 and of what is no number.

    Split into 2^(n - 1) and 2^(f + 1) with |f| <= 1/2, for which a polynomial of degree 5 was fitted for the least
    relative error (Cody and Waite 1980, chapter 6).

    Parameters:
        width: Numbers.
        bounded: Whether x may be above 127, where the power stays what it is there.
    """
    comptime Lanes = SIMD[DType.float32, width]
    var clamped = larger[width](x, Lanes(LEAST))
    comptime if bounded:
        clamped = min(clamped, Lanes(MOST))
    var shifted = clamped + SHIFT
    var f = clamped - (shifted - SHIFT)
    var q = Lanes(0.002652945462614298)
    q = fma(q, f, Lanes(0.019343025982379913))
    q = fma(q, f, Lanes(0.11101467162370682))
    q = fma(q, f, Lanes(0.48044484853744507))
    q = fma(q, f, Lanes(1.3862940073013306))
    return fma(q, f, Lanes(2)) * bitcast[DType.float32, width](bitcast[DType.int32, width](shifted) << 23)


@always_inline
def exp_vector[width: Int](x: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """The exponential by `exp2_vector`: to 2.5e-7 of its value near 0, and 1e-7 |x| more away from it."""
    return exp2_vector[width](x * LOG2_E)
