"""A block of attention in vector registers; see `attention_tile.mojo` and `products.mojo`."""

from std.math import ceildiv, fma

from ..memory.block import BLOCK, PANELS
from ..memory.kv_cache import PANEL, has_scales
from ..utils.types import ReadPtr, untracked
from .attention_tile import Tile
from .products import (
    FETCHING_ROWS,
    LANES,
    ONE_PASS,
    SCORED,
    Vector16,
    add_products,
    sum_type,
    tile_rows,
    tile_vectors,
)

comptime EXACT = 4
"""Panels of an int16 cache whose weighted values are summed exactly."""


def add_block_by_vectors[
    cache_type: DType, query_type: DType, head_dim: Int, //
](mut tile: Tile[cache_type, query_type, head_dim], index: Int):
    """Computes a block, and merges it with what was added to the tile before; blocks come in order."""
    var start = index * BLOCK
    var first = tile.find(index)
    var panels = tile.block.panels
    for panel in range(0, panels, SCORED):
        for head in range(tile.heads):
            score_rows(tile, head, first, panel, start)
    tile.weigh[scaled=True](first, start)
    # Several heads take turns sooner, so that what lies together in pages is read together; and so do the columns of a
    # few rows, which wait for memory. Of an int16 cache, sums of more positions would not fit an integer.
    var step = PANELS if tile.heads == 1 and tile.rows > FETCHING_ROWS else SCORED
    comptime if type_of(tile).exact:
        step = EXACT
    for panel in range(0, panels, step):
        for head in range(tile.heads):
            add_value_rows(tile, head, first, panel, min(panel + step, panels), start)


@always_inline
def score_rows(mut tile: Tile[...], head: Int, first: Int, panel: Int, start: Int):
    """Scores of a head's rows from `first` on over some panels, as many at a time as registers allow."""
    comptime operand = type_of(tile).operand
    var row = first
    while row < tile.rows:
        comptime for rows in [tile_rows[operand](), 2, 1]:
            if tile.rows - row >= rows:
                comptime vectors = tile_vectors[operand]() if rows > 2 else SCORED
                comptime for next in range(0, SCORED, vectors):
                    if tile.limit[row + rows - 1] > start + (panel + next) * PANEL:
                        score[rows, vectors](tile, head, row, panel + next)
                row += rows
                break


@always_inline
def add_value_rows(mut tile: Tile[...], head: Int, first: Int, begin: Int, end: Int, start: Int):
    """Adds the values of some panels to a head's rows from `first` on, likewise."""
    comptime width = type_of(tile).width
    comptime operand = type_of(tile).operand
    var row = first
    while row < tile.rows:
        comptime for rows in [tile_rows[operand](), 2, 1]:
            if tile.rows - row >= rows:
                comptime vectors = min(width, tile_vectors[operand]() if rows > 2 else ONE_PASS)
                var visible = tile.limit[row + rows - 1] - start
                for column in range(0, width, vectors):
                    add_values[rows, vectors](tile, head, row, column, begin, end, visible)
                row += rows
                break


@always_inline
def score[
    cache_type: DType, query_type: DType, head_dim: Int, //, rows: Int, vectors: Int
](mut tile: Tile[cache_type, query_type, head_dim], head: Int, row: Int, panel: Int):
    """Computes the scores of `rows` rows over as many panels as there are vectors."""
    comptime pair = type_of(tile).pair
    comptime operand = type_of(tile).operand
    var first = head * tile.rows + row
    var acc = Array[SIMD[sum_type[cache_type](), LANES], rows * vectors](fill=0)
    var keys = Array[ReadPtr[cache_type], vectors](fill=tile.block.keys[panel])
    var values = keys.copy()
    comptime for v in range(vectors):
        # Where the block has no panel, any stands in: what it gives is masked.
        var index = min(panel + v, tile.block.panels - 1)
        keys[v] = tile.block.keys[index].unsafe_offset(head * tile.block.head_stride)
        values[v] = tile.block.values[index].unsafe_offset(head * tile.block.head_stride)
    var q = untracked(tile.queries.unsafe_ptr().unsafe_bitcast[Scalar[operand]]())
    add_products[rows, vectors](
        acc,
        q.unsafe_offset(first * head_dim),
        head_dim,
        keys,
        LANES * pair,
        head_dim // pair,
        values,
        LANES * pair,
    )
    var scores = untracked(tile.scores.unsafe_ptr().unsafe_bitcast[Float32]())
    comptime for r in range(rows):
        comptime for v in range(vectors):
            var s = acc[r * vectors + v].cast[DType.float32]() * tile.query_scale[first + r]
            comptime if has_scales[cache_type]():
                s *= tile.block.key_scales(min(panel + v, tile.block.panels - 1), head)
            scores.unsafe_store((first + r) * BLOCK + (panel + v) * PANEL, s)


