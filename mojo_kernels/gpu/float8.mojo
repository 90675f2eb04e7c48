"""Activations as e4m3 with a scale for each row and 128 columns (DeepSeek-V3, arXiv:2412.19437, section 3.3.1)."""

from max.gpu import block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.memory import bitcast

from .block import BLOCK, GpuRead, GpuWrite, load_floats, shuffle_xor
from .linear_products import SCALED_COLUMNS

comptime WIDTH = 8
"""Elements a thread handles: 16 bytes of bfloat16."""
comptime LANES = SCALED_COLUMNS // WIDTH
"""Threads of a scale."""
comptime LARGEST = 448
"""Of e4m3."""


def quantize_float8_kernel(
    values: GpuWrite[DType.uint8],
    scales: GpuWrite[DType.float32],
    x: GpuRead[DType.bfloat16],
    rows: Int32,
    columns: Int32,
):
    """Each scale takes the largest of its columns to LARGEST; a grid of LANES threads for each.

    Args:
        values: [T, K], e4m3; K is a multiple of 16.
        scales: [T, K / 128], rounded up; 1 where all columns are 0.
        x: [T, K].
        rows: T.
        columns: K.
    """
    var size = Int(columns)
    var groups = ceildiv(size, SCALED_COLUMNS)
    var item = (block_idx.x * BLOCK + thread_idx.x) // LANES
    var row = item // groups
    var column = item % groups * SCALED_COLUMNS + thread_idx.x % LANES * WIDTH
    var there = row < Int(rows) and column < size
    var numbers = SIMD[DType.float32, WIDTH](0)
    if there:
        numbers = load_floats[WIDTH](x, row * size + column)
    var most = abs(numbers).reduce_max()
    comptime for step in range(4):
        most = max(most, shuffle_xor(most, 1 << step))
    var scale = most / LARGEST if most > 0 else Float32(1)
    if there:
        var rounded = bitcast[DType.uint8, WIDTH]((numbers / scale).cast[DType.float8_e4m3fn]())
        values.unsafe_store[alignment=WIDTH](row * size + column, rounded)
        if column % SCALED_COLUMNS == 0:
            scales[unsafe_offset=item] = scale


def launch_quantize_float8(
    values: GpuWrite[DType.uint8],
    scales: GpuWrite[DType.float32],
    x: GpuRead[DType.bfloat16],
    rows: Int,
    columns: Int,
    ctx: DeviceContext,
) raises:
    """Launches the kernel.

    Raises:
        Error: The columns are no multiple of 16.
    """
    if columns % 16 != 0:
        raise Error("mili.quantize_float8: ", columns, " columns; it must be a multiple of 16")
    if rows > 0:
        var blocks = ceildiv(rows * ceildiv(columns, SCALED_COLUMNS) * LANES, BLOCK)
        ctx.enqueue_function[quantize_float8_kernel](
            values, scales, x, Int32(rows), Int32(columns), grid_dim=blocks, block_dim=BLOCK
        )
