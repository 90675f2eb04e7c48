"""What the kernels of linear layers share: the formats of their operands, and how tensor cores multiply them.

With g = lane / 4 and t = lane % 4, a unit of a row is four chunks of 16 bytes, and a lane holds four words of row g of w
and of rows g and g + 8 of x, two for each of the unit's products.

- bfloat16: a product has 16 columns side by side, in their order (`mma.mojo`). Hopper's products of warpgroups
  (`linear_hopper.mojo`) have the same 16, and sum them up at once, as `mma.sync` does there (Xie et al. 2025,
  arXiv:2511.10909), so that a row has the same bits in either.
- e4m3: lane (g, t) holds chunk t. Which columns of the unit stand in a product does not matter to the sum as long as x
  and w agree, so the chunk's words are given to the products in their order, and nothing is exchanged between lanes.

The order of a sum is that of the units, the same in every kernel.
"""

from max.gpu.compute.mma import mma
from std.memory import bitcast

from .mma import Left, Right, Sums, product

comptime BFLOAT = 0
"""Both operands are bfloat16."""
comptime FLOAT8 = 1
"""Both are e4m3 with scales, multiplied as such; sm_90 and later."""
comptime WIDENED = 2
"""Activations are bfloat16, weights e4m3 with scales, which become bfloat16 in registers."""

comptime Chunk = SIMD[DType.uint32, 4]
"""16 bytes of a row."""
comptime CHUNK = 16
comptime SCALED_COLUMNS = 128
"""Columns of x and w that share a scale."""
comptime SCALED_OUTPUTS = 8
"""Rows of w that share a scale."""
comptime MOST_GROUPS = 8
"""Groups of bfloat16 columns; see `group_columns`."""


@always_inline
def x_bytes[format: Int]() -> Int:
    """Bytes of an element of x."""
    return 1 if format == FLOAT8 else 2


@always_inline
def w_bytes[format: Int]() -> Int:
    """Bytes of an element of w."""
    return 2 if format == BFLOAT else 1


@always_inline
def unit_columns[format: Int]() -> Int:
    """Columns of a unit: four lanes have a chunk of w each."""
    return 4 * CHUNK // w_bytes[format]()


@always_inline
def x_chunks[format: Int]() -> Int:
    """Chunks of a row of x that a lane has of a unit."""
    return 2 if format == WIDENED else 1


comptime Words[format: Int] = SIMD[DType.uint32, 4 * x_chunks[format]()]
"""A lane's chunks of a unit of a row of x."""


def group_columns(columns: Int, scaled: Bool) -> Int:
    """Columns whose products are summed by tensor cores before they are added to the sum of the groups before them.

    They depend on the layer alone. With scales, a group is what shares one (DeepSeek-V3, arXiv:2412.19437, section
    3.3.2); without, a row has up to MOST_GROUPS of them, of a multiple of 64 columns.
    """
    if scaled:
        return SCALED_COLUMNS
    return max(1, (columns + 64 * MOST_GROUPS - 1) // (64 * MOST_GROUPS)) * 64


@always_inline
def add_unit[
    format: Int
](mut sums: Sums, low: Words[format], high: Words[format], w: Chunk):
    """Adds a unit's products to 16 rows by 8 outputs.

    Args:
        sums: The lane's part of C.
        low: Row g of x.
        high: Row g + 8.
        w: Row g of w, an output's.
    """
    comptime if format == WIDENED:
        comptime for i in range(4):
            var a = Chunk(low[2 * i], high[2 * i], low[2 * i + 1], high[2 * i + 1])
            sums = product(bitcast[DType.bfloat16, 8](a), widened[i](w), sums)
    else:
        comptime for word in range(0, 4, 2):
            var a = Chunk(low[word], high[word], low[word + 1], high[word + 1])
            var b = SIMD[DType.uint32, 2](w[word], w[word + 1])
            comptime if format == BFLOAT:
                sums = product(bitcast[DType.bfloat16, 8](a), bitcast[DType.bfloat16, 4](b), sums)
            else:
                var d = Sums(0)
                mma(d, bitcast[DType.float8_e4m3fn, 16](a), bitcast[DType.float8_e4m3fn, 8](b), sums)
                sums = d


@always_inline
def widened[word: Int](w: Chunk) -> Right:
    """Four e4m3 numbers of a word as bfloat16.

    Their bits, put where bfloat16 has its sign, exponent and mantissa, are the numbers over 2^120, for the exponents
    have biases of 7 and 127; that holds for subnormal ones too. NaN becomes 480: weights are finite.
    """
    var bytes = w[word]
    var low = (bytes & 0xFF) << 8 | (bytes & 0xFF00) << 16
    var high = (bytes & 0xFF0000) >> 8 | bytes & 0xFF000000
    var pairs = SIMD[DType.uint32, 2](low, high)
    var bits = pairs & 0x8000_8000 | (pairs >> 4) & 0x07F0_07F0
    return bitcast[DType.bfloat16, 4](bits) * Right(bitcast[DType.bfloat16, 1](UInt16(0x7B80)))
