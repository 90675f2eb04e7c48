"""A linear layer on many rows on Hopper: wgmma, and a producer warpgroup that copies (sm_90a).

A block has a tile of y. Its producer keeps a ring of steps filled, of which each has 128 bytes of the tile's rows of x and
w, in atoms under the 128-byte swizzle (`wgmma.mojo`): 64 columns of bfloat16, or 128 of e4m3 with their scales. Consumer
warpgroups have 64 rows each: while one waits for its products to end, the tensor cores multiply for the other. A row of x
or w has any place in memory, so `cp.async` copies 16 bytes at a time, and takes neither tensor maps nor weights in another
order (`step_copies.mojo`).

Products have the columns of those in `linear_rows.mojo`, or `linear_rows_hopper.mojo` for e4m3, and groups are added up as
there; on Hopper the bits of both are therefore the same (see `linear_products.mojo`).
"""

from max.gpu import MAX_THREADS_PER_BLOCK_METADATA, lane_id, thread_idx
from max.gpu.memory import AddressSpace, external_memory
from max.gpu.sync import barrier, syncwarp
from std.math import ceildiv, fma
from std.utils import StaticTuple

from .async_barrier import give_registers, show_to_async, take_registers
from .block import GpuRead, GpuWrite
from .linear_output import store_pairs, tile_place
from .linear_products import BFLOAT, FLOAT8, x_bytes
from .mma import SharedTile
from .ring import Ring
from .step_copies import STEP, produce_steps, step_words
from .wgmma import GROUP, GROUP_ROWS, add_rows_products

