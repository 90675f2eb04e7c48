"""Grouped-query attention over a paged KV cache on tensor cores, for prefill chunks and decodes in one ragged batch.

FlashAttention-2 (Dao 2023, arXiv:2307.08691) over pages: a block of four warps takes a tile of ROWS query rows that
share a KV head (row r is query head `r % group` of the token `r // group`), 16 rows a warp, and walks over the keys in
steps of KEYS, which are copied to shared memory one step ahead.

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
from std.math import ceildiv, exp2, fma

from .block import GpuRead, GpuWrite, shuffle_xor
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
from .online_softmax import MASKED, Accumulator, reference_of
from .pages import PageLayout

comptime KEYS = 64
"""Positions per step of the online softmax."""
comptime ROWS = 64
"""Query rows of a tile."""
comptime WARP_ROWS = 16
comptime THREADS = 128
comptime SPLIT = 256
"""Positions whose sums are merged with those of others."""
comptime MOST_SPLIT_ROWS = 16
"""Query heads of a KV head up to which the splits of a request of one token are computed by different blocks."""
comptime LOG2_E = 1.4426950408889634


@always_inline
def is_split(rows: Int, group: Int) -> Bool:
    """Whether a request with so many rows for a KV head, `group` of them for a token, has a block for each split."""
    return rows == group and group <= MOST_SPLIT_ROWS


@fieldwise_init
struct Place(TrivialRegisterPassable):
    """A block's tile of the ragged batch."""

    var request: Int
    """-1 is none."""
    var first_row: Int
    """First of the tile's rows in its request's."""
    var first_token: Int
    """The request's first row of the batch."""
    var rows: Int
    """All of the request's query rows for a KV head."""


@always_inline
def place_of(row_offsets: GpuRead[DType.int32], requests: Int, group: Int, block: Int) -> Place:
    """The tile of a block, from the last of the last request on: those have the most keys, and begin first.

    Requests of one token have no tile here.
    """
    var index = block
    for b in range(requests - 1, -1, -1):
        var first = Int(row_offsets[unsafe_offset=b])
        var rows = (Int(row_offsets[unsafe_offset=b + 1]) - first) * group
        if is_split(rows, group):
            continue
        var tiles = ceildiv(rows, ROWS)
        if index < tiles:
            return Place(b, (tiles - 1 - index) * ROWS, first, rows)
        index -= tiles
    return Place(-1, 0, 0, 0)


