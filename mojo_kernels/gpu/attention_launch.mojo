"""Which of the attention kernels a batch needs, and with which grids."""

from max.gpu import WARP_SIZE
from max.gpu.host import DeviceContext, FuncAttribute

from .attention import KEYS, MOST_SPLIT_ROWS, ROWS, THREADS, attention_kernel, merge_kernel, split_count
from .block import GpuRead, GpuWrite
from .pages import CacheShape


@fieldwise_init
struct BatchShape(TrivialRegisterPassable):
    """The sizes of a ragged batch, as the host knows them."""

    var rows: Int
    var requests: Int
    var pages_per_request: Int
    var q_heads: Int


def launch_attention(
    y: GpuWrite[DType.bfloat16],
    q: GpuRead[DType.bfloat16],
    cache: GpuRead[DType.bfloat16],
    positions: GpuRead[DType.int32],
    row_offsets: GpuRead[DType.int32],
    page_table: GpuRead[DType.int32],
    batch: BatchShape,
    shape: CacheShape,
    ctx: DeviceContext,
) raises:
    """Launches the kernels that a batch may need; `cache` is the address of the layer in page 0.

    The host knows the batch's sizes only, so a grid has room for every way in which requests can share the rows, and blocks
    without work end at once. With as many requests as rows, each has one row of each head and only splits are launched.

    Raises:
        Error: The head dimension is not 64 or 128, or the page size no power of two.
    """
    var bits = shape.page_bits()
    var group = batch.q_heads // shape.kv_heads
    var splits = split_count(batch.pages_per_request, bits)
    var size = batch.requests * batch.q_heads * splits * (shape.head_dim + 2)
    var partial = ctx.enqueue_create_buffer[DType.float32](size if group <= MOST_SPLIT_ROWS else 1)
    comptime for head_dim in [64, 128]:
        comptime shared = (4 * KEYS + ROWS) * head_dim * 2
        if shape.head_dim == head_dim:
            if batch.rows > batch.requests or group > MOST_SPLIT_ROWS:
                comptime kernel = attention_kernel[head_dim, False]
                ctx.enqueue_function[kernel](
                    y,
                    partial,
                    q,
                    cache,
                    positions,
                    row_offsets,
                    page_table,
                    Int32(batch.requests),
                    Int32(batch.pages_per_request),
                    Int32(group),
                    Int32(shape.kv_heads),
                    Int32(shape.page_stride()),
                    Int32(bits),
                    grid_dim=(batch.rows * group // ROWS + batch.requests, shape.kv_heads),
                    block_dim=THREADS,
                    shared_mem_bytes=shared,
                    func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(shared)),
                )
            if group <= MOST_SPLIT_ROWS:
                comptime kernel = attention_kernel[head_dim, True]
                ctx.enqueue_function[kernel](
                    y,
                    partial,
                    q,
                    cache,
                    positions,
                    row_offsets,
                    page_table,
                    Int32(batch.requests),
                    Int32(batch.pages_per_request),
                    Int32(group),
                    Int32(shape.kv_heads),
                    Int32(shape.page_stride()),
                    Int32(bits),
                    grid_dim=(splits, shape.kv_heads, batch.requests),
                    block_dim=THREADS,
                    shared_mem_bytes=shared,
                    func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(shared)),
                )
                comptime merge = merge_kernel[head_dim]
                ctx.enqueue_function[merge](
                    y,
                    partial,
                    positions,
                    row_offsets,
                    Int32(batch.pages_per_request),
                    Int32(group),
                    Int32(shape.kv_heads),
                    Int32(bits),
                    grid_dim=(group, shape.kv_heads, batch.requests),
                    block_dim=WARP_SIZE,
                )
            _ = partial^
            return
    raise Error("mili.paged_attention: head_dim ", shape.head_dim, " is not 64 or 128")