comptime PRODUCER_REGISTERS = 40
comptime CONSUMER_REGISTERS = 232
comptime TileSums[outputs: Int] = StaticTuple[Float32, outputs // 2]
"""A thread's part of 64 rows' sums: for every 8 outputs what `mma.mojo` says."""


@fieldwise_init
struct TileShape(TrivialRegisterPassable):
    """The tile of a block, and what it takes."""

    var consumers: Int
    """Warpgroups that multiply."""
    var outputs: Int
    var stages: Int
    """Steps of the ring."""

    def rows(self) -> Int:
        """Rows of the tile."""
        return self.consumers * GROUP_ROWS

    def threads(self) -> Int:
        """Threads of a block."""
        return (self.consumers + 1) * GROUP

    def step[format: Int](self) -> Int:
        """Words of a step."""
        return step_words(self.rows(), self.outputs, format == FLOAT8)

    def shared_bytes[format: Int](self) -> Int:
        """Dynamic shared memory of a block."""
        return self.stages * (2 * self.step[format]() + 16) + 8


comptime LARGE = TileShape(2, 192, 5)
"""The most outputs whose sums, and those of the groups before, fit a thread's registers."""
comptime SMALL = TileShape(1, 64, 6)
"""For so few rows or outputs that large tiles would leave a GPU idle; two blocks fit a multiprocessor."""
comptime NARROW = TileShape(1, 32, 8)
"""For fewer outputs still."""


@always_inline
def add_scaled[
    shape: TileShape
](mut totals: TileSums[shape.outputs], sums: TileSums[shape.outputs], tile: SharedTile, row: Int):
    """Adds a group's sums, times their scales in shared memory, to the totals; `row` is the thread's first."""
    var floats = tile.unsafe_offset((shape.rows() + shape.outputs) * STEP).unsafe_bitcast[Float32]()
    var low, high = floats[unsafe_offset=row], floats[unsafe_offset=row + 8]
    comptime for n in range(shape.outputs // 8):
        var of_outputs = floats[unsafe_offset=shape.rows() + n]
        comptime for i in range(4):
            var scale = (low if i < 2 else high) * of_outputs
            totals[n * 4 + i] = fma(sums[n * 4 + i], scale, totals[n * 4 + i])


@__llvm_metadata(MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](Int32(shape.threads())))
def hopper_linear_kernel[
    format: Int, y_type: DType, shape: TileShape
](
    y: GpuWrite[y_type],
    x: GpuRead[DType.uint8],
    w: GpuRead[DType.uint8],
    x_scales: GpuRead[DType.float32],
    w_scales: GpuRead[DType.float32],
    row_count: Int32,
    output_count: Int32,
    column_count: Int32,
    group: Int32,
):
    """`y[T, N] = x[T, K] @ w[N, K].T`; a block for each tile of y.

    Parameters:
        format: BFLOAT or FLOAT8.
        y_type: Type of y.
        shape: The tile's.

    Args:
        y: As in `linear_rows_kernel`, like all arguments.
        x: Likewise.
        w: Likewise.
        x_scales: Likewise.
        w_scales: Likewise.
        row_count: Likewise.
        output_count: Likewise.
        column_count: Likewise.
        group: Likewise.
    """
    comptime size = shape.step[format]()
    comptime columns_of_step = 2 * STEP // x_bytes[format]()
    var tiles = external_memory[BFloat16, address_space=AddressSpace.SHARED, alignment=1024]()
    var barriers = tiles.unsafe_offset(shape.stages * size).unsafe_bitcast[UInt64]()
    var kept = barriers.unsafe_offset(2 * shape.stages).unsafe_bitcast[Int32]()
    var ring = Ring[shape.stages, size](tiles, barriers)
    var rows, outputs = Int(row_count), Int(output_count)
    if thread_idx.x == 0:
        ring.init(GROUP, shape.consumers * 4)
        var place = tile_place[shape.rows(), shape.outputs](rows, outputs)
        kept[unsafe_offset=0] = Int32(place[0])
        kept[unsafe_offset=1] = Int32(place[1])
    barrier()
    var steps = ceildiv(column_count, Int32(columns_of_step))
    if thread_idx.x >= shape.consumers * GROUP:
        comptime if shape.consumers > 1:
            give_registers[PRODUCER_REGISTERS]()
        produce_steps[shape.rows(), shape.outputs, format == FLOAT8](
            ring,
            x,
            w,
            x_scales,
            w_scales,
            Int(kept[unsafe_offset=0]),
            Int(kept[unsafe_offset=1]),
            rows,
            outputs,
            Int(column_count) * x_bytes[format]() // 2,
        )
        return
    comptime if shape.consumers > 1:
        take_registers[CONSUMER_REGISTERS]()
    var own_row = thread_idx.x // 32 * 16 + lane_id() // 4
    var own_rows = thread_idx.x // GROUP * GROUP_ROWS * STEP
    var steps_of_group = group // Int32(columns_of_step)
    var totals = TileSums[shape.outputs](fill=0)
    for first in range(Int32(0), steps, steps_of_group):
        var sums = TileSums[shape.outputs](fill=0)
        # A loop of its own, so that nothing touches the sums while products run; of e4m3 it has one step.
        for _ in range(first, min(first + steps_of_group, steps)):
            ring.wait_until_full()
            show_to_async()
            var tile = ring.current()
            sums = add_rows_products[format == FLOAT8, shape.outputs](
                sums, tile.unsafe_offset(own_rows), tile.unsafe_offset(shape.rows() * STEP)
            )
            comptime if format == BFLOAT:
                ring.leave()
        comptime if format == BFLOAT:
            comptime for i in range(shape.outputs // 2):
                totals[i] += sums[i]
        else:
            add_scaled[shape](totals, sums, ring.current(), own_row)
            syncwarp()  # one lane leaves for all, which have read the scales
            ring.leave()
    # Read only now, so that the loop has the registers.
    var first_row = Int(kept[unsafe_offset=0]) + own_row
    var first_output = Int(kept[unsafe_offset=1])
    comptime for half in range(2):
        comptime for n in range(0, shape.outputs // 8, 2):
            comptime at = n * 4 + half * 2
            var first = SIMD[DType.float32, 2](totals[at], totals[at + 1])
            var second = SIMD[DType.float32, 2](totals[at + 4], totals[at + 5])
            store_pairs[y_type](y, first_row + half * 8, first_output + n * 8, rows, outputs, first, second)
