"""Grouped-query attention over a paged KV cache on tensor cores, for prefill chunks and decodes in one ragged batch.

FlashAttention-2 (Dao 2023, arXiv:2307.08691) over pages: a block of four warps takes a tile of ROWS query rows that
share a KV head, 16 rows a warp, and walks over the keys in steps of KEYS, which are copied to shared memory one step
ahead.

The keys are summed up in splits of SPLIT positions from position 0, whose results are merged in order by their
maxima (Flash-Decoding, Dao et al. 2023). Requests of one token have a block for each split and the merge in a kernel
of its own; others go through the splits one after the other. The sums are the same ones in the same order, so a row's
result depends on its own context only. What is masked adds exactly zero.
"""

from max.gpu import block_idx, lane_id, thread_idx, warp_id
from max.gpu.memory import (
    AddressSpace,
    async_copy,
    async_copy_commit_group,
    async_copy_wait_group,
    external_memory,
)
from max.gpu.sync import barrier

from .attention_results import store_partials, store_rows
from .attention_tiles import SPLIT, Place, place_of, place_of_request, split_count
from .block import GpuRead, GpuWrite
from .mma import (
    Left,
    Right,
    SharedTile,
    Sums,
    left_from_sums,
    left_of_rows,
    product,
    right_of_columns,
    right_of_rows,
    swizzled,
)
from .online_softmax import Accumulator, scale_of
from .pages import PageLayout

comptime KEYS = 64
"""Positions per step of the online softmax."""
comptime ROWS = 64
"""Query rows of a tile."""
comptime WARP_ROWS = 16
comptime THREADS = 128


@always_inline
def attention_shared[head_dim: Int]() -> Int:
    """Bytes of a block's shared memory."""
    return (4 * KEYS + ROWS) * head_dim * 2


