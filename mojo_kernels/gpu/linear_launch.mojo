"""Which of the kernels of linear layers a batch takes; each gives a row the same bits."""

from max.gpu.host import DeviceContext, FuncAttribute
from std.math import ceildiv

from .block import GpuRead, GpuWrite
from .linear_hopper import LARGE, NARROW, SMALL, hopper_linear_kernel
from .linear_products import BFLOAT, CHUNK, FLOAT8, WIDENED, group_columns, w_bytes, x_bytes
from .linear_rows import ROWS, THREADS, linear_rows_kernel
from .linear_rows import shared_bytes as rows_shared_bytes
from .linear_rows_hopper import FEW_SHARED, FEW_THREADS, hopper_linear_rows_kernel
from .linear_tile import linear_tile_kernel
from .linear_tile import shared_bytes as tile_shared_bytes
from .wgmma import FEW_OUTPUTS, HOPPER

comptime MANY_OUTPUTS = 4096
"""Outputs from which blocks of 32 of them, which read x half as often as those of 16, are enough for a GPU."""
comptime FULL = 96
"""Large tiles that are enough for a GPU; small ones are taken for fewer."""
comptime HOPPER_LARGE = 40
"""The same for wgmma: what the L2 cache gives to all small tiles together is enough for about as many large ones."""
comptime HOPPER_SMALL = 64
"""Small tiles that are enough; narrow ones, which read x twice as often, are taken for fewer."""


def tile_outputs[format: Int, large: Bool]() -> Int:
    """Outputs of a tile of 128 rows, or of 64. With scales products take more registers, which larger ones would
    lack.
    """
    return 128 if large and format == BFLOAT else 64


def warp_rows[format: Int, large: Bool]() -> Int:
    """Rows of a warp."""
    return 64 if large and format == BFLOAT else 32


comptime LinearKernel[y_type: DType] = def(
    GpuWrite[y_type],
    GpuRead[DType.uint8],
    GpuRead[DType.uint8],
    GpuRead[DType.float32],
    GpuRead[DType.float32],
    Int32,
    Int32,
    Int32,
    Int32,
) thin -> None
"""What all kernels of linear layers are: `linear_rows_kernel` has their arguments."""


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
    comptime hopper = DeviceContext.default_device_info.version == HOPPER
    if columns % together != 0:
        raise Error("mili.linear on a GPU: ", columns, " columns; it must be a multiple of ", together)
    if rows == 0:
        return

    @always_inline
    @__parameter
    def launch[kernel: LinearKernel[y_type], threads: Int, shared: Int](blocks: Int) raises:
        ctx.enqueue_function[kernel](
            y,
            x,
            w,
            x_scales,
            w_scales,
            Int32(rows),
            Int32(outputs),
            Int32(columns),
            Int32(group_columns(columns, format != BFLOAT)),
            grid_dim=blocks,
            block_dim=threads,
            shared_mem_bytes=shared,
            func_attribute=FuncAttribute.MAX_DYNAMIC_SHARED_SIZE_BYTES(UInt32(shared)),
        )

    if rows <= ROWS:
        comptime if hopper and format == FLOAT8:
            launch[hopper_linear_rows_kernel[y_type], FEW_THREADS, FEW_SHARED](ceildiv(outputs, FEW_OUTPUTS))
        else:
            comptime for tiles in [2, 4]:
                if (tiles == 4) == (outputs >= MANY_OUTPUTS):
                    launch[linear_rows_kernel[format, y_type, tiles], THREADS, rows_shared_bytes[tiles]()](
                        ceildiv(outputs, tiles * 8)
                    )
        return

    comptime if hopper and format != WIDENED:
        comptime for i in range(3):
            comptime shape = [LARGE, SMALL, NARROW][i]
            comptime enough = [HOPPER_LARGE, HOPPER_SMALL, 0][i]
            var tiles = ceildiv(rows, shape.rows()) * ceildiv(outputs, shape.outputs)
            if tiles >= enough:
                launch[hopper_linear_kernel[format, y_type, shape], shape.threads(), shape.shared_bytes[format]()](tiles)
                return
    else:
        comptime for large in [True, False]:
            comptime tile_rows = 128 if large else 64
            comptime across = tile_outputs[format, large]()
            comptime warp = warp_rows[format, large]()
            var tiles = ceildiv(rows, tile_rows) * ceildiv(outputs, across)
            if not large or tiles >= FULL:
                launch[
                    linear_tile_kernel[format, y_type, tile_rows, across, warp],
                    tile_rows // warp * across,
                    tile_shared_bytes[format, tile_rows, across](),
                ](tiles)
                return
