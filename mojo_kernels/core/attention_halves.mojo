"""A block of attention in float16 on CPUs with AVX512-FP16; see `attention_tile.mojo`.

Queries, weights and the cache are float16; keys and values lie in pairs, whose numbers are summed apart until the end.
A lane sums at most 64 products of a score, or the values of 32 positions, in float16, and the latter's sums in float32.
That loses about as much as a cache of bfloat16 does by its rounding. Each lane adds its own products in one order for
any number of rows, so a row's result never depends on the rows beside it (batch invariance).
"""

from std.math import ceildiv, fma
from std.memory import bitcast

from ..memory.block import BLOCK
from ..memory.kv_cache import PANEL
from ..utils.isa import HALVES, Halves, put_halves
from ..utils.types import ReadPtr, WritePtr, untracked
from .attention_tile import Tile
from .products import LANES, Vector16
from .scaled_chunks import add_pair

comptime TOGETHER = 4
"""Panels whose scores are computed at once, and whose values are summed in float16."""
comptime ROWS = [6, 4, 2, 1]
"""Rows of register tiles, the largest first."""
comptime PAIRS = PANEL // 2
"""Pairs of positions of a panel."""


def add_block_by_halves[head_dim: Int, //](mut tile: Tile[DType.float16, DType.float32, head_dim], index: Int):
    """Computes a block, and merges it with what was added to the tile before; blocks come in order."""
    var start = index * BLOCK
    var first = tile.find(index)
    for panel in range(0, tile.block.panels, TOGETHER):
        for head in range(tile.heads):
            score_rows(tile, head, first, panel, start)
    tile.weigh[scaled=True](first, start)
    for panel in range(0, tile.block.panels, TOGETHER):
        for head in range(tile.heads):
            add_value_rows(tile, head, first, panel, start)


@always_inline
def score_rows[
    head_dim: Int, //
](mut tile: Tile[DType.float16, DType.float32, head_dim], head: Int, first: Int, panel: Int, start: Int):
    """Scores of a head's rows from `first` on over some panels, as many rows at a time as registers allow."""
    var row = first
    while row < tile.rows:
        comptime for rows in ROWS:
            if tile.rows - row >= rows:
                if tile.limit[row + rows - 1] > start + panel * PANEL:
                    score[rows](tile, head, row, panel)
                row += rows
                break


@always_inline
def add_value_rows[
    head_dim: Int, //
](mut tile: Tile[DType.float16, DType.float32, head_dim], head: Int, first: Int, panel: Int, start: Int):
    """Adds the values of some panels to a head's rows from `first` on, likewise."""
    var row = first
    while row < tile.rows:
        comptime for rows in ROWS:
            if tile.rows - row >= rows:
                comptime vectors = 4 if rows > 2 else head_dim // LANES
                var visible = tile.limit[row + rows - 1] - start
                for column in range(0, head_dim // LANES, vectors):
                    add_values[rows, vectors](tile, head, row, column, panel, visible)
                row += rows
                break


@always_inline
def put_parted(room: WritePtr[DType.float16], pairs: Halves):
    """Stores the first numbers of all pairs, and then the second ones."""
    var numbers = bitcast[DType.uint16, HALVES](pairs)
    var first, second = numbers.deinterleave()
    put_halves(room, bitcast[DType.uint32, HALVES // 2](first.join(second)))


@always_inline
def sum_of_parted(room: ReadPtr[DType.float16]) -> Vector16:
    """Adds the two numbers of each pair in float32."""
    var first = room.unsafe_load[width=LANES](0).cast[DType.float32]()
    return first + room.unsafe_load[width=LANES](LANES).cast[DType.float32]()


@always_inline
def score[
    head_dim: Int, //, rows: Int
](mut tile: Tile[DType.float16, DType.float32, head_dim], head: Int, row: Int, panel: Int):
    """Computes the scores of `rows` rows over some panels."""
    var first = head * tile.rows + row
    var keys = Array[ReadPtr[DType.float16], TOGETHER](fill=tile.block.keys[panel])
    comptime for v in range(TOGETHER):
        # Where the block has no panel, any stands in: what it gives is masked.
        var index = min(panel + v, tile.block.panels - 1)
        keys[v] = tile.block.keys[index].unsafe_offset(head * tile.block.head_stride)
    var q = untracked(tile.queries.unsafe_ptr().unsafe_bitcast[UInt32]()).unsafe_offset(first * head_dim // 2)
    var acc = Array[Halves, rows * TOGETHER](fill=Halves(0))
    for k in range(head_dim // 2):
        add_pair[rows, TOGETHER](acc, q.unsafe_offset(k), head_dim // 2, keys, k * HALVES)
    var halves = Array[Float16, rows * TOGETHER * HALVES](uninitialized=True)
    var room = untracked(halves.unsafe_ptr())
    comptime for i in range(rows * TOGETHER):
        put_parted(room.unsafe_offset(i * HALVES), acc[i])
    var scores = untracked(tile.scores.unsafe_ptr().unsafe_bitcast[Float32]())
    comptime for r in range(rows):
        comptime for v in range(TOGETHER):
            var s = sum_of_parted(room.unsafe_offset((r * TOGETHER + v) * HALVES)) * tile.query_scale[first + r]
            scores.unsafe_store((first + r) * BLOCK + (panel + v) * PANEL, s)
    _ = halves^


@always_inline
def add_values[
    head_dim: Int, //, rows: Int, vectors: Int
](
    mut tile: Tile[DType.float16, DType.float32, head_dim],
    head: Int,
    row: Int,
    column: Int,
    panel: Int,
    visible: Int,
):
    """Adds the weighted values of some panels from `panel` on for `rows` rows, that see `visible` of the block.

    The block's last panels are followed by its merger with the totals. Only `vectors` vectors of the values are added,
    from vector `column` on.
    """
    var first = head * tile.rows + row
    var end = min(panel + TOGETHER, tile.block.panels)
    var x = untracked(tile.weights.unsafe_ptr().unsafe_bitcast[UInt32]()).unsafe_offset(first * BLOCK // 2)
    var acc = Array[Halves, rows * vectors](fill=Halves(0))
    for p in range(panel, min(end, ceildiv(visible, PANEL))):
        var source = tile.block.values[p].unsafe_offset(head * tile.block.head_stride + column * HALVES)
        var values = Array[ReadPtr[DType.float16], vectors](fill=source)
        comptime for v in range(vectors):
            values[v] = source.unsafe_offset(v * HALVES)
        var weights = x.unsafe_offset(p * PAIRS)
        for k in range(min(PAIRS, ceildiv(visible - p * PANEL, 2))):
            add_pair[rows, vectors](acc, weights.unsafe_offset(k), BLOCK // 2, values, k * 2 * head_dim)
    var halves = Array[Float16, rows * vectors * HALVES](uninitialized=True)
    var room = untracked(halves.unsafe_ptr())
    comptime for i in range(rows * vectors):
        put_parted(room.unsafe_offset(i * HALVES), acc[i])
    var sums = untracked(tile.sums.unsafe_ptr().unsafe_bitcast[Float32]())
    var total = untracked(tile.total.unsafe_ptr().unsafe_bitcast[Float32]())
    comptime for r in range(rows):
        comptime for v in range(vectors):
            var at = (first + r) * head_dim + (column + v) * LANES
            var sum = sum_of_parted(room.unsafe_offset((r * vectors + v) * HALVES))
            if panel > 0:
                sum += sums.unsafe_load[width=LANES](at)
            if end < tile.block.panels:
                sums.unsafe_store(at, sum)
            else:
                var decayed = total.unsafe_load[width=LANES](at) * tile.decay[first + r]
                var gain = tile.gain[first + r] * tile.weight_scale[first + r]
                total.unsafe_store(at, fma(sum, Vector16(gain), decayed))
    _ = halves^
