"""The tensor cores' m16n8k16 product of bfloat16 with float32 sums (PTX ISA, mma.sync; sm_80 and later).

Which lane holds what, with g = lane / 4 and t = lane % 4:
- sums C [16, 8]: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1);
- left operand A [16, 16]: pairs of columns at (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8);
- right operand B [16, 8]: pairs of rows at (2t, g), (2t + 8, g).
So the sums of two products side by side, rounded, are the left operand of the next.
"""

from max.gpu.compute.mma import ld_matrix, mma
from max.gpu.memory import AddressSpace

comptime Sums = SIMD[DType.float32, 4]
"""A lane's part of C."""
comptime Left = SIMD[DType.bfloat16, 8]
"""A lane's part of A."""
comptime Right = SIMD[DType.bfloat16, 4]
"""A lane's part of B."""
comptime SharedTile = MutPointer[BFloat16, _, address_space=AddressSpace.SHARED]
"""A tile of rows of bfloat16 in shared memory, laid out by `swizzled`."""


@always_inline
def product(a: Left, b: Right, c: Sums) -> Sums:
    """`a b + c`, by all lanes of a warp together."""
    var d = Sums(0)
    mma(d, a, b, c)
    return d


@always_inline
def swizzled[columns: Int](row: Int, chunk: Int) -> Int:
    """Where 8 columns of a row lie in a shared tile: eight rows of the same columns lie in different banks.

    Parameters:
        columns: Columns of the tile, a multiple of 64.

    Args:
        row: The row.
        chunk: The columns 8 * chunk to 8 * chunk + 7.

    Returns:
        The offset in elements.
    """
    return row * columns + ((chunk ^ (row & 7)) << 3)


@always_inline
def left_from_sums(first: Sums, second: Sums) -> Left:
    """The left operand whose columns 0 to 7 and 8 to 15 are the sums of two products."""
    return first.join(second).cast[DType.bfloat16]()


@always_inline
def left_of_rows[columns: Int](tile: SharedTile, row: Int, chunk: Int, lane: Int) -> Left:
    """The left operand of tile rows `row` to `row + 15` and 16 columns from 8 * chunk on.

    Parameters:
        columns: Columns of the tile.

    Args:
        tile: Shared memory.
        row: First row.
        chunk: First 8 columns.
        lane: This thread's place in its warp.
    """
    return ld_matrix[simd_width=8](tile.unsafe_offset(swizzled[columns](row + lane % 16, chunk + lane // 16)))


@always_inline
def right_of_rows[columns: Int](tile: SharedTile, row: Int, chunk: Int, lane: Int) -> SIMD[DType.bfloat16, 8]:
    """Two right operands: tile rows `row` to `row + 7` as columns of B, the tile's columns from 8 * chunk as its rows.

    Parameters:
        columns: Columns of the tile.

    Args:
        tile: Shared memory.
        row: First row.
        chunk: First 8 of 32 columns, 16 for each operand.
        lane: This thread's place in its warp.
    """
    return ld_matrix[simd_width=8](tile.unsafe_offset(swizzled[columns](row + lane % 8, chunk + lane // 8)))


@always_inline
def right_of_columns[columns: Int](tile: SharedTile, row: Int, chunk: Int, lane: Int) -> SIMD[DType.bfloat16, 8]:
    """Two right operands: tile rows `row` to `row + 15` as rows of B, eight columns each from 8 * chunk on.

    Parameters:
        columns: Columns of the tile.

    Args:
        tile: Shared memory.
        row: First of 16 rows.
        chunk: First 8 of 16 columns.
        lane: This thread's place in its warp.
    """
    return ld_matrix[simd_width=8, transpose=True](
        tile.unsafe_offset(swizzled[columns](row + lane % 16, chunk + lane // 16))
    )
