"""Vector helpers with a fixed order of operations, so that equal inputs give equal bits everywhere."""

from std.math import fma
from std.memory import bitcast
from std.sys import CompilationTarget, simd_width_of

from .types import ReadPtr, WritePtr

comptime WIDTH = simd_width_of[DType.float32]()
"""Lanes of the widest float32 vector of the CPU compiled for."""
comptime Vector = SIMD[DType.float32, WIDTH]
comptime WHOLE = Float32(12582912.0)
"""1.5 * 2^23: a float32 of this size has no bits for fractions, and its lowest bits are the integer that was added."""


def sum_of_squares(x: ReadPtr[DType.float32], size: Int) -> Float32:
    """The sum of x[i]^2 over `size` elements: four vectors of sums, which do not wait for each other, then the rest."""
    var sums = Array[Vector, 4](fill=Vector(0))
    var i = 0
    while i + 4 * WIDTH <= size:
        comptime for j in range(4):
            var v = x.unsafe_load[width=WIDTH](i + j * WIDTH)
            sums[j] = fma(v, v, sums[j])
        i += 4 * WIDTH
    var acc = (sums[0] + sums[1]) + (sums[2] + sums[3])
    while i + WIDTH <= size:
        var v = x.unsafe_load[width=WIDTH](i)
        acc = fma(v, v, acc)
        i += WIDTH
    var total = acc.reduce_add()
    while i < size:
        total = fma(x[unsafe_offset=i], x[unsafe_offset=i], total)
        i += 1
    return total


@always_inline
def larger[width: Int](x: SIMD[DType.float32, width], most: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """The larger numbers; those of `most` where x is no number."""
    # That is one instruction of x86, where `max` takes two.
    return x.gt(most).select(x, most) if CompilationTarget.is_x86() else max(x, most)


@always_inline
def nearest[width: Int](x: SIMD[DType.float32, width], factor: Float32) -> SIMD[DType.int32, width]:
    """The integers nearest to x * factor, rounded once, where these are below 2^22; of two as near, the even one.

    Cut to 16 or 8 bits, as they are stored, that is one instruction. Those of an infinity are 0.
    """
    var shifted = fma(x, SIMD[DType.float32, width](factor), WHOLE)
    return bitcast[DType.int32, width](shifted) - bitcast[DType.int32, 1](WHOLE)[0]


@always_inline
def largest_magnitude(x: ReadPtr[DType.float32], size: Int) -> Float32:
    """The largest |x[i]| of `size` numbers."""
    var most = Vector(0)
    var i = 0
    while i + WIDTH <= size:
        most = larger[WIDTH](abs(x.unsafe_load[width=WIDTH](i)), most)
        i += WIDTH
    var largest = most.reduce_max()
    while i < size:
        largest = max(largest, abs(x[unsafe_offset=i]))
        i += 1
    return largest


@always_inline
def rounded[source: DType, //, dtype: DType, width: Int](x: SIMD[source, width]) -> SIMD[dtype, width]:
    """The numbers in another type; of two that are as near, the even one.

    For bfloat16 by adding almost half of the last place to the bits: where the compiler does not know of an
    instruction, its own way takes numbers one by one.
    """
    comptime if source == DType.float32 and dtype == DType.bfloat16:
        var bits = bitcast[DType.uint32, width](x)
        var upper = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
        # That may carry a NaN's bits away.
        var result = x.ne(x).select(SIMD[DType.uint32, width](0x7FC0), upper)
        return rebind[SIMD[dtype, width]](bitcast[DType.bfloat16, width](result.cast[DType.uint16]()))
    else:
        return x.cast[dtype]()


@always_inline
def store_row[dtype: DType, source: DType](y: WritePtr[dtype], x: ReadPtr[source], size: Int):
    """Writes `size` numbers, in the type of y."""
    var i = 0
    while i + WIDTH <= size:
        y.unsafe_store(i, rounded[dtype, WIDTH](x.unsafe_load[width=WIDTH](i)))
        i += WIDTH
    while i < size:
        y[unsafe_offset=i] = rounded[dtype, 1](x[unsafe_offset=i])
        i += 1