@always_inline
def load_queries[
    head_dim: Int
](
    tile: SharedTile,
    q: GpuRead[DType.bfloat16],
    place: Place,
    head: Int32,
    kv_heads: Int32,
):
    """Begins to copy a tile's queries; zeros where it has fewer than ROWS rows."""
    comptime chunks = head_dim // 8
    comptime rows = THREADS // chunks
    var chunk = thread_idx.x % chunks
    for i in range(ROWS // rows):
        var r = i * rows + thread_idx.x // chunks
        var row = place.first_row + Int32(r)
        var there = row < place.rows
        var source = place.query(row, head, kv_heads) if there else 0
        async_copy[16, fill=BFloat16(0)](
            q.unsafe_offset(source * head_dim + chunk * 8).unsafe_address_space_cast[AddressSpace.GLOBAL](),
            tile.unsafe_offset(swizzled[head_dim](r, chunk)),
            Int32(16) if there else Int32(0),
        )


@always_inline
def load_keys[
    head_dim: Int
](
    keys_tile: SharedTile,
    values_tile: SharedTile,
    cache: GpuRead[DType.bfloat16],
    pages: GpuRead[DType.int32],
    layout: PageLayout,
    head: Int,
    start: Int32,
    end: Int32,
):
    """Begins to copy the keys and values of KEYS positions from `start` on; zeros from `end` on."""
    comptime chunks = head_dim // 8
    comptime rows = THREADS // chunks
    var chunk = thread_idx.x % chunks
    for i in range(KEYS // rows):
        var row = i * rows + thread_idx.x // chunks
        var position = Int(start) + row
        var there = position < Int(end)
        var page = Int(pages[unsafe_offset=layout.page_index(position)]) if there else 0
        var source = cache.unsafe_offset(layout.key[head_dim](page, head, position, chunk))
        var target = swizzled[head_dim](row, chunk)
        var size = Int32(16) if there else Int32(0)
        async_copy[16, fill=BFloat16(0)](
            source.unsafe_address_space_cast[AddressSpace.GLOBAL](), keys_tile.unsafe_offset(target), size
        )
        async_copy[16, fill=BFloat16(0)](
            source.unsafe_offset(layout.value_offset()).unsafe_address_space_cast[AddressSpace.GLOBAL](),
            values_tile.unsafe_offset(target),
            size,
        )


@always_inline
def attend[
    head_dim: Int
](
    mut sums: Accumulator[head_dim],
    queries_tile: SharedTile,
    keys_tile: SharedTile,
    values_tile: SharedTile,
    start: Int32,
    low_end: Int32,
    high_end: Int32,
    scale: Float32,
):
    """Adds KEYS positions to a warp's sums.

    Args:
        sums: Of the warp's rows.
        queries_tile: [16, head_dim], the rows' queries.
        keys_tile: [KEYS, head_dim].
        values_tile: Likewise.
        start: The first position.
        low_end: Row g sees the positions before this one.
        high_end: Likewise row g + 8.
        scale: Of the scores, times log2(e).
    """
    comptime tiles = KEYS // 8
    var lane = lane_id()
    var scores = Array[Sums, tiles](fill=Sums(0))
    comptime for k in range(0, head_dim // 16, 2):
        var first = left_of_rows[head_dim](queries_tile, 0, 2 * k, lane)
        var second = left_of_rows[head_dim](queries_tile, 0, 2 * k + 2, lane)
        comptime for n in range(tiles):
            var both = right_of_rows[head_dim](keys_tile, n * 8, 2 * k, lane)
            scores[n] = product(first, both.slice[4](), scores[n])
            scores[n] = product(second, both.slice[4, offset=4](), scores[n])
    sums.see(scores, start, low_end, high_end, scale)
    comptime for k in range(KEYS // 16):
        var weights = left_from_sums(
            sums.weights_of(scores[2 * k], scale), sums.weights_of(scores[2 * k + 1], scale)
        )
        sums.weights = product(weights, Right(1), sums.weights)
        comptime for n in range(0, head_dim // 8, 2):
            var both = right_of_columns[head_dim](values_tile, k * 16, n, lane)
            sums.values[n] = product(weights, both.slice[4](), sums.values[n])
            sums.values[n + 1] = product(weights, both.slice[4, offset=4](), sums.values[n + 1])


def attention_kernel[
    head_dim: Int, one_token: Bool
](
    y: GpuWrite[DType.bfloat16],
    partial: GpuWrite[DType.float32],
    q: GpuRead[DType.bfloat16],
    cache: GpuRead[DType.bfloat16],
    positions: GpuRead[DType.int32],
    row_offsets: GpuRead[DType.int32],
    page_table: GpuRead[DType.int32],
    requests: Int32,
    pages_per_request: Int32,
    group: Int32,
    kv_heads: Int32,
    page_stride: Int32,
    page_bits: Int32,
):
    """Attention of one tile of rows and one KV head, over all splits or over one.

    The grid is (tiles, KV heads) or, for requests of one token, (splits, KV heads, requests).

    Parameters:
        head_dim: 64 or 128.
        one_token: One split of a request of one token, whose sums go to `partial` [requests, KV heads, splits, group,
            head_dim + 2]: the values' sums, the weights' sum and the maximum. Otherwise all splits of a tile
            of the other requests, whose results go to `y`.
    """
    comptime tile_size = KEYS * head_dim
    comptime stage_size = 2 * tile_size
    var shared = external_memory[BFloat16, address_space=AddressSpace.SHARED, alignment=128]()
    var head = block_idx.y
    var place: Place
    comptime if one_token:
        place = place_of_request(row_offsets, positions, group, block_idx.z)
    else:
        place = place_of[ROWS](row_offsets, positions, requests, group, block_idx.x)
    if place.request < 0:
        return
    var start_row = place.first_row + Int32(warp_id() * WARP_ROWS)
    var end = place.last_end(place.first_row, Int32(ROWS))
    var warp_end = place.last_end(start_row, Int32(WARP_ROWS))
    var begin = Int32(0)
    comptime if one_token:
        begin = Int32(block_idx.x * SPLIT)
        if begin >= end:
            return
        end = min(end, begin + Int32(SPLIT))

    var lane = lane_id()
    var low_row = start_row + Int32(lane // 4)
    var low_end = place.end(low_row)
    var high_end = place.end(low_row + 8)
    var layout = PageLayout(Int(page_stride), Int(kv_heads), Int(page_bits), head_dim)
    var pages = page_table.unsafe_offset(Int(place.request) * Int(pages_per_request))
    var queries = shared.unsafe_offset(2 * stage_size)
    load_queries[head_dim](queries, q, place, Int32(head), kv_heads)
    var sums = Accumulator[head_dim]()
    var total = Accumulator[head_dim]()
    load_keys[head_dim](shared, shared.unsafe_offset(tile_size), cache, pages, layout, head, begin, end)
    async_copy_commit_group()
    var warp_queries = queries.unsafe_offset(warp_id() * WARP_ROWS * head_dim)
    var stage = 0
    for start in range(begin, end, Int32(KEYS)):
        barrier()  # the other stage has been read
        var other = shared.unsafe_offset((1 - stage) * stage_size)
        var next = start + Int32(KEYS)
        if next < end:
            load_keys[head_dim](other, other.unsafe_offset(tile_size), cache, pages, layout, head, next, end)
        async_copy_commit_group()
        async_copy_wait_group(1)
        barrier()
        var tile = shared.unsafe_offset(stage * stage_size)
        if start < warp_end:
            attend[head_dim](
                sums, warp_queries, tile, tile.unsafe_offset(tile_size), start, low_end, high_end, scale_of[head_dim]()
            )
        stage = 1 - stage
        comptime if not one_token:
            if next % Int32(SPLIT) == 0 or next >= end:
                total.merge(sums)
    comptime if one_token:
        var splits = split_count(Int(pages_per_request), Int(page_bits))
        var at = (Int(place.request) * Int(kv_heads) + head) * splits + block_idx.x
        store_partials[head_dim](partial, place, low_row, at, sums, lane)
    else:
        store_rows[head_dim](y, place, low_row, Int32(head), kv_heads, total, lane)
