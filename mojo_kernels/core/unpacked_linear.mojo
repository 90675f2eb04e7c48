"""Linear layer of many float32 rows on weights of another type, which are brought into float32 once for all rows.

A stretch of a panel's columns is unpacked into the nearest caches, and all whole blocks of rows pass it; sums wait in y
from stretch to stretch. Each output's sum runs over k in the order of `linear_tile.mojo`, so it has the same bits.
"""

from std.math import ceildiv
from std.sys import size_of

from .float_rows import Rows
from .linear_tile import linear_tile, load_half, strip_steps, tile_vectors
from .packed import NextWeights, PANEL, pack_factor
from ..utils.isa import lanes, registers
from ..utils.types import ReadPtr, WritePtr, untracked

comptime MANY_ROWS = 24
"""Fewest rows for which unpacking first pays."""
comptime SHORT = 64
"""Columns that are unpacked at once for up to `SHORT_ROWS`: they stay in the nearest cache."""
comptime LONG = 1024
"""And for more, whose sums are many to read and write again."""
comptime SHORT_ROWS = 192


def unpacks[isa: StaticString, wtype: DType, block: Int]() -> Bool:
    """Whether many rows are multiplied with unpacked weights: where tiles are so fast that unpacking takes a tenth of
    their time.
    """
    return block > 0 and registers[isa]() == 32 and wtype != DType.float32


@always_inline
def unpack[isa: StaticString, wtype: DType](room: WritePtr[DType.float32], w: ReadPtr[wtype], columns: Int):
    """Writes columns of a panel as float32 [columns, 64]."""
    comptime width = lanes[isa]()
    comptime factor = pack_factor[wtype]()
    for k in range(0, columns, factor):
        comptime for lane in range(0, PANEL, width):
            comptime for half in range(factor):
                room.unsafe_store((k + half) * PANEL + lane, load_half[half, width](w.unsafe_offset(k * PANEL), lane))


def blocks_against_unpacked[
    isa: StaticString, wtype: DType, block: Int
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: Rows[DType.float32, block],
    w: ReadPtr[wtype],
    next: NextWeights,
) -> Int:
    """All whole blocks of rows against a panel, of which all lanes are outputs.

    Parameters:
        isa: Instructions.
        wtype: Type of the weights.
        block: How x lies in memory.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        w: The panel.
        next: The panel that is needed next.

    Returns:
        How many rows these are.
    """
    comptime vectors = tile_vectors[isa, block]()
    comptime width = vectors * lanes[isa]()
    comptime tiles = PANEL // width
    var rows = x.rows // block * block
    var room = Array[Float32, LONG * PANEL](uninitialized=True)
    var weights = untracked(room.unsafe_ptr().unsafe_mut_cast[True]())
    var stretch = SHORT if rows <= SHORT_ROWS else LONG
    for begin in range(0, x.columns, stretch):
        var columns = min(stretch, x.columns - begin)
        unpack[isa](weights, w.unsafe_offset(begin * PANEL), columns)
        # Each stretch asks for its part of the next panel.
        var part = NextWeights(next.start.unsafe_offset(begin * PANEL * size_of[wtype]()), next.stride)
        var shares = ceildiv(columns, strip_steps[block, block]())
        for m in range(0, rows, block):
            var here = x.tile(m)
            here.data = here.data.unsafe_offset(begin * block)
            comptime for i in range(tiles):
                comptime lane = i * width
                linear_tile[isa, block, vectors](
                    y.unsafe_offset(m * y_stride + lane),
                    y_stride,
                    here,
                    ReadPtr[DType.float32](weights).unsafe_offset(lane),
                    columns,
                    PANEL - lane,
                    part.part[block, tiles](m, i, rows, columns * PANEL * size_of[wtype](), shares),
                    begin > 0,
                )
    _ = room^
    return rows
