"""Rows of float32 or bfloat16 as linear layers take them."""

from ..utils.types import ReadPtr

comptime ROWS = 6
"""Rows of a block, and most of a register tile."""


def takes_blocks[isa: StaticString]() -> Bool:
    """Whether rows of float32 are best multiplied from blocks: where an instruction multiplies few numbers, finding each
    row's next number by itself takes a sixth of the time.
    """
    return isa.startswith("avx2")


@fieldwise_init
struct Rows[dtype: DType, blocks: Bool](TrivialRegisterPassable):
    """Rows of x[M, K].

    Parameters:
        dtype: Float32 or bfloat16.
        blocks: Whether they lie as [M / 6, K, 6], where a tile finds its numbers one after the other, and the last block
            has just the rows that there are; else as [M, K].
    """

    var data: ReadPtr[Self.dtype]
    var rows: Int
    var columns: Int

    @always_inline
    def tile(self, m: Int) -> RowTile[Self.dtype, Self.blocks]:
        """Row m and those that lie behind it."""
        comptime if Self.blocks:
            var first = m // ROWS * ROWS
            return {self.data.unsafe_offset(first * self.columns + m - first), min(ROWS, self.rows - first)}
        else:
            return {self.data.unsafe_offset(m * self.columns), self.columns}

    def put(self, t: Int, x: ReadPtr[Self.dtype]):
        """Writes row t of blocks."""
        comptime assert Self.blocks, "only blocks are written"
        var place = self.tile(t)
        var target = place.data.unsafe_mut_cast[True]()
        for k in range(self.columns):
            target[unsafe_offset=k * place.stride] = x[unsafe_offset=k]


@fieldwise_init
struct RowTile[dtype: DType, blocks: Bool](TrivialRegisterPassable):
    """Some rows of x, from a column on."""

    var data: ReadPtr[Self.dtype]
    var stride: Int
    """Numbers from one column of a block to the next; else from one row to the next."""

    @always_inline
    def get[tile: Int](self, r: Int, k: Int) -> Scalar[Self.dtype]:
        """The number in row r and column k of a tile of so many rows."""
        comptime if Self.blocks:
            # A tile of six rows is a whole block.
            return self.data[unsafe_offset = k * (ROWS if tile == ROWS else self.stride) + r]
        else:
            return self.data[unsafe_offset = r * self.stride + k]
