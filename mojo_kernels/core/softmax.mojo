"""The softmax of one query row over a block of positions, as attention merges it with other blocks."""

from std.math import ceildiv, iota, round
from std.memory import bitcast
from std.sys import inlined_assembly
from std.utils.numerics import neg_inf

from ..memory.block import BLOCK, Block
from ..memory.kv_cache import PANEL, SIXTEENTH
from ..utils.exp import exp2_vector
from ..utils.types import WritePtr
from .products import LANES, Vector16

comptime MASKED = neg_inf[DType.float32]()
comptime CHAINS = 4
"""Maxima, and sums, of a row that do not wait for each other."""
comptime INT16_MAX = Float32(32767)
comptime LARGEST_WEIGHT = Float32(16383)
"""The largest int16 weight of values in an int16 cache: 64 times 2047 times this is below 2^31."""
comptime QUARTER = Float32(0.25)
"""What float16 weights are multiplied with, so that sums of products stay within their range."""


@always_inline
def to_bfloat16(x: Vector16) -> SIMD[DType.bfloat16, LANES]:
    """Rounds to the nearest bfloat16 numbers, on CPUs with AVX512-BF16."""
    var bits = inlined_assembly[
        "vcvtneps2bf16 $1, $0", SIMD[DType.uint16, LANES], constraints="=v,v", has_side_effect=False
    ](x)
    return bitcast[DType.bfloat16, LANES](bits)


@fieldwise_init
struct RowSums(TrivialRegisterPassable):
    """What a block adds to a row beside its values."""

    var maximum: Float32
    """The largest score."""
    var weight: Float32
    """The sum of 2^(score - maximum)."""
    var scale: Float32
    """What sums of weighted values are multiplied with: the scale of int16 weights, that of float16, or 1."""


def weigh_row[
    operand: DType
](
    scores: WritePtr[DType.float32],
    weights: WritePtr[operand],
    visible: Int,
    scale: Float32,
    block: Block[...],
    head: Int,
) -> RowSums:
    """Turns scores into weights 2^(score - maximum).

    Parameters:
        operand: Type of the weights; int16 ones are weights times the values' scales, in units of their own scale, and
            float16 ones quarters.

    Args:
        scores: [BLOCK], base 2 logarithms over `scale`; overwritten.
        weights: [BLOCK]; zero where the row sees no key.
        visible: Keys that the row sees, at least 1.
        scale: Not negative.
        block: The block, whose values' scales int16 weights are multiplied with.
        head: The KV head in the block.
    """
    comptime stretch = CHAINS * LANES
    var end = ceildiv(visible, stretch) * stretch
    var tail = visible - visible % LANES
    if tail < end:
        var seen = iota[DType.int32, LANES]().lt(Int32(visible - tail))
        scores.unsafe_store(tail, seen.select(scores.unsafe_load[width=LANES](tail), Vector16(MASKED)))
        for i in range(tail + LANES, end, LANES):
            scores.unsafe_store(i, Vector16(MASKED))
    var largest = Array[Vector16, CHAINS](fill=Vector16(MASKED))
    for begin in range(0, end, stretch):
        comptime for c in range(CHAINS):
            largest[c] = max(largest[c], scores.unsafe_load[width=LANES](begin + c * LANES))
    var maximum = max(max(largest[0], largest[1]), max(largest[2], largest[3])).reduce_max() * scale
    var sums = Array[Vector16, CHAINS](fill=Vector16(0))
    var most = Vector16(0)
    for begin in range(0, end, stretch):
        comptime for c in range(CHAINS):
            var i = begin + c * LANES
            var s = scores.unsafe_load[width=LANES](i)
            var p = exp2_vector[LANES](s * scale - maximum)
            sums[c] += p
            comptime if operand == DType.int16:
                # The scales behind the last position may be anything.
                var scaled = p * block.value_scales(min(i // PANEL, block.panels - 1), head)
                scaled = s.gt(MASKED).select(scaled, Vector16(0))
                scores.unsafe_store(i, scaled)
                most = max(most, scaled)
            elif operand == DType.bfloat16:
                weights.unsafe_store(i, rebind[SIMD[operand, LANES]](to_bfloat16(p)))
            elif operand == DType.float16:
                weights.unsafe_store(i, (p * QUARTER).cast[operand]())
            else:
                weights.unsafe_store(i, rebind[SIMD[operand, LANES]](p))
    var unit = Float32(1)
    comptime if operand == DType.int16:
        unit = most.reduce_max() / (INT16_MAX if block.cache_type == DType.int8 else LARGEST_WEIGHT)
        var inverse = 1 / unit if unit > 0 else Float32(0)
        for i in range(0, end, LANES):
            weights.unsafe_store(i, round(scores.unsafe_load[width=LANES](i) * inverse).cast[operand]())
    elif operand == DType.float16:
        unit = 1 / (QUARTER * SIXTEENTH)
    # Rows beside this one may see more of the block.
    for i in range(end, BLOCK, LANES):
        weights.unsafe_store(i, SIMD[operand, LANES](0))
    return RowSums(maximum, ((sums[0] + sums[1]) + (sums[2] + sums[3])).reduce_add(), unit)


@always_inline
def merge_factors(maximum: Float32, other: Float32) -> Tuple[Float32, Float32, Float32]:
    """The maximum of two softmax sums, and what to multiply each of them with."""
    var both = max(maximum, other)
    var less = exp2_vector[1](min(maximum, other) - both)[0]
    return both, less if maximum < other else Float32(1), Float32(1) if maximum < other else less
