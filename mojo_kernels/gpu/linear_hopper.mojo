"""A linear layer on many rows on Hopper: wgmma, and a producer warpgroup that copies (sm_90a; bfloat16).

A block has a tile of ROWS x OUTPUTS of y. Its producer's threads keep a ring of steps filled, of which each has 64 columns
of the tile's rows of x and w, in atoms under the 128-byte swizzle (`wgmma.mojo`). Two consumer warpgroups have 64 rows
each: while one waits for its products to end, the tensor cores multiply for the other. A row of x or w has any place in
memory, so `cp.async` copies 16 bytes at a time, and takes neither tensor maps nor weights in another order.

Products have the columns of those in `linear_rows.mojo`, and groups are added up as there; on Hopper the bits of both
are therefore the same (see `linear_products.mojo`).
"""

from max.gpu import MAX_THREADS_PER_BLOCK_METADATA, block_idx, lane_id, thread_idx
from max.gpu.compute.mma import WGMMADescriptor, wgmma_async, wgmma_commit_group_sync, wgmma_fence_aligned, wgmma_wait_group_sync
from max.gpu.memory import (
    AddressSpace,
    async_copy,
    async_copy_commit_group,
    async_copy_wait_group,
    external_memory,
)
from max.gpu.sync import barrier
from std.math import ceildiv
from std.utils import StaticTuple

from ..utils.types import ReadPtr
from .async_barrier import arrive, give_registers, show_to_async, take_registers
from .block import GpuRead, GpuWrite
from .key_ring import Ring
from .linear_products import CHUNK
from .linear_tile import store_pair, tile_place
from .mma import SharedTile, swizzled
from .wgmma import GROUP, GROUP_ROWS, descriptor

