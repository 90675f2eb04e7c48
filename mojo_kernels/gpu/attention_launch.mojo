"""Which of the attention kernels a batch needs, and with which grids."""

from max.gpu import WARP_SIZE
from max.gpu.host import DeviceContext, FuncAttribute

from .attention import ROWS, THREADS, attention_kernel, attention_shared
from .attention_hopper import (
    SMALLEST_PAGE,
    consumers,
    hopper_attention_kernel,
    hopper_shared,
    hopper_threads,
)
from .attention_results import merge_kernel
from .attention_tiles import MOST_SPLIT_ROWS, split_count
from .block import GpuRead, GpuWrite
from .pages import CacheShape
from .wgmma import GROUP_ROWS, HOPPER


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

    Which kernels depends on the GPU and on the page size, never on the batch: a row has the same bits in each.

    Raises:
        Error: The head dimension is not 64 or 128, or the page size no power of two.
    """
    comptime for head_dim in [64, 128]:
        if shape.head_dim == head_dim:
            comptime if DeviceContext.default_device_info.version == HOPPER:
                if shape.page_size >= SMALLEST_PAGE:
                    launch_kernels[head_dim, True](
                        y, q, cache, positions, row_offsets, page_table, batch, shape, ctx
                    )
                    return
            launch_kernels[head_dim, False](y, q, cache, positions, row_offsets, page_table, batch, shape, ctx)
            return
    raise Error("mili.paged_attention: head_dim ", shape.head_dim, " is not 64 or 128")


def launch_kernels[
    head_dim: Int, hopper: Bool
](
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
    """Launches the kernels of one head dimension, Hopper's or everywhere's.

    The host knows the batch's sizes only, so a grid has room for every way in which requests can share the rows, and
    blocks without work end at once. With as many requests as rows, each has one row of each head and only splits are
    launched.

    Raises:
        Error: The page size is no power of two.
    """
    var bits = shape.page_bits()
    var group = batch.q_heads // shape.kv_heads
    var splits = split_count(batch.pages_per_request, bits)
    var size = batch.requests * batch.q_heads * splits * (head_dim + 2)
    var partial = ctx.enqueue_create_buffer[DType.float32](size if group <= MOST_SPLIT_ROWS else 1)
    comptime for one_token in [False, True]:
        comptime rows = consumers[one_token]() * GROUP_ROWS if hopper else ROWS
        comptime threads = hopper_threads[one_token]() if hopper else THREADS
        comptime shared = hopper_shared[head_dim, one_token]() if hopper else attention_shared[head_dim]()
        var needed = batch.rows > batch.requests or group > MOST_SPLIT_ROWS
        var grid = (batch.rows * group // rows + batch.requests, shape.kv_heads, 1)
        comptime if one_token:
            needed = group <= MOST_SPLIT_ROWS
            grid = (splits, shape.kv_heads, batch.requests)
        if needed:
            comptime if hopper:
                comptime kernel = hopper_attention_kernel[head_dim, one_token]
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
                    grid_dim=grid,
                    block_dim=threads,
                    shared_mem_bytes=shared,
                    func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(shared)),
                )
            else:
                comptime kernel = attention_kernel[head_dim, one_token]
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
                    grid_dim=grid,
                    block_dim=threads,
                    shared_mem_bytes=shared,
                    func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(shared)),
                )
    if group <= MOST_SPLIT_ROWS:
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
