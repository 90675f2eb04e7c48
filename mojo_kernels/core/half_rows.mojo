"""Rows of float16 numbers that share a scale, and the matrices they are multiplied with.

Every row is divided by a power of two that brings its largest number between 16 and 32. Then sums of 32 products stay
within float16, and numbers down to 2^-19 of the largest keep all of their eleven bits. A matrix w[N, K] is packed as
[N / 64, K + 2, 64]: the numbers of 64 rows column by column, and behind them, where two columns more would be, the 64
powers of two as float32. N is filled up with zeros.
"""

from std.memory import bitcast

from .packed import PANEL
from ..utils.types import ReadPtr, WritePtr, untracked

comptime LARGEST_EXPONENT = 4
"""The largest number of a row lies between 2 to the power of this and twice that."""
comptime SCALE_COLUMNS = 2
"""Columns of float16 whose place the scales of a panel take."""
comptime HALF_BLOCK = 12
"""Rows that lie together, and most of a register tile."""
comptime VECTOR = 16


@fieldwise_init
struct HalfRows(TrivialRegisterPassable):
    """Rows of x[M, K], as [M / 12, K, 12]: each number is there twice, so that a float32's broadcast finds it.

    The last block has just the rows that there are. The rows' scales, float32 [M], lie behind.
    """

    var data: ReadPtr[DType.uint32]
    var rows: Int
    var columns: Int

    @staticmethod
    def size(columns: Int) -> Int:
        """Float32 numbers whose memory a row takes."""
        return columns + 1

    @always_inline
    def scales(self) -> WritePtr[DType.float32]:
        """What a row's numbers are multiplied with to have x again."""
        return self.data.unsafe_mut_cast[True]().unsafe_offset(self.rows * self.columns).unsafe_bitcast[Float32]()

    @always_inline
    def together(self, m: Int) -> Int:
        """Rows of the block that row m belongs to."""
        return min(HALF_BLOCK, self.rows - m // HALF_BLOCK * HALF_BLOCK)

    @always_inline
    def row(self, m: Int) -> ReadPtr[DType.uint32]:
        """The first number of row m; the next ones lie `together(m)` further each."""
        var first = m // HALF_BLOCK * HALF_BLOCK
        return self.data.unsafe_offset(first * self.columns + m - first)

    def put(self, first: Int, x: ReadPtr[DType.float32], x_stride: Int):
        """Writes the block that begins with row `first`.

        Args:
            first: A multiple of the block's rows.
            x: The block's rows.
            x_stride: Numbers from one of them to the next.
        """
        var stride = self.together(first)
        var target = self.row(first).unsafe_mut_cast[True]()
        var inverse = Array[Float32, HALF_BLOCK](fill=0)
        for r in range(stride):
            var unit, reciprocal = row_scale(x.unsafe_offset(r * x_stride), self.columns)
            self.scales()[unsafe_offset=first + r] = unit
            inverse[r] = reciprocal
        var room = Array[UInt32, HALF_BLOCK * VECTOR](uninitialized=True)
        var twice = untracked(room.unsafe_ptr())
        var k = 0
        while k + VECTOR <= self.columns:
            for r in range(stride):
                var numbers = x.unsafe_load[width=VECTOR](r * x_stride + k) * inverse[r]
                twice.unsafe_store(r * VECTOR, doubled[VECTOR](numbers))
            if stride == HALF_BLOCK:
                copy_columns[HALF_BLOCK](target.unsafe_offset(k * HALF_BLOCK), twice, HALF_BLOCK)
            else:
                copy_columns[0](target.unsafe_offset(k * stride), twice, stride)
            k += VECTOR
        while k < self.columns:
            for r in range(stride):
                var number = SIMD[DType.float32, 1](x[unsafe_offset=r * x_stride + k] * inverse[r])
                target[unsafe_offset=k * stride + r] = doubled[1](number)[0]
            k += 1
        _ = room^


@always_inline
def copy_columns[known: Int](target: WritePtr[DType.uint32], rows: ReadPtr[DType.uint32], count: Int):
    """Writes [16, rows] of [rows, 16]; how many rows there are may be known before."""
    for i in range(VECTOR):
        comptime if known > 0:
            comptime for r in range(known):
                target[unsafe_offset=i * known + r] = rows[unsafe_offset=r * VECTOR + i]
        else:
            for r in range(count):
                target[unsafe_offset=i * count + r] = rows[unsafe_offset=r * VECTOR + i]


@always_inline
def doubled[width: Int](x: SIMD[DType.float32, width]) -> SIMD[DType.uint32, width]:
    """Each number, rounded to float16, in both halves of 32 bits."""
    var bits = bitcast[DType.uint16, width](x.cast[DType.float16]()).cast[DType.uint32]()
    return bits | bits << 16


@always_inline
def row_scale(x: ReadPtr[DType.float32], columns: Int) -> Tuple[Float32, Float32]:
    """The power of two that a row is divided by, and one over it."""
    var most = SIMD[DType.float32, VECTOR](0)
    var k = 0
    while k + VECTOR <= columns:
        most = max(most, abs(x.unsafe_load[width=VECTOR](k)))
        k += VECTOR
    var largest = most.reduce_max()
    while k < columns:
        largest = max(largest, abs(x[unsafe_offset=k]))
        k += 1
    # Of a float32's bits, those of the exponent; far below what float16 tells from zero, any will do.
    var exponent = max(bitcast[DType.uint32, 1](largest) >> 23, LARGEST_EXPONENT + 1)
    return (
        bitcast[DType.float32, 1]((exponent - LARGEST_EXPONENT) << 23),
        bitcast[DType.float32, 1]((254 + LARGEST_EXPONENT - exponent) << 23),
    )


@fieldwise_init
struct HalfMatrix(TrivialRegisterPassable):
    """A packed matrix."""

    var data: ReadPtr[DType.float16]
    var columns: Int

    @staticmethod
    def panel_size(columns: Int) -> Int:
        """Float16 numbers of a panel."""
        return (columns + SCALE_COLUMNS) * PANEL

    @always_inline
    def panel(self, index: Int) -> ReadPtr[DType.float16]:
        """Where a panel begins."""
        return self.data.unsafe_offset(index * Self.panel_size(self.columns))

    @always_inline
    def scales(self, panel: ReadPtr[DType.float16]) -> ReadPtr[DType.float32]:
        """The scales of a panel's rows."""
        return panel.unsafe_offset(self.columns * PANEL).unsafe_bitcast[Float32]()
