"""Rows of float16 numbers that share a scale, and the matrices they are multiplied with.

Every row is divided by a power of two that brings its largest number between 16 and 32. Then sums of 32 products stay
within float16, and numbers down to 2^-19 of the largest keep all of their eleven bits. Columns come in pairs, which a
float32's broadcast copies together. A matrix w[N, K] is packed as [N / 64, K / 2 + 1, 128]: the pairs of 64 rows side
by side, pair after pair, and then the 64 powers of two as float32. N and K are filled up with zeros.
"""

from std.math import ceildiv
from std.memory import bitcast

from .packed import PANEL
from ..utils.isa import HALVES, Halves, add_halves
from ..utils.simd import largest_magnitude
from ..utils.types import ReadPtr, WritePtr

comptime LARGEST_EXPONENT = 4
"""The largest number of a row lies between 2 to the power of this and twice that."""
comptime PAIRS = 2 * PANEL
"""Numbers of a panel's rows in a pair of columns; their scales take as many bytes."""
comptime HALF_BLOCK = 6
"""Most rows that lie together, and of a register tile: so many need the fewest loads."""
comptime FEW_BLOCK = 4
"""Likewise, of up to `FEW` rows, whose tiles wait for memory, and share the asking better where they are alike."""
comptime FEW = 16
comptime HALF_BLOCKS = FEW_BLOCK * HALF_BLOCK // 2
"""Rows of which there are whole blocks, of either size."""
comptime WIDE = 16
"""Float32 numbers in a vector."""


@fieldwise_init
struct HalfRows(TrivialRegisterPassable):
    """Rows of x[M, K], as pairs [M / B, K / 2, B]; the last block has just the rows that there are.

    Their scales, float32 [M], lie behind. For K of two and more, all takes no more memory than x in float32.
    """

    var data: ReadPtr[DType.uint32]
    var rows: Int
    var columns: Int

    @always_inline
    def pairs(self) -> Int:
        """Pairs of a row."""
        return ceildiv(self.columns, 2)

    @always_inline
    def scales(self) -> WritePtr[DType.float32]:
        """What a row's numbers are multiplied with to have x again."""
        return self.data.unsafe_mut_cast[True]().unsafe_offset(self.rows * self.pairs()).unsafe_bitcast[Float32]()

    @always_inline
    def block(self) -> Int:
        """Rows of a block, B."""
        return FEW_BLOCK if self.rows <= FEW else HALF_BLOCK

    @always_inline
    def tile(self, m: Int) -> HalfTile:
        """Row m and those of its block that lie behind it."""
        var first = m // self.block() * self.block()
        var together = min(self.block(), self.rows - first)
        return {self.data.unsafe_offset(first * self.pairs() + m - first), first + together - m, together}

    def put(self, m: Int, x: ReadPtr[DType.float32]):
        """Writes row m.

        Args:
            m: Number of the row.
            x: [K].
        """
        var tile = self.tile(m)
        var target = tile.data.unsafe_mut_cast[True]()
        var scale, inverse = row_scale[LARGEST_EXPONENT](x, self.columns)
        self.scales()[unsafe_offset=m] = scale
        var k = 0
        while k + WIDE <= self.columns:
            var numbers = (x.unsafe_load[width=WIDE](k) * inverse).cast[DType.float16]()
            var pairs = bitcast[DType.uint32, WIDE // 2](numbers)
            comptime for i in range(WIDE // 2):
                target[unsafe_offset=(k // 2 + i) * tile.stride] = pairs[i]
            k += WIDE
        while k < self.columns:
            var second = x[unsafe_offset=k + 1] if k + 1 < self.columns else Float32(0)
            var numbers = SIMD[DType.float32, 2](x[unsafe_offset=k], second) * inverse
            target[unsafe_offset=k // 2 * tile.stride] = bitcast[DType.uint32, 1](numbers.cast[DType.float16]())[0]
            k += 2


@fieldwise_init
struct HalfTile(TrivialRegisterPassable):
    """Some rows of a block, from a pair of columns on."""

    var data: ReadPtr[DType.uint32]
    """The first row's pair; those of the others follow."""
    var rows: Int
    var stride: Int
    """From one pair to the next."""

    @always_inline
    def later(self, pairs: Int) -> Self:
        """The same rows so many pairs later."""
        return {self.data.unsafe_offset(pairs * self.stride), self.rows, self.stride}


@always_inline
def row_scale[largest_exponent: Int](x: ReadPtr[DType.float32], columns: Int) -> Tuple[Float32, Float32]:
    """A power of two, and one over it: divided by it, a row's largest number lies between 2 to the power of
    `largest_exponent` and twice that.
    """
    var largest = largest_magnitude(x, columns)
    # Of a float32's bits, those of the exponent, as far as a float32 holds both powers.
    var exponent = Int(bitcast[DType.uint32, 1](largest)[0] >> 23) - largest_exponent
    var bits = UInt32(min(max(exponent, 1), 253))
    return bitcast[DType.float32, 1](bits << 23)[0], bitcast[DType.float32, 1]((254 - bits) << 23)[0]


@always_inline
def half_panel_size(columns: Int) -> Int:
    """Float16 numbers of a panel, its scales among them."""
    return (ceildiv(columns, 2) + 1) * PAIRS


@always_inline
def panel_scales(panel: ReadPtr[DType.float16], columns: Int) -> ReadPtr[DType.float32]:
    """The scales of a panel's rows."""
    return panel.unsafe_offset(ceildiv(columns, 2) * PAIRS).unsafe_bitcast[Float32]()


@always_inline
def add_pair[
    rows: Int, vectors: Int
](
    mut acc: Array[Halves, rows * vectors],
    x: ReadPtr[DType.uint32],
    x_stride: Int,
    w: Array[ReadPtr[DType.float16], vectors],
    offset: Int,
):
    """Adds the products of a pair of each row with the pairs of each vector's lanes.

    Parameters:
        rows: Rows of x.
        vectors: Vectors of pairs.

    Args:
        acc: [rows, vectors].
        x: The first row's pair.
        x_stride: Pairs from one row to the next.
        w: The vectors.
        offset: Numbers from where `w` says to where they lie.
    """
    var wv = Array[Halves, vectors](fill=Halves(0))
    comptime for v in range(vectors):
        wv[v] = bitcast[DType.uint32, HALVES // 2](w[v].unsafe_load[width=HALVES](offset))
    comptime for r in range(rows):
        var xv = Halves(x[unsafe_offset=r * x_stride])
        comptime for v in range(vectors):
            acc[r * vectors + v] = add_halves(acc[r * vectors + v], xv, wv[v])
