"""A block of attention in bfloat16 on Intel AMX: up to 16 query rows at once against panels of the KV cache.

Each score and each sum of values adds its products in one order for any number of rows, so a row's result never depends
on the rows beside it (batch invariance).
"""

from std.math import ceildiv, fma

from ..memory.block import BLOCK, PANELS
from ..memory.kv_cache import PANEL
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
from .attention_tile import Tile
from .products import LANES, Vector16

comptime STEP = 32
"""Dimensions of a tile of queries."""
comptime TOGETHER = 4
"""Tiles of sums that are filled at once."""
comptime PAIRS = PANEL // 2
"""Rows of a tile of values: pairs of positions."""


def add_block_by_amx[head_dim: Int](mut tile: Tile[DType.bfloat16, DType.bfloat16, head_dim], index: Int):
    """Computes a block, and merges it with what was added to the tile before; blocks come in order."""
    var start = index * BLOCK
    var first = tile.find(index)
    compute_scores(tile, first, start)
    tile.weigh[scaled=False](first, start)
    add_values(tile, first, start)
    release_tiles()


@always_inline
def compute_scores[
    head_dim: Int, //
](mut tile: Tile[DType.bfloat16, DType.bfloat16, head_dim], first: Int, start: Int):
    """Products of queries and keys; a head's rows see some of the block from `first` on."""
    var queries = untracked(tile.queries.unsafe_ptr().unsafe_bitcast[BFloat16]())
    var scores = untracked(tile.scores.unsafe_ptr().unsafe_bitcast[Float32]())
    var configured = 0
    for panel in range(0, tile.block.panels, TOGETHER):
        for head in range(tile.heads):
            for row in range(first, tile.rows, TILE_ROWS):
                var count = min(TILE_ROWS, tile.rows - row)
                if tile.limit[row + count - 1] <= start + panel * PANEL:
                    continue
                if configured != count:
                    configure_tiles(count, count)
                    configured = count
                var r = head * tile.rows + row
                comptime for v in range(TOGETHER):
                    zero_tile[v]()
                comptime for d in range(0, head_dim, STEP):
                    load_tile[4](queries.unsafe_offset(r * head_dim + d), 2 * head_dim)
                    comptime for v in range(TOGETHER):
                        # Where the block has no panel, any stands in: what it gives is masked.
                        var keys = tile.block.keys[min(panel + v, tile.block.panels - 1)]
                        load_tile[6 + v % 2](
                            keys.unsafe_offset(head * tile.block.head_stride + d * PANEL), ROW_BYTES
                        )
                        add_bfloat16[v, 4, 6 + v % 2]()
                comptime for v in range(TOGETHER):
                    store_tile[v](scores.unsafe_offset(r * BLOCK + (panel + v) * PANEL), 4 * BLOCK)


@always_inline
def add_values[
    head_dim: Int, //
](mut tile: Tile[DType.bfloat16, DType.bfloat16, head_dim], first: Int, start: Int):
    """Adds the block's values, weighted, to the totals."""
    var weights = untracked(tile.weights.unsafe_ptr().unsafe_bitcast[BFloat16]())
    var sums = untracked(tile.sums.unsafe_ptr().unsafe_bitcast[Float32]())
    var last = Array[BFloat16, PANEL * head_dim](uninitialized=True)
    var panels = Array[ReadPtr[DType.bfloat16], PANELS](uninitialized=True)
    var configured = 0
    for head in range(tile.heads):
        for panel in range(tile.block.panels):
            panels[panel] = tile.block.values[panel].unsafe_offset(head * tile.block.head_stride)
        var left = tile.block.count % PANEL
        if left > 0:
            var copy = untracked(last.unsafe_ptr())
            copy_positions[head_dim](copy, panels[tile.block.panels - 1], left)
            panels[tile.block.panels - 1] = copy
        for row in range(first, tile.rows, TILE_ROWS):
            var count = min(TILE_ROWS, tile.rows - row)
            if configured != count:
                configure_tiles(count, count, depth=PAIRS)
                configured = count
            var r = head * tile.rows + row
            var seen = ceildiv(min(BLOCK, tile.limit[row + count - 1] - start), PANEL)
            comptime for column in range(0, head_dim, TOGETHER * TILE_LANES):
                comptime for v in range(TOGETHER):
                    zero_tile[v]()
                for panel in range(seen):
                    load_tile[4](weights.unsafe_offset(r * BLOCK + panel * PANEL), 2 * BLOCK)
                    comptime for v in range(TOGETHER):
                        comptime lane = column + v * TILE_LANES
                        load_tile[6 + v % 2](panels[panel].unsafe_offset(2 * lane), 4 * head_dim)
                        add_bfloat16[v, 4, 6 + v % 2]()
                comptime for v in range(TOGETHER):
                    store_tile[v](sums.unsafe_offset(r * head_dim + column + v * TILE_LANES), 4 * head_dim)
            for i in range(r, r + count):
                comptime for d in range(head_dim // LANES):
                    var at = i * (head_dim // LANES) + d
                    var added = sums.unsafe_load[width=LANES](at * LANES)
                    tile.total[at] = fma(added, Vector16(tile.gain[i]), tile.total[at] * tile.decay[i])
    _ = last^


def copy_positions[
    head_dim: Int
](target: WritePtr[DType.bfloat16], values: ReadPtr[DType.bfloat16], positions: Int):
    """Copies the values of a panel's first positions, and of the one that shares a pair with the last of them.

    Zeros follow: nobody wrote what lies there, and zero times that may not be zero.
    """
    var written = ceildiv(positions, 2) * 2 * head_dim
    for i in range(0, PANEL * head_dim, LANES):
        var numbers = SIMD[DType.bfloat16, LANES](0)
        if i < written:
            numbers = values.unsafe_load[width=LANES](i)
        target.unsafe_store(i, numbers)
