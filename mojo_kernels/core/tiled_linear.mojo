"""Linear layer in bfloat16 on Intel AMX: y = x @ w.T, on the panels of `packed.mojo`.

What a panel has at 16 pairs of columns is four tiles as it lies. Each output's sum runs over k in the same order for
any number of rows, one included, so a row's result never depends on the rows beside it (batch invariance).
"""

from .float_rows import Columns
from .packed import ChunkAhead, LINE, NextWeights, PANEL, fetch_ahead, fetch_bytes, store_outputs
from ..utils.simd import WIDTH, rounded
from ..utils.tiles import (
    ROW_BYTES,
    TILE_LANES,
    TILE_ROWS,
    add_bfloat16,
    configure_tiles,
    load_tile,
    release_tiles,
    store_tile,
    stream_tile,
    zero_tile,
)
from ..utils.types import ReadPtr, WritePtr, untracked

comptime STEP = 32
"""Columns in a tile; those of x and w are a multiple of it."""
comptime PAIRS = STEP // 2
comptime STEP_BYTES = 2 * PANEL * 2
"""Bytes of a panel at one pair of columns."""
comptime STEP_LINES = PAIRS * STEP_BYTES // LINE
"""Cache lines of a panel at a tile's columns."""
comptime CHUNK = 256
"""Columns of a panel that stay in the nearest cache while a tile of rows after the other passes them."""
comptime PASS = 512
"""Most rows that pass a chunk together."""
comptime TILES = PANEL // TILE_LANES
"""Of sums: a tile of rows times a panel."""
comptime CLOSE = 2 * PANEL
"""Most elements between rows of y for sums to wait there: in rows further apart they meet in a few sets of a cache."""


def check_columns(columns: Int) raises:
    """Refuses matrices whose columns don't fill tiles."""
    if columns % STEP != 0:
        raise Error("AMX's tiles have ", STEP, " columns, which do not divide ", columns)


@fieldwise_init
struct TiledRows[tiled: Bool](TrivialRegisterPassable):
    """Rows of x[M, K] in bfloat16.

    Parameters:
        tiled: Whether they lie as [M / 16, K / 32, 16, 32], where tiles are found in one piece, and the last block has
            just the rows that there are; else as [M, K].
    """

    var data: ReadPtr[DType.bfloat16]
    var rows: Int
    var columns: Int

    @always_inline
    def block_rows(self, m: Int) -> Int:
        """Rows that lie together with row m, a multiple of 16."""
        return min(TILE_ROWS, self.rows - m)

    @always_inline
    def tile(self, m: Int, k: Int) -> ReadPtr[DType.bfloat16]:
        """The rows from m on, a multiple of 16, at the columns from k on."""
        comptime if Self.tiled:
            return self.data.unsafe_offset(m * self.columns + k * self.block_rows(m))
        else:
            return self.data.unsafe_offset(m * self.columns + k)

    @always_inline
    def stride(self) -> Int:
        """Bytes from one row of a tile to the next."""
        return ROW_BYTES if Self.tiled else 2 * self.columns

    def put(self, t: Int, part: Columns, x: ReadPtr[DType.float32]):
        """Writes some columns of row t of tiled rows."""
        comptime assert Self.tiled, "only tiled rows are written"
        var m = t - t % TILE_ROWS
        for k in range(part.begin, part.end, STEP):
            comptime for i in range(0, STEP, WIDTH):
                var numbers = rounded[DType.bfloat16, WIDTH](x.unsafe_load[width=WIDTH](k - part.begin + i))
                self.tile(m, k).unsafe_mut_cast[True]().unsafe_store(t % TILE_ROWS * STEP + i, numbers)