comptime CONSUMERS = 2
"""Warpgroups that multiply."""
comptime ROWS = CONSUMERS * GROUP_ROWS
"""Of a tile."""
comptime OUTPUTS = 192
"""Of a tile: the most whose sums, and those of the groups before, fit a thread's registers."""
comptime STEP = 64
"""Columns of a step."""
comptime STAGES = 5
"""Steps of the ring."""
comptime AHEAD = 3
"""Steps that a producer's thread is copying at a time; the others have come, or are being multiplied."""
comptime THREADS = (CONSUMERS + 1) * GROUP
comptime CHUNKS = STEP // 8
"""Of 16 bytes in a row of a step."""
comptime TILE = (ROWS + OUTPUTS) * STEP
"""Elements of a step."""
comptime PRODUCER_REGISTERS = 40
comptime CONSUMER_REGISTERS = 232
comptime TileSums = StaticTuple[Float32, OUTPUTS // 2]
"""A thread's part of 64 rows' sums."""


def shared_bytes() -> Int:
    """Dynamic shared memory of a block."""
    return STAGES * TILE * 2 + 16 * STAGES + 8


@fieldwise_init
struct Source[tile: Int](TrivialRegisterPassable):
    """Where a producer's thread reads a tile's rows of a matrix: every 16th of them, the same 8 columns of a step."""

    var next: ReadPtr[DType.bfloat16]
    """The columns of the next step in its first row."""
    var row_size: Int
    """Elements from a row to the next."""
    var rows: Int32
    """How many rows of the matrix there are from its first one on."""
    var columns: Int32
    """How many columns there are from `next` on."""

    @staticmethod
    @always_inline
    def of(matrix: GpuRead[DType.bfloat16], first: Int, count: Int, columns: Int) -> Self:
        """That of the tile whose first row is `first`, in a matrix of `count` rows."""
        var row = first + thread_idx.x % GROUP // CHUNKS
        var column = thread_idx.x % CHUNKS * 8
        var next = matrix.unsafe_offset(row * columns + column).unsafe_origin_cast[ImmUntrackedOrigin]()
        return Self(next, columns, Int32(count - row), Int32(columns - column))

    @always_inline
    def copy_step(mut self, target: SharedTile):
        """Begins to copy the next step, by all threads of the producer together; zeros outside of the matrix.

        Args:
            target: [tile, STEP] in atoms.
        """
        comptime rows = GROUP // CHUNKS
        var thread = thread_idx.x % GROUP
        # Sixteen rows further, the swizzle is the same.
        var to_row = target.unsafe_offset(swizzled[STEP](thread // CHUNKS, thread % CHUNKS))
        var from_row = self.next
        comptime for i in range(Self.tile // rows):
            var there = self.columns > 0 and Int32(i * rows) < self.rows
            # What is not there is not read, but an address it must have.
            async_copy[CHUNK, fill=BFloat16(0)](
                (from_row if there else self.next).unsafe_address_space_cast[AddressSpace.GLOBAL](),
                to_row.unsafe_offset(i * rows * STEP),
                Int32(CHUNK) if there else Int32(0),
            )
            from_row = from_row.unsafe_offset(rows * self.row_size)
        self.next = self.next.unsafe_offset(STEP)
        self.columns -= Int32(STEP)


@always_inline
def add_step(sums: TileSums, x: SharedTile, w: SharedTile) -> TileSums:
    """Adds the products of a step's 64 rows and the tile's outputs, by all threads of a warpgroup together.

    Args:
        sums: A thread's part.
        x: [64, STEP] in atoms.
        w: [OUTPUTS, STEP] in atoms.

    Returns:
        The new sums.
    """
    var left, right = descriptor(x, 16, 1024), descriptor(w, 16, 1024)
    var result = sums
    wgmma_fence_aligned()
    comptime for k in range(STEP // 16):
        # Sixteen columns are 32 bytes of an atom's row.
        comptime along = UInt64(k * 32 >> 4)
        result = wgmma_async[
            64, OUTPUTS, 16, DType.float32, OUTPUTS // 2, a_type=DType.bfloat16, b_type=DType.bfloat16
        ](
            WGMMADescriptor[DType.bfloat16](Int64(left + along)),
            WGMMADescriptor[DType.bfloat16](Int64(right + along)),
            result,
        )
    wgmma_commit_group_sync()
    wgmma_wait_group_sync()
    return result


@__llvm_metadata(MAX_THREADS_PER_BLOCK_METADATA=StaticTuple[Int32, 1](Int32(THREADS)))
def hopper_linear_kernel[
    y_type: DType
](
    y: GpuWrite[y_type],
    x: GpuRead[DType.bfloat16],
    w: GpuRead[DType.bfloat16],
    row_count: Int32,
    output_count: Int32,
    column_count: Int32,
    group: Int32,
):
    """`y[T, N] = x[T, K] @ w[N, K].T`; a block for each tile of y.

    Parameters:
        y_type: Type of y.

    Args:
        y: [T, N].
        x: [T, K], aligned to 16 bytes; 8 divides K.
        w: [N, K], likewise.
        row_count: T.
        output_count: N.
        column_count: K.
        group: Columns of a group, a multiple of STEP.
    """
    var tiles = external_memory[BFloat16, address_space=AddressSpace.SHARED, alignment=1024]()
    var barriers = tiles.unsafe_offset(STAGES * TILE).unsafe_bitcast[UInt64]()
    var kept = barriers.unsafe_offset(2 * STAGES).unsafe_bitcast[Int32]()
    var ring = Ring[STAGES, TILE](tiles, barriers)
    var rows, outputs, columns = Int(row_count), Int(output_count), Int(column_count)
    if thread_idx.x == 0:
        ring.init(GROUP, CONSUMERS * 4)
        var place = tile_place[ROWS, OUTPUTS](rows, outputs)
        kept[unsafe_offset=0] = Int32(place[0])
        kept[unsafe_offset=1] = Int32(place[1])
    barrier()
    var steps = ceildiv(column_count, Int32(STEP))
    if thread_idx.x >= CONSUMERS * GROUP:
        give_registers[PRODUCER_REGISTERS]()
        var of_x = Source[ROWS].of(x, Int(kept[unsafe_offset=0]), rows, columns)
        var of_w = Source[OUTPUTS].of(w, Int(kept[unsafe_offset=1]), outputs, columns)
        var came = ring
        for step in range(steps + Int32(AHEAD)):
            if step < steps:
                ring.wait_until_empty()
                of_x.copy_step(ring.current())
                of_w.copy_step(ring.current().unsafe_offset(ROWS * STEP))
                ring.advance()
            async_copy_commit_group()
            if step >= Int32(AHEAD):
                async_copy_wait_group(Int32(AHEAD))
                show_to_async()
                arrive(came.came(), True)
                came.advance()
        return
    take_registers[CONSUMER_REGISTERS]()
    var own_rows = thread_idx.x // GROUP * GROUP_ROWS * STEP
    var totals = TileSums(fill=0)
    for first in range(Int32(0), steps, group // Int32(STEP)):
        var sums = TileSums(fill=0)
        # A loop of its own, so that nothing touches the sums while products run.
        for _ in range(first, min(first + group // Int32(STEP), steps)):
            ring.wait_until_full()
            var tile = ring.current()
            sums = add_step(sums, tile.unsafe_offset(own_rows), tile.unsafe_offset(ROWS * STEP))
            ring.leave()
        comptime for i in range(OUTPUTS // 2):
            totals[i] += sums[i]
    # Read only now, so that the loop has the registers.
    var first_row = Int(kept[unsafe_offset=0]) + thread_idx.x // 32 * 16 + lane_id() // 4
    var first_output = Int(kept[unsafe_offset=1]) + lane_id() % 4 * 2
    comptime for half in range(2):
        comptime for n in range(OUTPUTS // 8):
            comptime at = n * 4 + half * 2
            var pair = SIMD[DType.float32, 2](totals[at], totals[at + 1])
            store_pair[y_type](y, first_row + half * 8, first_output + n * 8, rows, outputs, pair)
