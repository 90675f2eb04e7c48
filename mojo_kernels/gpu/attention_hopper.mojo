"""Attention as in `attention.mojo`, on Hopper: wgmma, and pages that a warp of its own copies (sm_90a).

As in FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608, section 3.1) a producer warp keeps a ring of tiles filled,
in which keys and values take turns, and each consumer warpgroup has 64 rows: while one is busy with its softmax, the
tensor cores multiply for the other. A page's keys of a head are copied in one piece, because pages have the order that
the products want (`pages.mojo`); that takes no tensor map, which the host would have to make.

Prefill and decode multiply with the same instructions of the same shape in the same order: PTX does not say that `mma.sync`
would give a decode the bits of its prefill.
"""

from max.gpu import MAX_THREADS_PER_BLOCK_METADATA, block_idx, lane_id, thread_idx, warp_id
from max.gpu.memory import AddressSpace, external_memory
from max.gpu.sync import barrier
from std.memory import bitcast
from std.utils import StaticTuple

from .async_barrier import give_registers, meet, show_to_async, take_registers
from .attention_results import store_partials, store_rows
from .attention_tiles import PLACE_INTS, SPLIT, Place, place_of, place_of_request, split_count
from .block import GpuRead, GpuWrite, shuffle_xor
from .key_ring import produce_tile
from .mma import SharedTile, Sums, left_from_sums
from .online_softmax import Accumulator, scale_of
from .pages import ATOM, PageLayout, in_atoms
from .ring import Ring
from .wgmma import GROUP, GROUP_ROWS, WGMMA_KEYS, add_weighted, scores_of

comptime SMALLEST_PAGE = ATOM
"""Pages of fewer positions are for `attention.mojo`."""
comptime PRODUCER_REGISTERS = 40
comptime CONSUMER_REGISTERS = 232


@always_inline
def consumers[one_token: Bool]() -> Int:
    """Warpgroups that multiply."""
    return 1 if one_token else 2


@always_inline
def hopper_threads[one_token: Bool]() -> Int:
    """Threads of a block: registers are moved between whole warpgroups, and a single one has enough."""
    return GROUP + 32 if one_token else 3 * GROUP


@always_inline
def slots[one_token: Bool]() -> Int:
    """Tiles of the ring: so many that two blocks fit a multiprocessor where a block has one split."""
    return 3 if one_token else 4


@always_inline
def hopper_shared[head_dim: Int, one_token: Bool]() -> Int:
    """Bytes of a block's shared memory."""
    comptime rows = consumers[one_token]() * GROUP_ROWS + slots[one_token]() * WGMMA_KEYS
    return rows * head_dim * 2 + 16 * slots[one_token]() + 4 * PLACE_INTS