@always_inline
def add_values[
    cache_type: DType, query_type: DType, head_dim: Int, //, rows: Int, vectors: Int
](
    mut tile: Tile[cache_type, query_type, head_dim],
    head: Int,
    row: Int,
    column: Int,
    begin: Int,
    end: Int,
    visible: Int,
):
    """Adds the weighted values of panels `begin` to `end` for `rows` rows, that see `visible` of the block.

    The block's last panels are followed by its merger with the totals. Only `vectors` vectors of the values are added,
    from vector `column` on.
    """
    comptime pair = type_of(tile).pair
    comptime operand = type_of(tile).operand
    comptime step = LANES * pair
    var first = head * tile.rows + row
    var x = untracked(tile.weights.unsafe_ptr().unsafe_bitcast[Scalar[operand]]())
    comptime kept = type_of(tile).kept
    var sums = untracked(tile.sums.unsafe_ptr().unsafe_bitcast[Scalar[kept]]())
    var total = untracked(tile.total.unsafe_ptr().unsafe_bitcast[Float32]())
    var place = first * head_dim + column * LANES
    var acc = Array[SIMD[sum_type[cache_type](), LANES], rows * vectors](fill=0)
    comptime exact = type_of(tile).exact
    if begin > 0 and not exact:
        comptime for r in range(rows):
            comptime for v in range(vectors):
                var before = sums.unsafe_load[width=LANES](place + r * head_dim + v * LANES)
                acc[r * vectors + v] = before.cast[sum_type[cache_type]()]()
    for panel in range(begin, min(end, ceildiv(visible, PANEL))):
        var source = tile.block.values[panel].unsafe_offset(head * tile.block.head_stride + column * step)
        var values = Array[ReadPtr[cache_type], vectors](fill=source)
        # A panel's columns have a share each of one that is needed later.
        var upcoming = tile.block.upcoming[panel].unsafe_offset(head * tile.block.head_stride + column * LANES * PANEL)
        var later = Array[ReadPtr[cache_type], vectors](fill=upcoming)
        comptime for v in range(vectors):
            values[v] = source.unsafe_offset(v * step)
            later[v] = upcoming.unsafe_offset(v * step)
        add_products[rows, vectors](
            acc,
            x.unsafe_offset(first * BLOCK + panel * PANEL),
            BLOCK,
            values,
            head_dim * pair,
            min(PANEL // pair, ceildiv(visible - panel * PANEL, pair)),
            later,
            vectors * step,
        )
    comptime for r in range(rows):
        comptime for v in range(vectors):
            var at = place + r * head_dim + v * LANES
            var sum = acc[r * vectors + v].cast[DType.float32]()
            comptime if exact:
                if begin > 0:
                    sum += sums.unsafe_load[width=LANES](at).cast[DType.float32]()
            if end < tile.block.panels:
                comptime if exact:
                    sums.unsafe_store(at, sum.cast[kept]())
                else:
                    sums.unsafe_store(at, acc[r * vectors + v].cast[kept]())
            else:
                var values = sum * tile.weight_scale[first + r]
                var decayed = total.unsafe_load[width=LANES](at) * tile.decay[first + r]
                total.unsafe_store(at, fma(values, Vector16(tile.gain[first + r]), decayed))
