"""RMSNorm on a GPU: a block per row, which it reads from memory once and keeps in registers."""

from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv, rsqrt

from .block import BLOCK, GpuRead, GpuWrite, block_sum, load_floats, store_floats

comptime WIDTH = 8
"""Elements a thread handles at once: 16 bytes of bfloat16."""
comptime MAX_CHUNKS = 4
"""Rows have at most BLOCK * WIDTH * MAX_CHUNKS = 8,192 elements, a multiple of WIDTH."""


def rms_norm_kernel[
    x_type: DType, y_type: DType, chunks: Int, add: Bool
](
    y: GpuWrite[y_type],
    total: GpuWrite[DType.float32],
    x: GpuRead[x_type],
    residual: GpuRead[DType.float32],
    gamma: GpuRead[DType.float32],
    size: Int32,
    eps: Float32,
):
    """`y = rms_norm(x) * gamma`; with `add`, `total = x + residual; y = rms_norm(total) * gamma`.

    Parameters:
        x_type: Type of x.
        y_type: Type of y.
        chunks: Groups of WIDTH elements of a thread: the row has at most BLOCK * WIDTH * chunks.
        add: Whether there is a residual.
    """
    var n = Int(size)
    var row = block_idx.x * n
    var values = Array[SIMD[DType.float32, WIDTH], chunks](fill=SIMD[DType.float32, WIDTH](0))
    var squares = Float32(0)
    comptime for c in range(chunks):
        var i = (thread_idx.x + c * BLOCK) * WIDTH
        if i < n:
            var v = load_floats[WIDTH](x, row + i)
            comptime if add:
                v += load_floats[WIDTH](residual, row + i)
                store_floats[WIDTH](total, row + i, v)
            values[c] = v
            squares += (v * v).reduce_add()
    var scale = rsqrt(block_sum[BLOCK](squares) / Float32(n) + eps)
    comptime for c in range(chunks):
        var i = (thread_idx.x + c * BLOCK) * WIDTH
        if i < n:
            store_floats[WIDTH](y, row + i, values[c] * scale * load_floats[WIDTH](gamma, i))


def launch_rms_norm[
    x_type: DType, y_type: DType, add: Bool
](
    y: GpuWrite[y_type],
    total: GpuWrite[DType.float32],
    x: GpuRead[x_type],
    residual: GpuRead[DType.float32],
    gamma: GpuRead[DType.float32],
    rows: Int,
    size: Int,
    eps: Float32,
    ctx: DeviceContext,
) raises:
    """Launches the kernel for rows of `size` elements.

    Raises:
        Error: The size is no multiple of 8, or above 8,192.
    """
    if size % WIDTH != 0 or size > BLOCK * WIDTH * MAX_CHUNKS:
        raise Error("mili.rms_norm on a GPU: ", size, " columns; it must be a multiple of 8 up to 8192")
    comptime for c in range(3):
        comptime chunks = 1 << c
        if ceildiv(size, BLOCK * WIDTH) <= chunks:
            comptime kernel = rms_norm_kernel[x_type, y_type, chunks, add]
            ctx.enqueue_function[kernel](
                y, total, x, residual, gamma, Int32(size), eps, grid_dim=rows, block_dim=BLOCK
            )
            return
