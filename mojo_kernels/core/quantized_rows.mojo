"""Quantised weights and the rows they are multiplied with.

A matrix w[N, K] is packed as [N / 64, K / G, block]: a block has the values of 64 rows and one group, and then their 64
scales, and offsets where there are any, in float16. In the values of 8 bits, four columns of a row lie together, those
of 64 rows side by side: 256 bytes. In those of 4 bits such 256 bytes have eight columns, the first four in the lower
halves. N is filled up with weights that count as zero.
"""

from .packed import PANEL
from ..utils.simd import largest_magnitude, nearest
from ..utils.types import ReadPtr, WritePtr

comptime QUADS = 4 * PANEL
"""Bytes of the values of a panel's rows that are read in one step."""


@fieldwise_init
struct QuantizedMatrix[bits: Int, offsets: Bool](TrivialRegisterPassable):
    """A packed matrix.

    Parameters:
        bits: Of a weight, 8 or 4.
        offsets: Whether w = scale * value - offset; else w = scale * (value - 2 ** (bits - 1)).
    """

    var data: ReadPtr[DType.uint8]
    var rows: Int
    var groups: Int
    """Groups in a row."""
    var group: Int
    """Columns in a group."""

    @staticmethod
    def block_bytes(group: Int) -> Int:
        """Bytes of the values, scales and offsets of a panel's rows in one group."""
        return PANEL * group * Self.bits // 8 + 2 * PANEL * (2 if Self.offsets else 1)

    @always_inline
    def block(self, panel: Int, group: Int) -> ReadPtr[DType.uint8]:
        """The block of a panel and a group."""
        return self.data.unsafe_offset((panel * self.groups + group) * Self.block_bytes(self.group))

    @always_inline
    def scales(self, block: ReadPtr[DType.uint8]) -> ReadPtr[DType.float16]:
        """The 64 scales of a block; its offsets follow."""
        return block.unsafe_offset(PANEL * self.group * Self.bits // 8).unsafe_bitcast[Float16]()


@fieldwise_init
struct QuantizedRows(TrivialRegisterPassable):
    """Rows of x[M, K] as int8."""

    var values: ReadPtr[DType.int8]
    """[M, K]."""
    var scales: ReadPtr[DType.float32]
    """[M, groups, 2]: what a unit stands for, and the sum of the group in those units times that."""
    var columns: Int
    var groups: Int

    @always_inline
    def row(self, m: Int) -> Self:
        """From row m on."""
        return {
            self.values.unsafe_offset(m * self.columns),
            self.scales.unsafe_offset(2 * m * self.groups),
            self.columns,
            self.groups,
        }


def quantize_row(
    values: WritePtr[DType.int8], scales: WritePtr[DType.float32], x: ReadPtr[DType.float32], groups: Int, group: Int
):
    """Rounds a row to 127 steps of each sign, in groups of columns that share a scale.

    Args:
        values: [groups * group], written.
        scales: [groups, 2], written; see `QuantizedRows`.
        x: [groups * group].
        groups: Groups in a row.
        group: Columns in a group, a multiple of 16.
    """
    for g in range(groups):
        var scale = quantize_group(values.unsafe_offset(g * group), x.unsafe_offset(g * group), group, group, group)
        scales[unsafe_offset=2 * g] = scale.unit
        scales[unsafe_offset=2 * g + 1] = scale.sum


@fieldwise_init
struct GroupScale(TrivialRegisterPassable):
    """Of a group of x."""

    var unit: Float32
    """What a unit stands for."""
    var sum: Float32
    """The sum of the group in units, times that."""


@always_inline
def quantize_group(
    values: WritePtr[DType.int8], x: ReadPtr[DType.float32], group: Int, piece: Int, stride: Int
) -> GroupScale:
    """Rounds a group to 127 steps of each sign.

    Args:
        values: Where its first numbers are written.
        x: [group].
        group: Numbers, a multiple of `piece`.
        piece: Numbers that are written one after the other, a multiple of 16.
        stride: Bytes from the first number of such a piece to that of the next.

    Returns:
        Its scale.
    """
    comptime width = 16
    var largest = largest_magnitude(x, group)
    var inverse = Float32(127) / largest if largest > 0 else Float32(0)
    var sums = SIMD[DType.int32, width](0)
    for first in range(0, group, piece):
        var place = values.unsafe_offset(first // piece * stride)
        for i in range(0, piece, width):
            var steps = nearest[width](x.unsafe_load[width=width](first + i), inverse)
            sums += steps
            place.unsafe_store(i, steps.cast[DType.int8]())
    var unit = largest / 127
    return {unit, unit * sums.reduce_add().cast[DType.float32]()}
