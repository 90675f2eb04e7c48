"""What the attention kernels write: rows, the sums of a split, and the merge of a token's splits."""

from max.gpu import block_idx, lane_id
from std.math import ceildiv, exp2, fma

from .attention_tiles import SPLIT, Place, place_of_request, split_count
from .block import GpuRead, GpuWrite
from .online_softmax import MASKED, Accumulator, reference_of


@always_inline
def store_rows[
    head_dim: Int
](
    y: GpuWrite[DType.bfloat16],
    place: Place,
    low_row: Int32,
    head: Int32,
    kv_heads: Int32,
    total: Accumulator[head_dim],
    lane: Int,
):
    """Writes a lane's share of the results of the rows `low_row` and `low_row + 8`, where they are."""
    comptime for half in range(2):
        var row = low_row + Int32(8 * half)
        if row < place.rows:
            var at = place.query(row, head, kv_heads) * head_dim + lane % 4 * 2
            var inverse = 1 / total.weights[2 * half]
            comptime for n in range(head_dim // 8):
                var pair = total.values[n].slice[2, offset=2 * half]() * inverse
                y.unsafe_store[alignment=4](at + n * 8, pair.cast[DType.bfloat16]())


@always_inline
def store_partials[
    head_dim: Int
](
    partial: GpuWrite[DType.float32],
    place: Place,
    low_row: Int32,
    at: Int,
    sums: Accumulator[head_dim],
    lane: Int,
):
    """Writes a lane's share of the sums of the rows `low_row` and `low_row + 8`, where they are.

    Args:
        partial: [requests, KV heads, splits, group, head_dim + 2]: the values' sums, the weights' sum and the maximum.
        place: The request.
        low_row: The first row.
        at: Number of the split among all of `partial`.
        sums: Theirs.
        lane: This thread's place in its warp.
    """
    comptime for half in range(2):
        var row = low_row + Int32(8 * half)
        if row < place.rows:
            var target = (at * Int(place.group) + Int(row)) * (head_dim + 2)
            comptime for n in range(head_dim // 8):
                var pair = sums.values[n].slice[2, offset=2 * half]()
                partial.unsafe_store[alignment=8](target + n * 8 + lane % 4 * 2, pair)
            if lane % 4 == 0:
                partial[unsafe_offset=target + head_dim] = sums.weights[2 * half]
                partial[unsafe_offset=target + head_dim + 1] = sums.low if half == 0 else sums.high


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
    var place = place_of_request(row_offsets, positions, group, block_idx.z)
    if place.request < 0:
        return
    var row = block_idx.x
    var splits = split_count(Int(pages_per_request), Int(page_bits))
    var values = SIMD[DType.float32, width](0)
    var weight = Float32(0)
    var maximum = MASKED
    for split in range(ceildiv(Int(place.end(Int32(row))), SPLIT)):
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
    var target = place.query(Int32(row), Int32(block_idx.y), kv_heads) * head_dim + lane_id() * width
    y.unsafe_store[alignment=2 * width](target, (values * (1 / weight)).cast[DType.bfloat16]())
