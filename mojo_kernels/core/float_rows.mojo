"""Rows of float32 or bfloat16 as linear layers take them."""

from ..utils.isa import lanes, registers
from ..utils.simd import store_row
from ..utils.types import ReadPtr


def block_rows[isa: StaticString, dtype: DType]() -> Int:
    """Rows of a block, and most of a register tile; 0 where rows are multiplied as they are. Finding each row's next
    number by itself takes a tile of many float32 rows longer than multiplying it.
    """
    comptime if dtype != DType.float32 or lanes[isa]() < 8:
        return 0
    else:
        return 12 if registers[isa]() == 32 else 6


@fieldwise_init
struct Columns(TrivialRegisterPassable):
    """Columns from `begin` to before `end`."""

    var begin: Int
    var end: Int


@fieldwise_init
struct Rows[dtype: DType, block: Int](TrivialRegisterPassable):
    """Rows of x[M, K].

    Parameters:
        dtype: Float32 or bfloat16.
        block: B, where they lie as [M / B, K, B], so that a tile finds its numbers one after the other, and the last
            block has just the rows that there are; 0 where they lie as [M, K].
    """

    var data: ReadPtr[Self.dtype]
    var rows: Int
    var columns: Int

    @always_inline
    def tile(self, m: Int) -> RowTile[Self.dtype, Self.block]:
        """Row m and those that lie behind it."""
        comptime if Self.block > 0:
            var first = m // Self.block * Self.block
            return {self.data.unsafe_offset(first * self.columns + m - first), min(Self.block, self.rows - first)}
        else:
            return {self.data.unsafe_offset(m * self.columns), self.columns}

    def put(self, first: Int, x: ReadPtr[Self.dtype], x_stride: Int):
        """Writes the block that begins with row `first`.

        Args:
            first: A multiple of the block's rows.
            x: The block's rows.
            x_stride: Numbers from one of them to the next.
        """
        comptime assert Self.block > 0, "only blocks are written"
        var place = self.tile(first)
        var target = place.data.unsafe_mut_cast[True]()
        if place.stride == 1:
            store_row(target, x, self.columns)
            return
        if place.stride == Self.block:
            for k in range(self.columns):
                comptime for r in range(Self.block):
                    target[unsafe_offset=k * Self.block + r] = x[unsafe_offset=r * x_stride + k]
            return
        for k in range(self.columns):
            for r in range(place.stride):
                target[unsafe_offset=k * place.stride + r] = x[unsafe_offset=r * x_stride + k]


@fieldwise_init
struct RowTile[dtype: DType, block: Int](TrivialRegisterPassable):
    """Some rows of x, from a column on."""

    var data: ReadPtr[Self.dtype]
    var stride: Int
    """Numbers from one column of a block to the next; else from one row to the next."""

    @always_inline
    def get[tile: Int](self, r: Int, k: Int) -> Scalar[Self.dtype]:
        """The number in row r and column k of a tile of so many rows."""
        comptime if Self.block > 0:
            # A tile of so many rows is a whole block.
            return self.data[unsafe_offset = k * (tile if tile == Self.block else self.stride) + r]
        else:
            return self.data[unsafe_offset = r * self.stride + k]