@always_inline
def store_sums[
    t: Int
](y: WritePtr[DType.float32], y_stride: Int, rows: Int, outputs: Int):
    """Stores a tile of sums, as far as its lanes are among the first `outputs`."""
    if outputs >= TILE_LANES:
        store_tile[t](y, 4 * y_stride)
        return
    var sums = Array[Float32, TILE_ROWS * TILE_LANES](uninitialized=True)
    var place = untracked(sums.unsafe_ptr())
    store_tile[t](place, ROW_BYTES)
    for r in range(rows):
        var row = place.unsafe_load[width=TILE_LANES](r * TILE_LANES)
        store_outputs[TILE_LANES](y.unsafe_offset(r * y_stride), 0, row, outputs)
    _ = sums^


def few_rows[
    tiled: Bool, fetches: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: TiledRows[tiled],
    m: Int,
    rows: Int,
    w: ReadPtr[DType.bfloat16],
    part: Columns,
    outputs: Int,
    next: NextWeights,
):
    """Up to 16 rows against a panel, which is read as one stream; tiles are configured for as many rows.

    Parameters:
        tiled: How x lies, see `TiledRows`.
        fetches: Whether the panel comes from memory.

    Args:
        y: First output of the first of these rows.
        y_stride: Elements from one row of y to the next.
        x: All rows.
        m: The first of these, a multiple of 16.
        rows: How many there are.
        w: The panel.
        part: The columns to multiply, whole tiles.
        outputs: How many of its lanes are outputs.
        next: What to ask memory for meanwhile; with one row, memory has enough to do.
    """
    comptime for v in range(TILES):
        if part.begin == 0:
            zero_tile[v]()
        else:
            load_tile[v](y.unsafe_offset(v * TILE_LANES), 4 * y_stride)
    for k in range(part.begin, part.end, STEP):
        var here = w.unsafe_offset(k * PANEL)
        comptime if fetches:
            fetch_ahead[STEP_LINES * LINE](here)
            if rows > 1:
                for pair in range(k // 2, k // 2 + PAIRS):
                    next.fetch(pair)
        load_tile[4](x.tile(m, k), x.stride())
        comptime for v in range(TILES):
            stream_tile[6 + v % 2](here.unsafe_offset(v * STEP), STEP_BYTES)
            add_bfloat16[v, 4, 6 + v % 2]()
    comptime for v in range(TILES):
        var lane = v * TILE_LANES
        store_sums[v](y.unsafe_offset(lane), y_stride, rows, outputs - lane)


@always_inline
def add_chunk[
    tiled: Bool
](
    x: ReadPtr[DType.bfloat16],
    x_stride: Int,
    w: ReadPtr[DType.bfloat16],
    steps: Int,
    asked: ReadPtr[DType.uint8],
    lines: Int,
):
    """Adds products of 16 rows with a chunk of a panel to tiles 0 to 3.

    Parameters:
        tiled: How x lies, see `TiledRows`.

    Args:
        x: The rows at the chunk.
        x_stride: Bytes from one of them to the next.
        w: The chunk.
        steps: Steps of 32 columns.
        asked: What to ask memory for meanwhile.
        lines: Cache lines of it in each step.
    """
    comptime x_step = STEP * (TILE_ROWS if tiled else 1)
    for step in range(steps):
        var here = w.unsafe_offset(step * STEP * PANEL)
        fetch_bytes(asked.unsafe_offset(step * lines * LINE), lines * LINE)
        stream_tile[4](x.unsafe_offset(step * x_step), x_stride)
        comptime for v in range(TILES):
            load_tile[5 + v % 3](here.unsafe_offset(v * STEP), STEP_BYTES)
            add_bfloat16[v, 4, 5 + v % 3]()


def many_rows[
    tiled: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: TiledRows[tiled],
    begin: Int,
    end: Int,
    w: ReadPtr[DType.bfloat16],
    part: Columns,
    outputs: Int,
    next: ReadPtr[DType.uint8],
    fetches: Bool,
):
    """Tiles of 16 rows against a panel, chunk by chunk: each finds the chunk's weights in the nearest cache.

    Parameters:
        tiled: How x lies, see `TiledRows`.

    Args:
        y: First output of the first of these rows.
        y_stride: Elements from one row of y to the next.
        x: All rows.
        begin: The first of these, a multiple of 16.
        end: The row after the last; all tiles are full.
        w: The panel.
        part: The columns to multiply, whole tiles.
        outputs: How many of its lanes are outputs.
        next: The part of a panel that is needed next.
        fetches: Whether to ask memory for it meanwhile.
    """
    var room = Array[Float32, PASS * PANEL](uninitialized=True)
    var in_place = y_stride <= CLOSE and outputs >= PANEL
    var sums = y if in_place else untracked(room.unsafe_ptr())
    var stride = y_stride if in_place else PANEL
    comptime for v in range(TILES):
        if part.begin == 0:
            zero_tile[v]()
        else:
            load_tile[v](sums.unsafe_offset(v * TILE_LANES), 4 * stride)
    for k in range(part.begin, part.end, CHUNK):
        var steps = min(CHUNK, part.end - k) // STEP
        var last = k + CHUNK >= part.end
        var ahead = ChunkAhead[STEP_LINES](next.unsafe_offset(2 * (k - part.begin) * PANEL))
        if not fetches:
            ahead.left = 0
        for m in range(begin, end, TILE_ROWS):
            var lines = ahead.share((end - m) // TILE_ROWS)
            var asked = ahead.take(lines, steps)
            add_chunk[tiled](x.tile(m, k), x.stride(), w.unsafe_offset(k * PANEL), steps, asked, lines)
            var place = sums.unsafe_offset((m - begin) * stride)
            var following = place.unsafe_offset(TILE_ROWS * stride) if m + TILE_ROWS < end else sums
            var fresh = k == 0 and m + TILE_ROWS < end
            # Tiles are stored and filled again by turns: else products wait for all stores, and then for all loads.
            comptime for v in range(TILES):
                comptime lane = v * TILE_LANES
                if last and not in_place:
                    store_sums[v](y.unsafe_offset((m - begin) * y_stride + lane), y_stride, TILE_ROWS, outputs - lane)
                else:
                    store_tile[v](place.unsafe_offset(lane), 4 * stride)
                if fresh:
                    zero_tile[v]()
                else:
                    load_tile[v](following.unsafe_offset(lane), 4 * stride)
    _ = room^


def tiled_panel[
    tiled: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: TiledRows[tiled],
    first: Int,
    rows: Int,
    w: ReadPtr[DType.bfloat16],
    part: Columns,
    outputs: Int,
    next: NextWeights,
):
    """Rows of x against a panel, or a part of it.

    Parameters:
        tiled: How x lies, see `TiledRows`.

    Args:
        y: First output of the first of the rows; row r of them begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: All rows; their columns are a multiple of 32.
        first: The first of those to multiply, a multiple of 16.
        rows: How many: a multiple of 16, or all that are left.
        w: The panel.
        part: The columns to multiply, whole tiles; where they don't begin with the first, they add to sums that are in
            y, whose rows are close then, and all lanes outputs.
        outputs: How many of its lanes are outputs.
        next: The panel, or part of one, that is needed next.
    """
    if rows < 2 * TILE_ROWS:
        for m in range(0, rows, TILE_ROWS):
            var count = min(TILE_ROWS, rows - m)
            configure_tiles(count, count)
            few_rows[fetches=True](y.unsafe_offset(m * y_stride), y_stride, x, first + m, count, w, part, outputs, next)
        release_tiles()
        return
    var left = rows % TILE_ROWS
    configure_tiles(TILE_ROWS, TILE_ROWS)
    for m in range(0, rows - left, PASS):
        var end = first + min(m + PASS, rows - left)
        var to = y.unsafe_offset(m * y_stride)
        many_rows(to, y_stride, x, first + m, end, w, part, outputs, next.start, m == 0)
    if left > 0:
        configure_tiles(left, left)
        var m = rows - left
        few_rows[fetches=False](y.unsafe_offset(m * y_stride), y_stride, x, first + m, left, w, part, outputs, next)
    release_tiles()
