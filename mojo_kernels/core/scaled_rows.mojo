"""Rows of float16 or int16 numbers that share scales, and the matrices they are multiplied with.

Float16: every row is divided by a power of two that brings its largest number between 16 and 32. Then sums of 32
products stay within float16, and numbers down to 2^-19 of the largest keep all of their eleven bits.

Int16: of x, each group of 128 columns has a scale, and its largest number is 4095; of a matrix, each row has a power of
two, which leaves numbers up to 4096. So sums of a group's products stay within int32, and are exact. A bfloat16
down to 2^-4 of its row's largest keeps all of its eight bits.

Columns come in pairs, which one broadcast copies together. A matrix w[N, K] is packed as [N / 64, K / 2 + 1, 128]: the
pairs of 64 rows side by side, pair after pair, and then the 64 powers of two as float32. N and K are filled up with
zeros.
"""

from std.math import ceildiv
from std.memory import bitcast

from .float_rows import Columns
from .packed import PANEL
from ..utils.simd import largest_magnitude, nearest
from ..utils.types import ReadPtr, WritePtr

comptime LARGEST_EXPONENT = 4
"""The largest float16 of a row lies between 2 to the power of this and twice that."""
comptime LARGEST_WORD = Float32(4095)
"""The largest int16 of a group of x: 128 times 4096 times this is below 2^31."""
comptime GROUP = 128
"""Columns of such a group."""
comptime PAIRS = 2 * PANEL
"""Numbers of a panel's rows in a pair of columns; their scales take as many bytes."""
comptime LARGE_BLOCK = 6
"""Most rows that lie together, and of a register tile: so many need the fewest loads."""
comptime SMALL_BLOCK = 4
"""Likewise, of up to `FEW` rows, whose tiles wait for memory, and share the asking better where they are alike."""
comptime FEW = 16
comptime WHOLE_BLOCKS = SMALL_BLOCK * LARGE_BLOCK // 2
"""Rows of which there are whole blocks, of either size."""
comptime WIDE = 16
"""Float32 numbers that are rounded at once."""


@fieldwise_init
struct ScaledRows[dtype: DType](TrivialRegisterPassable):
    """Rows of x[M, K], as pairs [M / B, K / 2, B]; the last block has just the rows that there are.

    Their scales, float32 [M] or [M, K / 128], lie behind. For K of two and more, all takes no more memory than x in
    float32.

    Parameters:
        dtype: Float16 or int16.
    """

    var data: ReadPtr[DType.uint32]
    var rows: Int
    var columns: Int

    @always_inline
    def pairs(self) -> Int:
        """Pairs of a row."""
        return ceildiv(self.columns, 2)

    @always_inline
    def groups(self) -> Int:
        """Scales of a row."""
        return scale_groups[Self.dtype](self.columns)

    @always_inline
    def scales(self, m: Int) -> WritePtr[DType.float32]:
        """What row m's numbers, group by group, are multiplied with to have x again."""
        var scales = self.data.unsafe_mut_cast[True]().unsafe_offset(self.rows * self.pairs())
        return scales.unsafe_bitcast[Float32]().unsafe_offset(m * self.groups())

    @always_inline
    def block(self) -> Int:
        """Rows of a block, B."""
        return SMALL_BLOCK if self.rows <= FEW else LARGE_BLOCK

    @always_inline
    def tile(self, m: Int) -> ScaledTile:
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
        comptime if Self.dtype == DType.float16:
            var scale, inverse = row_scale[LARGEST_EXPONENT](x, self.columns)
            self.scales(m)[] = scale
            _ = self.put_pairs(m, {0, self.columns}, x, inverse)
        else:
            self.put_groups(m, {0, self.columns}, x)

    def put_groups(self, m: Int, part: Columns, x: ReadPtr[DType.float32]):
        """Writes some columns of row m, as int16.

        Args:
            m: Number of the row.
            part: The columns, whole groups, or up to the last.
            x: The first of them.
        """
        comptime assert Self.dtype == DType.int16, "float16 has a scale for a row"
        for begin in range(part.begin, part.end, GROUP):
            var here = x.unsafe_offset(begin - part.begin)
            var count = min(GROUP, part.end - begin)
            var largest = largest_magnitude(here, count)
            var inverse = LARGEST_WORD / largest if largest > 0 else Float32(0)
            var wrong = self.put_pairs(m, {begin, begin + count}, here, inverse)
            self.scales(m)[unsafe_offset=begin // GROUP] = largest / LARGEST_WORD + wrong

    @always_inline
    def put_pairs(self, m: Int, part: Columns, x: ReadPtr[DType.float32], inverse: Float32) -> Float32:
        """Writes some columns of row m, from an even one on, times `inverse`; returns NaN if one is not finite, else 0.
        """
        var tile = self.tile(m)
        var target = tile.data.unsafe_mut_cast[True]()
        var differences = SIMD[DType.float32, WIDE](0)
        var k = part.begin
        while k + WIDE <= part.end:
            var numbers = x.unsafe_load[width=WIDE](k - part.begin)
            differences += numbers - numbers
            var pairs = bitcast[DType.uint32, WIDE // 2](scaled_numbers[Self.dtype, WIDE](numbers, inverse))
            comptime for i in range(WIDE // 2):
                target[unsafe_offset=(k // 2 + i) * tile.stride] = pairs[i]
            k += WIDE
        var wrong = differences.reduce_add()
        while k < part.end:
            var second = x[unsafe_offset=k + 1 - part.begin] if k + 1 < part.end else Float32(0)
            var numbers = SIMD[DType.float32, 2](x[unsafe_offset=k - part.begin], second)
            wrong += (numbers - numbers).reduce_add()
            var pair = bitcast[DType.uint32, 1](scaled_numbers[Self.dtype, 2](numbers, inverse))
            target[unsafe_offset=k // 2 * tile.stride] = pair[0]
            k += 2
        return wrong


@fieldwise_init
struct ScaledTile(TrivialRegisterPassable):
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
def scale_groups[dtype: DType](columns: Int) -> Int:
    """Scales of a row of x."""
    return 1 if dtype == DType.float16 else ceildiv(columns, GROUP)


@always_inline
def scaled_numbers[dtype: DType, width: Int](x: SIMD[DType.float32, width], factor: Float32) -> SIMD[dtype, width]:
    """The numbers of a type nearest to x * factor."""
    comptime if dtype == DType.float16:
        return (x * factor).cast[dtype]()
    else:
        return nearest[width](x, factor).cast[dtype]()


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
def scaled_panel_size(columns: Int) -> Int:
    """Numbers of a panel, its scales among them."""
    return (ceildiv(columns, 2) + 1) * PAIRS


@always_inline
def panel_scales(panel: ReadPtr[...], columns: Int) -> ReadPtr[DType.float32]:
    """The scales of a panel's rows."""
    return panel.unsafe_offset(ceildiv(columns, 2) * PAIRS).unsafe_bitcast[Float32]()