@always_inline
def load_queries[
    head_dim: Int
](
    tile: SharedTile,
    q: GpuRead[DType.bfloat16],
    place: Place,
    head: Int,
    group: Int,
    heads: Int,
):
    """Begins to copy a tile's queries; zeros where it has fewer than ROWS rows."""
    comptime chunks = head_dim // 8
    comptime rows = THREADS // chunks
    var chunk = thread_idx.x % chunks
    for i in range(ROWS // rows):
        var r = i * rows + thread_idx.x // chunks
        var there = place.first_row + r < place.rows
        var source = row_offset(place, place.first_row + r, head, group, heads) if there else 0
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
    start: Int,
    end: Int,
):
    """Begins to copy the keys and values of KEYS positions from `start` on; zeros from `end` on."""
    comptime chunks = head_dim // 8
    comptime rows = THREADS // chunks
    var chunk = thread_idx.x % chunks
    for i in range(KEYS // rows):
        var row = i * rows + thread_idx.x // chunks
        var position = start + row
        var there = position < end
        var page = Int(pages[unsafe_offset=layout.page_index(position)]) if there else 0
        var source = cache.unsafe_offset(layout.key(page, head, position) + chunk * 8)
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
    start: Int,
    low_end: Int,
    high_end: Int,
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
    if start + KEYS > min(low_end, high_end):
        comptime for n in range(tiles):
            var position = start + n * 8 + lane % 4 * 2
            comptime for i in range(4):
                if position + i % 2 >= (low_end if i < 2 else high_end):
                    scores[n][i] = MASKED
    var low = MASKED
    var high = MASKED
    comptime for n in range(tiles):
        low = max(low, max(scores[n][0], scores[n][1]))
        high = max(high, max(scores[n][2], scores[n][3]))
    comptime for step in range(2):
        low = max(low, shuffle_xor(low, 1 << step))
        high = max(high, shuffle_xor(high, 1 << step))
    sums.rise(low * scale, high * scale)
    var a = -reference_of(sums.low)
    var b = -reference_of(sums.high)
    var shift = Sums(a, a, b, b)
    comptime for n in range(tiles):
        scores[n] = exp2(fma(scores[n], Sums(scale), shift))
    comptime for k in range(KEYS // 16):
        var weights = left_from_sums(scores[2 * k], scores[2 * k + 1])
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
    var heads = Int(group) * Int(kv_heads)
    var head = block_idx.y
    var place: Place
    comptime if one_token:
        var first = Int(row_offsets[unsafe_offset=block_idx.z])
        var rows = (Int(row_offsets[unsafe_offset=block_idx.z + 1]) - first) * Int(group)
        place = Place(block_idx.z if is_split(rows, Int(group)) else -1, 0, first, rows)
    else:
        place = place_of(row_offsets, Int(requests), Int(group), block_idx.x)
    if place.request < 0:
        return
    var start_row = place.first_row + warp_id() * WARP_ROWS
    var last_row = min(place.first_row + ROWS, place.rows) - 1
    var warp_last = min(start_row + WARP_ROWS, place.rows) - 1
    # Positions of a request are consecutive, so its last row has the most keys.
    var first_position = Int(positions[unsafe_offset=place.first_token])
    var end = first_position + last_row // Int(group) + 1
    var warp_end = first_position + warp_last // Int(group) + 1 if start_row < place.rows else 0
    var begin = 0
    comptime if one_token:
        begin = block_idx.x * SPLIT
        if begin >= end:
            return
        end = min(end, begin + SPLIT)

    var lane = lane_id()
    var low_row = start_row + lane // 4
    var high_row = low_row + 8
    var low_end = first_position + low_row // Int(group) + 1 if low_row < place.rows else 0
    var high_end = first_position + high_row // Int(group) + 1 if high_row < place.rows else 0
    var layout = PageLayout(Int(page_stride), Int(kv_heads), Int(page_bits), head_dim)
    var pages = page_table.unsafe_offset(place.request * Int(pages_per_request))
    comptime scale = Float32(LOG2_E / (8.0 if head_dim == 64 else 11.313708498984761))
    var queries = shared.unsafe_offset(2 * stage_size)
    load_queries[head_dim](queries, q, place, head, Int(group), heads)
    var sums = Accumulator[head_dim]()
    var total = Accumulator[head_dim]()
    load_keys[head_dim](shared, shared.unsafe_offset(tile_size), cache, pages, layout, head, begin, end)
    async_copy_commit_group()
    var warp_queries = queries.unsafe_offset(warp_id() * WARP_ROWS * head_dim)
    var stage = 0
    for start in range(begin, end, KEYS):
        barrier()  # the other stage has been read
        var other = shared.unsafe_offset((1 - stage) * stage_size)
        if start + KEYS < end:
            load_keys[head_dim](
                other, other.unsafe_offset(tile_size), cache, pages, layout, head, start + KEYS, end
            )
        async_copy_commit_group()
        async_copy_wait_group(1)
        barrier()
        var tile = shared.unsafe_offset(stage * stage_size)
        if start < warp_end:
            attend[head_dim](
                sums, warp_queries, tile, tile.unsafe_offset(tile_size), start, low_end, high_end, scale
            )
        stage = 1 - stage
        comptime if not one_token:
            if (start + KEYS) % SPLIT == 0 or start + KEYS >= end:
                total.merge(sums)
    comptime if one_token:
        var index = ((place.request * Int(kv_heads) + head) * split_count(Int(pages_per_request), Int(page_bits))) + block_idx.x
        var at = index * Int(group) * (head_dim + 2)
        if low_row < place.rows:
            store_partial[head_dim](partial, at + low_row * (head_dim + 2), sums, lane, 0)
        if high_row < place.rows:
            store_partial[head_dim](partial, at + high_row * (head_dim + 2), sums, lane, 2)
    else:
        var low_at = row_offset(place, low_row, head, Int(group), heads) * head_dim + lane % 4 * 2
        var high_at = row_offset(place, high_row, head, Int(group), heads) * head_dim + lane % 4 * 2
        var low_inverse = 1 / total.weights[0]
        var high_inverse = 1 / total.weights[2]
        comptime for n in range(head_dim // 8):
            if low_row < place.rows:
                var pair = total.values[n].slice[2]() * low_inverse
                y.unsafe_store[alignment=4](low_at + n * 8, pair.cast[DType.bfloat16]())
            if high_row < place.rows:
                var pair = total.values[n].slice[2, offset=2]() * high_inverse
                y.unsafe_store[alignment=4](high_at + n * 8, pair.cast[DType.bfloat16]())


@always_inline
def row_offset(place: Place, row: Int, head: Int, group: Int, heads: Int) -> Int:
    """Number of a query row in [T, query heads]."""
    return (place.first_token + row // group) * heads + head * group + row % group


@always_inline
def split_count(pages_per_request: Int, page_bits: Int) -> Int:
    """Splits of the longest context that a page table can name."""
    return ceildiv(pages_per_request << page_bits, SPLIT)


@always_inline
def store_partial[
    head_dim: Int
](partial: GpuWrite[DType.float32], at: Int, sums: Accumulator[head_dim], lane: Int, half: Int):
    """Writes a lane's share of the sums of one row, the one with elements `half` and `half + 1`."""
    comptime for n in range(head_dim // 8):
        var pair = SIMD[DType.float32, 2](sums.values[n][half], sums.values[n][half + 1])
        partial.unsafe_store[alignment=8](at + n * 8 + lane % 4 * 2, pair)
    if lane % 4 == 0:
        partial[unsafe_offset=at + head_dim] = sums.weights[half]
        partial[unsafe_offset=at + head_dim + 1] = sums.low if half == 0 else sums.high


def merge_kernel[
    head_dim: Int
](
    y: GpuWrite[DType.bfloat16],
    partial: GpuRead[DType.float32],
    positions: GpuRead[DType.int32],
    row_offsets: GpuRead[DType.int32],
    pages_per_request: Int32,
    group: Int32,
    kv_heads: Int32,
    page_bits: Int32,
):
    """Merges the splits of a request of one token, in order; the grid is (group, KV heads, requests), a warp each."""
    comptime width = head_dim // 32
    var first = Int(row_offsets[unsafe_offset=block_idx.z])
    var rows = (Int(row_offsets[unsafe_offset=block_idx.z + 1]) - first) * Int(group)
    var row = block_idx.x
    if not is_split(rows, Int(group)):
        return
    var splits = split_count(Int(pages_per_request), Int(page_bits))
    var end = Int(positions[unsafe_offset=first]) + row // Int(group) + 1
    var values = SIMD[DType.float32, width](0)
    var weight = Float32(0)
    var maximum = MASKED
    for split in range(ceildiv(end, SPLIT)):
        var index = (block_idx.z * Int(kv_heads) + block_idx.y) * splits + split
        var at = (index * Int(group) + row) * (head_dim + 2)
        var part = partial.unsafe_load[width=width, alignment=8](at + lane_id() * width)
        var part_maximum = partial[unsafe_offset=at + head_dim + 1]
        var new = max(maximum, part_maximum)
        var mine = exp2(maximum - reference_of(new))
        var other = exp2(part_maximum - reference_of(new))
        values = fma(part, SIMD[DType.float32, width](other), values * mine)
        weight = fma(partial[unsafe_offset=at + head_dim], other, weight * mine)
        maximum = new
    var place = Place(block_idx.z, 0, first, rows)
    var heads = Int(group) * Int(kv_heads)
    var target = row_offset(place, row, block_idx.y, Int(group), heads) * head_dim + lane_id() * width
    y.unsafe_store[alignment=2 * width](target, (values * (1 / weight)).cast[DType.bfloat16]())
