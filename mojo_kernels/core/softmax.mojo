"""The softmax of one query row over a block of positions, as attention merges it with other blocks."""

from std.math import ceildiv, iota
from std.memory import bitcast
from std.sys import inlined_assembly
from std.utils.numerics import neg_inf

from ..memory.block import BLOCK, Block
from ..memory.kv_cache import PANEL, SIXTEENTH
from ..utils.exp import exp2_vector
from ..utils.simd import larger, nearest
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
struct RowWeights(TrivialRegisterPassable):
    """What a block adds to a row beside its values."""

    var sum: Float32
    """The sum of 2^(score - maximum)."""
    var scale: Float32
    """What sums of weighted values are multiplied with: the scale of int16 weights, that of float16, or 1."""


@always_inline
def stretches(visible: Int) -> Int:
    """Scores that are looked at, of so many: those behind them count as masked."""
    comptime stretch = CHAINS * LANES
    return ceildiv(visible, stretch) * stretch


def largest_score(scores: WritePtr[DType.float32], visible: Int) -> Float32:
    """The largest of a row's scores; those that the row does not see are masked.

    Args:
        scores: [BLOCK].
        visible: Keys that the row sees, at least 1.
    """
    var end = stretches(visible)
    var tail = visible - visible % LANES
    if tail < end:
        var seen = iota[DType.int32, LANES]().lt(Int32(visible - tail))
        scores.unsafe_store(tail, seen.select(scores.unsafe_load[width=LANES](tail), Vector16(MASKED)))
        for i in range(tail + LANES, end, LANES):
            scores.unsafe_store(i, Vector16(MASKED))
    var most = Array[Vector16, CHAINS](fill=Vector16(MASKED))
    for begin in range(0, end, CHAINS * LANES):
        comptime for c in range(CHAINS):
            most[c] = larger[LANES](scores.unsafe_load[width=LANES](begin + c * LANES), most[c])
    return larger[LANES](larger[LANES](most[0], most[1]), larger[LANES](most[2], most[3])).reduce_max()


def weigh_row[
    operand: DType
](
    scores: WritePtr[DType.float32],
    weights: WritePtr[operand],
    visible: Int,
    scale: Float32,
    maximum: Float32,
    block: Block[...],
    head: Int,
) -> RowWeights:
    """Turns scores into weights 2^(score - maximum).

    Parameters:
        operand: Type of the weights; int16 ones are weights times the values' scales, in units of their own scale, and
            float16 ones quarters.

    Args:
        scores: [BLOCK], base 2 logarithms over `scale`, those that the row does not see masked; may be overwritten.
        weights: [BLOCK]; zero where the row sees no key.
        visible: Keys that the row sees, at least 1.
        scale: Not negative.
        maximum: The largest score times `scale`.
        block: The block, whose values' scales int16 weights are multiplied with.
        head: The KV head in the block.
    """
    var end = stretches(visible)
    var sums = Array[Vector16, CHAINS](fill=Vector16(0))
    var most = Vector16(0)
    for begin in range(0, end, CHAINS * LANES):
        comptime for c in range(CHAINS):
            var i = begin + c * LANES
            var s = scores.unsafe_load[width=LANES](i)
            var p = exp2_vector[LANES, bounded=False](s * scale - maximum)
            sums[c] += p
            comptime if operand == DType.int16:
                # The scales behind the last position may be anything.
                var scaled = p * block.value_scales(min(i // PANEL, block.panels - 1), head)
                scaled = s.gt(MASKED).select(scaled, Vector16(0))
                scores.unsafe_store(i, scaled)
                most = larger[LANES](scaled, most)
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
            weights.unsafe_store(i, nearest[LANES](scores.unsafe_load[width=LANES](i), inverse).cast[operand]())
    elif operand == DType.float16:
        unit = 1 / (QUARTER * SIXTEENTH)
    # Rows beside this one may see more of the block.
    for i in range(end, BLOCK, LANES):
        weights.unsafe_store(i, SIMD[operand, LANES](0))
    return {((sums[0] + sums[1]) + (sums[2] + sums[3])).reduce_add(), unit}


struct MergeFactors[width: Int](TrivialRegisterPassable):
    """How sums of some rows are merged with others."""

    var maximum: SIMD[DType.float32, Self.width]
    """That of both."""
    var decay: SIMD[DType.float32, Self.width]
    """What the ones are multiplied with."""
    var gain: SIMD[DType.float32, Self.width]
    """What the others are multiplied with."""

    @always_inline
    def __init__(out self, maximum: SIMD[DType.float32, Self.width], other: SIMD[DType.float32, Self.width]):
        """Of the maxima of the ones and the others."""
        comptime One = SIMD[DType.float32, Self.width](1)
        var rises = maximum.lt(other)
        self.maximum = rises.select(other, maximum)
        var less = exp2_vector[Self.width, bounded=False](rises.select(maximum, other) - self.maximum)
        self.decay = rises.select(less, One)
        self.gain = rises.select(One, less)
