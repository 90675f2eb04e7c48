"""The output of a linear layer in tiles: which of them a block has, and how its threads write it."""

from max.gpu import block_idx
from std.math import ceildiv
from std.sys import size_of

from .block import GpuWrite

comptime SUPER = 8
"""Row tiles that go over all outputs together, so that what they read of w is still in the L2 cache."""


@always_inline
def tile_place[tile_rows: Int, tile_outputs: Int](rows: Int, outputs: Int) -> Tuple[Int, Int]:
    """The first row and the first output of this block's tile of y[rows, outputs]."""
    var row_tiles, output_tiles = ceildiv(rows, tile_rows), ceildiv(outputs, tile_outputs)
    var above = block_idx.x // (SUPER * output_tiles) * SUPER
    var height = min(SUPER, row_tiles - above)
    var within = block_idx.x % (SUPER * output_tiles)
    return (above + within % height) * tile_rows, within // height * tile_outputs


@always_inline
def store_pair[
    y_type: DType
](y: GpuWrite[y_type], row: Int, output: Int, rows: Int, outputs: Int, pair: SIMD[DType.float32, 2]):
    """Writes two outputs of a row that lie side by side, as far as they are there."""
    var at = row * outputs + output
    if row < rows and output + 1 < outputs and outputs % 2 == 0:
        y.unsafe_store[alignment=2 * size_of[y_type]()](at, pair.cast[y_type]())
    elif row < rows:
        comptime for i in range(2):
            if output + i < outputs:
                y[unsafe_offset=at + i] = pair[i].cast[y_type]()
