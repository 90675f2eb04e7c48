"""QK norm, RoPE and the write of K and V into their pages on a GPU, in one pass over the projection's output.

HEAD_DIM / 16 neighbouring threads share a head: each has 8 elements of its first half and the 8 of its second half
that they are rotated with.
"""

from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv, rsqrt

from ..memory.batch import request_of
from .block import BLOCK, GpuRead, GpuWrite, load_floats, shuffle_xor, store_floats
from .pages import CacheShape, PageLayout

comptime WIDTH = 8


def qk_norm_rope_store_kernel[
    x_type: DType, cache_type: DType, head_dim: Int
](
    q: GpuWrite[x_type],
    cache: GpuWrite[cache_type],
    qkv: GpuRead[x_type],
    q_gamma: GpuRead[DType.float32],
    k_gamma: GpuRead[DType.float32],
    rope: GpuRead[DType.float32],
    positions: GpuRead[DType.int32],
    row_offsets: GpuRead[DType.int32],
    page_table: GpuRead[DType.int32],
    rows: Int32,
    requests: Int32,
    pages_per_request: Int32,
    q_heads: Int32,
    kv_heads: Int32,
    page_stride: Int32,
    page_bits: Int32,
    eps: Float32,
):
    """One head of one row for every `head_dim / 16` threads."""
    comptime half = head_dim // 2
    comptime parts = half // WIDTH
    var heads = Int(q_heads) + 2 * Int(kv_heads)
    var item = (block_idx.x * BLOCK + thread_idx.x) // parts
    var low = thread_idx.x % parts * WIDTH
    var row = item // heads
    var head = item % heads
    var there = row < Int(rows)  # no early return: lanes exchange their sums below
    if not there:
        row = 0
    var source = (row * heads + head) * head_dim
    var a = load_floats[WIDTH](qkv, source + low)
    var b = load_floats[WIDTH](qkv, source + half + low)
    var squares = (a * a + b * b).reduce_add()
    comptime for step in range(3):
        comptime if parts >> (step + 1) > 0:
            squares += shuffle_xor(squares, parts >> (step + 1))
    if not there:
        return
    var is_value = head >= Int(q_heads) + Int(kv_heads)
    if not is_value:
        var gamma = q_gamma if head < Int(q_heads) else k_gamma
        var scale = rsqrt(squares / Float32(head_dim) + eps)
        a *= scale * load_floats[WIDTH](gamma, low)
        b *= scale * load_floats[WIDTH](gamma, half + low)
        var c = load_floats[WIDTH](rope, row * head_dim + low)
        var s = load_floats[WIDTH](rope, row * head_dim + half + low)
        var rotated = a * c - b * s
        b = b * c + a * s
        a = rotated
    if head < Int(q_heads):
        var target = (row * Int(q_heads) + head) * head_dim
        store_floats[WIDTH](q, target + low, a)
        store_floats[WIDTH](q, target + half + low, b)
        return
    var layout = PageLayout(Int(page_stride), Int(kv_heads), Int(page_bits), head_dim)
    var position = Int(positions[unsafe_offset=row])
    var request = request_of(row_offsets.unsafe_origin_cast[ImmUntrackedOrigin](), Int(requests), row)
    var page = Int(page_table[unsafe_offset=request * Int(pages_per_request) + layout.page_index(position)])
    var kv_head = (head - Int(q_heads)) % Int(kv_heads)
    var target = layout.value_offset() if is_value else 0
    store_floats[WIDTH](cache, target + layout.key[head_dim](page, kv_head, position, low // WIDTH), a)
    store_floats[WIDTH](cache, target + layout.key[head_dim](page, kv_head, position, (half + low) // WIDTH), b)


def launch_qk_norm_rope_store[
    x_type: DType, cache_type: DType
](
    q: GpuWrite[x_type],
    cache: GpuWrite[cache_type],
    qkv: GpuRead[x_type],
    q_gamma: GpuRead[DType.float32],
    k_gamma: GpuRead[DType.float32],
    rope: GpuRead[DType.float32],
    positions: GpuRead[DType.int32],
    row_offsets: GpuRead[DType.int32],
    page_table: GpuRead[DType.int32],
    rows: Int,
    requests: Int,
    pages_per_request: Int,
    q_heads: Int,
    shape: CacheShape,
    eps: Float32,
    ctx: DeviceContext,
) raises:
    """Launches the kernel; `cache` is the address of the layer in page 0.

    Raises:
        Error: The head dimension is not 64 or 128, or the page size no power of two.
    """
    var threads = rows * (q_heads + 2 * shape.kv_heads) * (shape.head_dim // (2 * WIDTH))
    comptime for head_dim in [64, 128]:
        if shape.head_dim == head_dim:
            comptime kernel = qk_norm_rope_store_kernel[x_type, cache_type, head_dim]
            ctx.enqueue_function[kernel](
                q,
                cache,
                qkv,
                q_gamma,
                k_gamma,
                rope,
                positions,
                row_offsets,
                page_table,
                Int32(rows),
                Int32(requests),
                Int32(pages_per_request),
                Int32(q_heads),
                Int32(shape.kv_heads),
                Int32(shape.page_stride()),
                Int32(shape.page_bits()),
                eps,
                grid_dim=ceildiv(threads, BLOCK),
                block_dim=BLOCK,
            )
            return
    raise Error("mili.qk_norm_rope_store: head_dim ", shape.head_dim, " is not 64 or 128")
