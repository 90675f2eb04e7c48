"""Which of the kernels of linear layers a batch takes; each gives a row the same bits."""

from max.gpu.host import DeviceContext, FuncAttribute
from std.math import ceildiv

from .block import GpuRead, GpuWrite
from .linear_hopper import OUTPUTS as HOPPER_OUTPUTS
from .linear_hopper import ROWS as HOPPER_ROWS
from .linear_hopper import THREADS as HOPPER_THREADS
from .linear_hopper import hopper_linear_kernel
from .linear_hopper import shared_bytes as hopper_shared_bytes
from .linear_products import BFLOAT, CHUNK, group_columns, w_bytes, x_bytes
from .linear_rows import ROWS, THREADS, linear_rows_kernel
from .linear_rows import shared_bytes as rows_shared_bytes
from .linear_tile import linear_tile_kernel
from .linear_tile import shared_bytes as tile_shared_bytes
from .wgmma import HOPPER

comptime MANY_OUTPUTS = 4096
"""Outputs from which blocks of 32 of them, which read x half as often as those of 16, are enough for a GPU."""
comptime FULL = 96
"""Large tiles that are enough for a GPU; small ones are taken for fewer."""
comptime HOPPER_FULL = 66
"""The same for tiles of wgmma: half a Hopper's multiprocessors, since its products are up to 1.6 times as fast as those of
`mma.sync` (Luo et al. 2025, arXiv:2501.12084)."""


def tile_outputs[format: Int, large: Bool]() -> Int:
    """Outputs of a tile of 128 rows, or of 64. With scales products take more registers, which larger ones would
    lack.
    """
    return 128 if large and format == BFLOAT else 64


def warp_rows[format: Int, large: Bool]() -> Int:
    """Rows of a warp."""
    return 64 if large and format == BFLOAT else 32


def launch_linear[
    y_type: DType, //, format: Int
](
    y: GpuWrite[y_type],
    x: GpuRead[DType.uint8],
    w: GpuRead[DType.uint8],
    x_scales: GpuRead[DType.float32],
    w_scales: GpuRead[DType.float32],
    rows: Int,
    outputs: Int,
    columns: Int,
    ctx: DeviceContext,
) raises:
    """`y[T, N] = x[T, K] @ w[N, K].T`; arguments as of `linear_rows_kernel`.

    Raises:
        Error: A row of x or w is no multiple of 16 bytes.
    """
    comptime together = CHUNK // min(x_bytes[format](), w_bytes[format]())
    if columns % together != 0:
        raise Error("mili.linear on a GPU: ", columns, " columns; it must be a multiple of ", together)
    if rows == 0:
        return
    var group = Int32(group_columns(columns, format != BFLOAT))
    if rows <= ROWS:
        comptime for tiles in [2, 4]:
            if (tiles == 4) == (outputs >= MANY_OUTPUTS):
                comptime shared = rows_shared_bytes[tiles]()
                comptime kernel = linear_rows_kernel[format, y_type, tiles]
                ctx.enqueue_function[kernel](
                    y,
                    x,
                    w,
                    x_scales,
                    w_scales,
                    Int32(rows),
                    Int32(outputs),
                    Int32(columns),
                    group,
                    grid_dim=ceildiv(outputs, tiles * 8),
                    block_dim=THREADS,
                    shared_mem_bytes=shared,
                    func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(shared)),
                )
        return
    comptime if format == BFLOAT and DeviceContext.default_device_info.version == HOPPER:
        var tiles = ceildiv(rows, HOPPER_ROWS) * ceildiv(outputs, HOPPER_OUTPUTS)
        if tiles >= HOPPER_FULL:
            comptime shared = hopper_shared_bytes()
            comptime kernel = hopper_linear_kernel[y_type]
            ctx.enqueue_function[kernel](
                y,
                x.unsafe_bitcast[BFloat16](),
                w.unsafe_bitcast[BFloat16](),
                Int32(rows),
                Int32(outputs),
                Int32(columns),
                group,
                grid_dim=tiles,
                block_dim=HOPPER_THREADS,
                shared_mem_bytes=shared,
                func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(shared)),
            )
            return
    var many = ceildiv(rows, 128) * ceildiv(outputs, tile_outputs[format, True]()) >= FULL
    comptime for large in [False, True]:
        if large == many:
            comptime tile_rows = 128 if large else 64
            comptime across = tile_outputs[format, large]()
            comptime shared = tile_shared_bytes[format, tile_rows, across]()
            comptime kernel = linear_tile_kernel[format, y_type, tile_rows, across, warp_rows[format, large]()]
            ctx.enqueue_function[kernel](
                y,
                x,
                w,
                x_scales,
                w_scales,
                Int32(rows),
                Int32(outputs),
                Int32(columns),
                group,
                grid_dim=ceildiv(rows, tile_rows) * ceildiv(outputs, across),
                block_dim=tile_rows // warp_rows[format, large]() * across,
                shared_mem_bytes=shared,
                func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(shared)),
            )