@always_inline
def load_group_queries[
    head_dim: Int
](tile: SharedTile, q: GpuRead[DType.bfloat16], place: Place, first_row: Int32, head: Int32, kv_heads: Int32):
    """Copies 64 rows' queries by a warpgroup; zeros where there are fewer.

    Args:
        tile: [64, head_dim] in atoms.
        q: All queries.
        place: The tile.
        first_row: The first row in its request's.
        head: KV head.
        kv_heads: How many there are.
    """
    comptime chunks = head_dim // 8
    var thread = thread_idx.x % GROUP
    comptime for i in range(GROUP_ROWS * chunks // GROUP):
        var row = i * (GROUP // chunks) + thread // chunks
        var values = SIMD[DType.bfloat16, 8](0)
        if first_row + Int32(row) < place.rows:
            var source = place.query(first_row + Int32(row), head, kv_heads) * head_dim + thread % chunks * 8
            values = q.unsafe_load[width=8, alignment=16](source)
        tile.unsafe_store[alignment=16](in_atoms[head_dim](row, thread % chunks), values)
    show_to_async()


@always_inline
def attend_group[
    head_dim: Int, size: Int, tile: Int
](
    mut sums: Accumulator[head_dim],
    mut ring: Ring[size, tile],
    queries: SharedTile,
    start: Int32,
    low_end: Int32,
    high_end: Int32,
):
    """Adds the keys and values of the ring's next two tiles to a warpgroup's sums; the ends are those of `see`."""
    ring.wait_until_full()
    var scores = scores_of[head_dim](queries, ring.current())
    ring.leave()
    comptime scale = scale_of[head_dim]()
    sums.see(scores, start, low_end, high_end, scale)
    var weights = SIMD[DType.uint32, 32](0)
    comptime for k in range(WGMMA_KEYS // 16):
        var first = sums.weights_of(scores[2 * k], scale)
        var second = sums.weights_of(scores[2 * k + 1], scale)
        sums.weights += first
        sums.weights += second
        var left = bitcast[DType.uint32, 4](left_from_sums(first, second))
        comptime for i in range(4):
            weights[4 * k + i] = left[i]
    ring.wait_until_full()
    add_weighted[head_dim](sums.values, weights, ring.current())
    ring.leave()


@always_inline
def row_of_lane(first_row: Int32) -> Int32:
    """The first of a lane's two rows of its warpgroup's, which begin with `first_row`; the other is 8 further."""
    return first_row + Int32(warp_id() % 4 * 16 + lane_id() // 4)


@always_inline
def whole_weights(weights: Sums) -> Sums:
    """The sums of two rows' weights from the shares of the four lanes that have the rows."""
    var low = weights[0] + weights[1]
    var high = weights[2] + weights[3]
    comptime for step in range(2):
        low += shuffle_xor(low, 1 << step)
        high += shuffle_xor(high, 1 << step)
    return Sums(low, low, high, high)


@__llvm_metadata(MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](Int32(hopper_threads[one_token]())))
def hopper_attention_kernel[
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
    """Attention of one tile of rows and one KV head, over all splits or over one; see `attention_kernel`.

    Pages have at least SMALLEST_PAGE positions, and the cache is aligned to 16 bytes.
    """
    comptime rows = consumers[one_token]() * GROUP_ROWS
    comptime ring_slots = slots[one_token]()
    comptime tile = WGMMA_KEYS * head_dim
    var queries = external_memory[BFloat16, address_space=AddressSpace.SHARED, alignment=1024]()
    var tiles = queries.unsafe_offset(rows * head_dim)
    var barriers = tiles.unsafe_offset(ring_slots * tile).unsafe_bitcast[UInt64]()
    var ring = Ring[ring_slots, tile](tiles, barriers)
    var head = Int32(block_idx.y)
    var kept = barriers.unsafe_offset(2 * ring_slots).unsafe_bitcast[Int32]()
    if thread_idx.x == 0:
        ring.init(1, consumers[one_token]() * 4)
        comptime if one_token:
            place_of_request(row_offsets, positions, group, block_idx.z).keep(kept)
        else:
            place_of[rows](row_offsets, positions, requests, group, block_idx.x).keep(kept)
    barrier()
    var place = Place.kept(kept)
    if place.request < 0:
        return
    var begin = Int32(0)
    var end = place.last_end(place.first_row, Int32(rows))
    comptime if one_token:
        begin = Int32(block_idx.x * SPLIT)
        if begin >= end:
            return
        end = min(end, begin + Int32(SPLIT))
    if thread_idx.x >= consumers[one_token]() * GROUP:
        comptime if not one_token:
            give_registers[PRODUCER_REGISTERS]()
        if warp_id() == consumers[one_token]() * 4:
            var layout = PageLayout(Int(page_stride), Int(kv_heads), Int(page_bits), head_dim)
            var pages = page_table.unsafe_offset(Int(place.request) * Int(pages_per_request))
            for start in range(begin, end, Int32(WGMMA_KEYS)):
                for which in range(2):
                    ring.wait_until_empty()
                    produce_tile[head_dim](
                        ring.current(),
                        ring.came(),
                        cache.unsafe_offset(which * layout.value_offset()),
                        pages,
                        layout,
                        Int(head),
                        start,
                        end,
                    )
                    ring.advance()
        return
    comptime if not one_token:
        take_registers[CONSUMER_REGISTERS]()
    var number = thread_idx.x // GROUP
    var first_row = place.first_row + Int32(number * GROUP_ROWS)
    var group_end = place.last_end(first_row, Int32(GROUP_ROWS))
    var low_row = row_of_lane(first_row)
    var low_end = place.end(low_row)
    var high_end = place.end(low_row + 8)
    var group_queries = queries.unsafe_offset(number * GROUP_ROWS * head_dim)
    load_group_queries[head_dim](group_queries, q, place, first_row, head, kv_heads)
    meet[GROUP](1 + number)
    var total = Accumulator[head_dim]()
    for split in range(begin, end, Int32(SPLIT)):
        var sums = Accumulator[head_dim]()
        for start in range(split, min(split + Int32(SPLIT), end), Int32(WGMMA_KEYS)):
            if start < group_end:
                attend_group[head_dim](sums, ring, group_queries, start, low_end, high_end)
            else:
                # A tile may be left only when it has come: an earlier one may still be read.
                comptime for which in range(2):
                    ring.wait_until_full()
                    ring.leave()
        sums.weights = whole_weights(sums.weights)
        comptime if one_token:
            total = sums^
        else:
            total.merge(sums)
    # Read again, so that the loop has the registers.
    place = Place.kept(kept)
    low_row = row_of_lane(place.first_row + Int32(thread_idx.x // GROUP * GROUP_ROWS))
    comptime if one_token:
        var splits = split_count(Int(pages_per_request), Int(page_bits))
        var at = (Int(place.request) * Int(kv_heads) + Int(head)) * splits + block_idx.x
        store_partials[head_dim](partial, place, low_row, at, total, lane_id())
    else:
        store_rows[head_dim](y, place, low_row, head, kv_heads, total, lane_id())
