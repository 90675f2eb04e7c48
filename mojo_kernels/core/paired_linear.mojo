"""A few rows of bfloat16 pairs against a panel that comes from memory.

The rows go through the panel chunk by chunk: memory delivers a chunk once, every tile but the first finds it in the L1
cache, and meanwhile the tiles ask for their shares of what comes some chunks later. Each output's sum runs over k in
the order of `linear_tile.mojo`, so it has the same bits.
"""

from std.math import ceildiv

from .float_rows import Rows
from .linear_tile import linear_tile
from .packed import ChunkAhead, LINE, PANEL, store_outputs
from ..utils.isa import ZEN4
from ..utils.types import ReadPtr, WritePtr, untracked

comptime CHUNK = 128 if ZEN4 else 64
"""Columns of a chunk."""
comptime AHEAD = 65536 if ZEN4 else 16384
"""Bytes that weights are asked for before they are needed: two chunks, or more where they wait in the L2 cache."""
comptime FEW_ROWS = 24
"""Most rows that take this way: the sums of more, written and read with every chunk, take longer than memory."""
comptime TILE_ROWS = 6
"""Most rows of a register tile."""
comptime LANES = 16
comptime VECTORS = PANEL // LANES
comptime LINES = 4 * PANEL // LINE
"""Cache lines of a pair of columns."""


def few_rows_of_pairs[
    isa: StaticString
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: Rows[DType.bfloat16, 0],
    w: ReadPtr[DType.bfloat16],
    outputs: Int,
    next: ReadPtr[DType.uint8],
):
    """Up to `FEW_ROWS` rows of x, more than one tile, against a panel; the arguments are those of `linear_panel`."""
    var bytes = ceildiv(x.columns, 2) * LINES * LINE
    var room = Array[Float32, FEW_ROWS * PANEL](uninitialized=True)
    var sums = untracked(room.unsafe_ptr())
    for begin in range(0, x.columns, CHUNK):
        var columns = min(CHUNK, x.columns - begin)
        var here = w.unsafe_offset(begin * PANEL)
        var ahead = ChunkAhead[LINES](w.unsafe_bitcast[UInt8](), bytes, 2 * begin * PANEL + AHEAD, next)
        var m = 0
        comptime for rows in [TILE_ROWS, 4, 2, 1]:
            while x.rows - m >= rows:
                var tile = x.tile(m)
                tile.data = tile.data.unsafe_offset(begin)
                var lines = ahead.share(ceildiv(x.rows - m, TILE_ROWS))
                comptime for asked in [0, 1, 2, LINES]:
                    if lines == asked:
                        linear_tile[isa, rows, VECTORS, asked=asked](
                            sums.unsafe_offset(m * PANEL),
                            PANEL,
                            tile,
                            here,
                            columns,
                            PANEL,
                            {ahead.take(lines, columns // 2), lines * LINE},
                            begin > 0,
                        )
                m += rows
    for r in range(x.rows):
        comptime for lane in range(0, PANEL, LANES):
            var row = sums.unsafe_load[width=LANES](r * PANEL + lane)
            store_outputs[LANES](y.unsafe_offset(r * y_stride), lane, row, outputs)
    _ = room^
