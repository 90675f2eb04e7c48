"""Kernels whose every output depends on a few inputs: gather, SwiGLU, the RoPE table."""

from max.gpu import block_dim, block_idx, thread_idx
from max.gpu.host import DeviceContext
from std.math import ceildiv, cos, exp, sin

from .block import BLOCK, GpuRead, GpuWrite, lanes, load_floats, store_floats

comptime WIDTH = 8
"""Elements a thread handles at once: 16 bytes of bfloat16."""


def gather_kernel[
    table_type: DType, y_type: DType
](y: GpuWrite[y_type], table: GpuRead[table_type], rows: GpuRead[DType.int32], size: Int32):
    """`y[r] = table[rows[r]]`, a block per row; the size is a multiple of WIDTH."""
    var n = Int(size)
    var source = Int(rows[unsafe_offset=block_idx.x]) * n
    var target = block_idx.x * n
    for i in range(thread_idx.x * WIDTH, n, BLOCK * WIDTH):
        store_floats[WIDTH](y, target + i, load_floats[WIDTH](table, source + i))


def launch_gather[
    table_type: DType, y_type: DType
](
    y: GpuWrite[y_type],
    table: GpuRead[table_type],
    rows: GpuRead[DType.int32],
    count: Int,
    size: Int,
    ctx: DeviceContext,
) raises:
    """Launches the kernel for `count` rows.

    Raises:
        Error: The size is no multiple of 8.
    """
    if size % WIDTH != 0:
        raise Error("mili.gather_rows on a GPU: ", size, " columns; it must be a multiple of 8")
    if count > 0:
        comptime kernel = gather_kernel[table_type, y_type]
        ctx.enqueue_function[kernel](y, table, rows, Int32(size), grid_dim=count, block_dim=BLOCK)


def swiglu_kernel[
    x_type: DType, y_type: DType
](y: GpuWrite[y_type], gate_up: GpuRead[x_type], rows: Int32, size: Int32):
    """`y = silu(gate) * up`, WIDTH elements per thread; the size is a multiple of WIDTH."""
    var groups = Int(size) // WIDTH
    var item = block_idx.x * BLOCK + thread_idx.x
    if item >= Int(rows) * groups:
        return
    var row = item // groups
    var i = item % groups * WIDTH
    var gate = load_floats[WIDTH](gate_up, 2 * row * Int(size) + i)
    var up = load_floats[WIDTH](gate_up, (2 * row + 1) * Int(size) + i)
    store_floats[WIDTH](y, row * Int(size) + i, gate / (1 + exp(-gate)) * up)


def launch_swiglu[
    x_type: DType, y_type: DType
](y: GpuWrite[y_type], gate_up: GpuRead[x_type], rows: Int, size: Int, ctx: DeviceContext) raises:
    """Launches the kernel.

    Raises:
        Error: The size is no multiple of 8.
    """
    if size % WIDTH != 0:
        raise Error("mili.swiglu on a GPU: ", size, " columns; it must be a multiple of 8")
    comptime kernel = swiglu_kernel[x_type, y_type]
    var blocks = ceildiv(rows * (size // WIDTH), BLOCK)
    ctx.enqueue_function[kernel](y, gate_up, Int32(rows), Int32(size), grid_dim=blocks, block_dim=BLOCK)


def rope_table_kernel(
    y: GpuWrite[DType.float32],
    positions: GpuRead[DType.int32],
    frequencies: GpuRead[DType.float32],
    half: Int32,
    scale: Float32,
):
    """A row of cosines and sines per block, an angle per thread."""
    var position = positions[unsafe_offset=block_idx.x].cast[DType.float32]()
    var row = block_idx.x * 2 * Int(half)
    for i in range(thread_idx.x, Int(half), block_dim.x):
        var angle = position * frequencies[unsafe_offset=i]
        y[unsafe_offset=row + i] = accurate_cos(angle) * scale
        y[unsafe_offset=row + Int(half) + i] = accurate_sin(angle) * scale


comptime TURN = 1.0 / 6.283185307179586
comptime TURN_HIGH = Float32(6.28125)
"""The first bits of 2 pi; times a number of turns below 2^15 it is exact."""
comptime TURN_LOW = Float32(6.283185307179586 - 6.28125)


@always_inline
def within_one_turn(angle: Float32) -> Float32:
    """The angle less whole turns: the hardware's sine loses bits, and far ones all of them (Cody and Waite 1980)."""
    var turns = (angle * Float32(TURN)).__round__()
    return (angle - turns * TURN_HIGH) - turns * TURN_LOW


@always_inline
def accurate_cos(angle: Float32) -> Float32:
    """The cosine of an angle of up to 100,000 turns."""
    return cos(within_one_turn(angle))


@always_inline
def accurate_sin(angle: Float32) -> Float32:
    """The sine, likewise."""
    return sin(within_one_turn(angle))


def launch_rope_table(
    y: GpuWrite[DType.float32],
    positions: GpuRead[DType.int32],
    frequencies: GpuRead[DType.float32],
    rows: Int,
    half: Int,
    scale: Float32,
    ctx: DeviceContext,
) raises:
    """Launches the kernel for `rows` positions."""
    ctx.enqueue_function[rope_table_kernel](
        y, positions, frequencies, Int32(half), scale, grid_dim=rows, block_dim=min(half, BLOCK)
    )
