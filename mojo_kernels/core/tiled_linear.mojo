"""Linear layer in bfloat16 on Intel AMX: y = x @ w.T, on the panels of `packed.mojo`.

What a panel has at 16 pairs of columns is four tiles as it lies. Each output's sum runs over k in the same order for
any number of rows, one included, so a row's result never depends on the rows beside it (batch invariance).
"""

from .packed import LINE, NextWeights, PANEL, fetch_ahead, store_outputs
from ..utils.simd import WIDTH
from ..utils.tiles import (
    ROW_BYTES,
    TILE_LANES,
    TILE_ROWS,
    add_bfloat16,
    configure_tiles,
    load_tile,
    release_tiles,
    store_tile,
    zero_tile,
)
from ..utils.types import ReadPtr, WritePtr, untracked

comptime STEP = 32
"""Columns in a tile; those of x and w are a multiple of it."""
comptime PAIRS = STEP // 2
comptime STEP_BYTES = 2 * PANEL * 2
"""Bytes of a panel at one pair of columns."""
comptime BLOCK_ROWS = 2 * TILE_ROWS
"""Rows of x that share each load of weights."""
comptime STRETCH = 512
"""Columns over which half a panel stays in the nearest cache while many rows pass it."""


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

    def put(self, t: Int, x: ReadPtr[DType.float32]):
        """Writes row t of tiled rows."""
        comptime assert Self.tiled, "only tiled rows are written"
        var m = t - t % TILE_ROWS
        for k in range(0, self.columns, STEP):
            comptime for i in range(0, STEP, WIDTH):
                var rounded = x.unsafe_load[width=WIDTH](k + i).cast[DType.bfloat16]()
                self.tile(m, k).unsafe_mut_cast[True]().unsafe_store(t % TILE_ROWS * STEP + i, rounded)


@always_inline
def fetch_weights(w: ReadPtr[DType.bfloat16], bytes: Int, next: NextWeights, pair: Int):
    """Asks for `bytes` of each of a step's pairs some steps on, and for a share of the next panel."""
    for i in range(PAIRS):
        for line in range(0, bytes, LINE):
            fetch_ahead[LINE](w.unsafe_offset((i * STEP_BYTES + line) // 2))
        next.fetch(pair + i)


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
    tiled: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: TiledRows[tiled],
    m: Int,
    w: ReadPtr[DType.bfloat16],
    outputs: Int,
    next: NextWeights,
):
    """Up to 16 rows against a panel, which is read as one stream; tiles are configured for as many rows.

    Args:
        y: First output of the first of these rows.
        y_stride: Elements from one row of y to the next.
        x: All rows.
        m: The first of these, a multiple of 16.
        w: The panel.
        outputs: How many of its lanes are outputs.
        next: What to ask memory for meanwhile; with one row, memory has enough to do.
    """
    comptime tiles = PANEL // TILE_LANES
    comptime for v in range(tiles):
        zero_tile[v]()
    for k in range(0, x.columns, STEP):
        var here = w.unsafe_offset(k * PANEL)
        if x.rows > 1:
            fetch_weights(here, STEP_BYTES, next, k // 2)
        else:
            fetch_ahead[PAIRS * STEP_BYTES](here)
        load_tile[4](x.tile(m, k), x.stride())
        comptime for v in range(tiles):
            load_tile[6 + v % 2](here.unsafe_offset(v * STEP), STEP_BYTES)
            add_bfloat16[v, 4, 6 + v % 2]()
    comptime for v in range(tiles):
        var lane = v * TILE_LANES
        store_sums[v](y.unsafe_offset(lane), y_stride, x.block_rows(m), outputs - lane)


def block_of_rows[
    tiled: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: TiledRows[tiled],
    m: Int,
    w: ReadPtr[DType.bfloat16],
    outputs: Int,
    begin: Int,
    end: Int,
    next: NextWeights,
    fetch: Bool,
):
    """17 to 32 rows against half a panel, over some columns.

    Args:
        y: First output of the first row in this half.
        y_stride: Elements from one row of y to the next.
        x: All rows.
        m: The first of these, a multiple of 16.
        w: The panel, from the half's first lane on.
        outputs: How many of the half's lanes are outputs.
        begin: The first column; where that isn't 0, sums go on from what y has.
        end: The column after the last.
        next: What to ask memory for meanwhile.
        fetch: Whether to.
    """
    comptime for t in range(4):
        if begin == 0:
            zero_tile[t]()
        else:
            load_tile[t](y.unsafe_offset(t // 2 * TILE_ROWS * y_stride + t % 2 * TILE_LANES), 4 * y_stride)
    for k in range(begin, end, STEP):
        var here = w.unsafe_offset(k * PANEL)
        if fetch:
            fetch_weights(here, STEP_BYTES // 2, next, k // 2)
        comptime for v in range(2):
            load_tile[6 + v](here.unsafe_offset(v * STEP), STEP_BYTES)
        comptime for r in range(2):
            load_tile[4 + r](x.tile(m + r * TILE_ROWS, k), x.stride())
            comptime for v in range(2):
                add_bfloat16[2 * r + v, 4 + r, 6 + v]()
    comptime for t in range(4):
        var row = m + t // 2 * TILE_ROWS
        var lane = t % 2 * TILE_LANES
        store_sums[t](y.unsafe_offset((row - m) * y_stride + lane), y_stride, x.block_rows(row), outputs - lane)


def tiled_panel[
    tiled: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: TiledRows[tiled],
    w: ReadPtr[DType.bfloat16],
    outputs: Int,
    next: NextWeights,
):
    """All rows of x against a panel.

    Parameters:
        tiled: How x lies, see `TiledRows`.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows; their columns are a multiple of 32.
        w: The panel.
        outputs: How many of its lanes are outputs.
        next: The panel that is needed next.
    """
    comptime half = PANEL // 2
    var after = next.after(1, x.columns // 2, STEP_BYTES)
    var left = x.rows % BLOCK_ROWS
    var whole = x.rows - left

    def blocks(first: Int, last: Int, begin: Int, end: Int) {imm}:
        for lane in range(0, min(outputs, PANEL), half):
            for m in range(first, last, BLOCK_ROWS):
                block_of_rows(
                    y.unsafe_offset(m * y_stride + lane),
                    y_stride,
                    x,
                    m,
                    w.unsafe_offset(2 * lane),
                    outputs - lane,
                    begin,
                    end,
                    next if lane == 0 else after,
                    m == 0,
                )

    if whole > 0:
        configure_tiles(TILE_ROWS, TILE_ROWS)
        # Sums wait in y only where all lanes are outputs.
        var stretch = STRETCH if whole > BLOCK_ROWS and outputs >= PANEL else x.columns
        for begin in range(0, x.columns, stretch):
            blocks(0, whole, begin, min(begin + stretch, x.columns))
    if left > TILE_ROWS:
        configure_tiles(TILE_ROWS, left - TILE_ROWS)
        blocks(whole, x.rows, 0, x.columns)
    elif left > 0:
        configure_tiles(left, left)
        few_rows(y.unsafe_offset(whole * y_stride), y_stride, x, whole, w, outputs, next)
    release_tiles()
