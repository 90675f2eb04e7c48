"""The output of a linear layer in tiles: which of them a block has, and how its threads write it."""

from max.gpu import block_idx, lane_id
from std.math import ceildiv
from std.sys import size_of

from .block import GpuWrite, shuffle_xor

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
def store_pairs[
    y_type: DType
](
    y: GpuWrite[y_type],
    row: Int,
    output: Int,
    rows: Int,
    outputs: Int,
    first: SIMD[DType.float32, 2],
    second: SIMD[DType.float32, 2],
):
    """Writes the 16 outputs of a row that four lanes have, pairs of the first eight and of the second eight.

    Two lanes exchange pairs, so that each writes four outputs that lie side by side: the memory's sectors are whole.

    Args:
        y: [rows, outputs].
        row: The lane's row.
        output: The first of the 16.
        rows: Rows of y.
        outputs: Outputs of y.
        first: The lane's pair of the first eight.
        second: That of the second eight.
    """
    var lane = lane_id() % 4
    var odd = lane % 2 == 1
    var sent = first if odd else second
    var received = SIMD[DType.float32, 2](shuffle_xor(sent[0], 1), shuffle_xor(sent[1], 1))
    var quad = received.join(second) if odd else first.join(received)
    var from_output = output + (8 if odd else 0) + lane // 2 * 4
    var at = row * outputs + from_output
    if row < rows and from_output + 3 < outputs and outputs % 4 == 0:
        y.unsafe_store[alignment=4 * size_of[y_type]()](at, quad.cast[y_type]())
    elif row < rows:
        comptime for i in range(4):
            if from_output + i < outputs:
                y[unsafe_offset=at + i] = quad[i].cast[y_type]()
