"""A linear layer of e4m3 on few rows on Hopper, with wgmma (sm_90a).

wgmma keeps 13 fractional bits of a sum of e4m3's products (Xie et al. 2025, arXiv:2511.10909), and `mma.sync`, which Hopper's
compilers make of products of float16, more: a row would have other bits among few rows than among many, which only wgmma
multiplies as fast as Hopper can. Here as there (`linear_hopper.mojo`) a group of 128 columns is four products.

A block has FEW_OUTPUTS outputs. Its producer keeps a ring filled with groups of x and w and their scales; they go to the
consumer warpgroups in turn, and their sums are added up in order. Of a product's 64 rows the first warp's 16 are rows of
x; the others are zeros.
"""

from max.gpu import block_idx, lane_id, thread_idx
from max.gpu.compute.mma import ld_matrix
from max.gpu.memory import AddressSpace, external_memory
from max.gpu.sync import barrier, syncwarp
from std.math import ceildiv, fma
from std.memory import bitcast, stack_allocation

from .async_barrier import meet, show_to_async
from .block import GpuRead, GpuWrite
from .linear_products import SCALED_COLUMNS, SCALED_OUTPUTS
from .linear_rows import ROWS, place_of
from .mma import SharedTile, swizzled
from .ring import Ring
from .step_copies import STEP, produce_steps, step_words
from .wgmma import FEW_OUTPUTS, GROUP, few_rows_products

comptime CONSUMERS = 2
"""Warpgroups that multiply."""
comptime ADDERS = CONSUMERS * GROUP
"""Threads that add up."""
comptime FEW_THREADS = ADDERS + GROUP
comptime TOGETHER = 4
"""Groups of each warpgroup that are added up together."""
comptime PARTS = CONSUMERS * TOGETHER
comptime SUMS = ROWS * FEW_OUTPUTS
"""Of a group."""
comptime OWNED = SUMS // ADDERS
"""Elements of y of a thread."""
comptime ACROSS = FEW_OUTPUTS // SCALED_OUTPUTS
comptime STAGES = 12
"""Groups of the ring."""
comptime STAGE = step_words(ROWS, FEW_OUTPUTS, True)
comptime FEW_SHARED = STAGES * (2 * STAGE + 16)
"""Dynamic shared memory of a block."""


@always_inline
def fragments_of(x: SharedTile) -> SIMD[DType.uint32, 16]:
    """A lane's words of 16 rows of a group: of each product four, as `mma.mojo` has a left operand."""
    var result = SIMD[DType.uint32, 16](0)
    comptime for k in range(4):
        var place = swizzled[STEP](lane_id() % 16, 2 * k + lane_id() // 16)
        var words = bitcast[DType.uint32, 4](ld_matrix[simd_width=8](x.unsafe_offset(place)))
        result = result.insert[offset=4 * k](words)
    return result


def hopper_linear_rows_kernel[
    y_type: DType
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
    """`y[T, N] = x[T, K] @ w[N, K].T` for up to ROWS rows; the grid is (N / FEW_OUTPUTS), rounded up.

    Parameters:
        y_type: Type of y.

    Args:
        y: As in `linear_rows_kernel`, like all arguments.
        x: Likewise.
        w: Likewise.
        x_scales: Likewise.
        w_scales: Likewise.
        row_count: Likewise.
        output_count: Likewise.
        column_count: Likewise.
        group: Likewise; it is SCALED_COLUMNS.
    """
    var tiles = external_memory[BFloat16, address_space=AddressSpace.SHARED, alignment=1024]()
    var ring = Ring[STAGES, STAGE](tiles, tiles.unsafe_offset(STAGES * STAGE).unsafe_bitcast[UInt64]())
    var parts = stack_allocation[PARTS * SUMS, Float32, address_space=AddressSpace.SHARED]()
    var scales = stack_allocation[PARTS * ROWS * ACROSS, Float32, address_space=AddressSpace.SHARED]()
    var rows, outputs = Int(row_count), Int(output_count)
    var first = block_idx.x * FEW_OUTPUTS
    var groups = ceildiv(column_count, Int32(SCALED_COLUMNS))
    if thread_idx.x == 0:
        ring.init(GROUP, 4)
    barrier()
    if thread_idx.x >= ADDERS:
        produce_steps[ROWS, FEW_OUTPUTS, True](
            ring, x, w, x_scales, w_scales, 0, first, rows, outputs, Int(column_count) // 2
        )
        return
    var warpgroup = thread_idx.x // GROUP
    var thread = thread_idx.x % GROUP
    if warpgroup == 1:
        ring.advance()
    var totals = SIMD[DType.float32, OWNED](0)
    for begin in range(Int32(0), groups, Int32(PARTS)):
        for part in range(Int32(warpgroup), min(Int32(PARTS), groups - begin), Int32(CONSUMERS)):
            ring.wait_until_full()
            show_to_async()
            var tile = ring.current()
            var fragments = SIMD[DType.uint32, 16](0)
            if thread < 32:
                fragments = fragments_of(tile)
            var sums = few_rows_products(fragments, tile.unsafe_offset(ROWS * STEP))
            if thread < 32:
                comptime for i in range(SUMS // 32):
                    parts[unsafe_offset=part * Int32(SUMS) + Int32(i * 32 + thread)] = sums[i]
            if thread < ROWS * ACROSS:
                var floats = tile.unsafe_offset((ROWS + FEW_OUTPUTS) * STEP).unsafe_bitcast[Float32]()
                var scale = floats[unsafe_offset=thread // ACROSS] * floats[unsafe_offset=ROWS + thread % ACROSS]
                scales[unsafe_offset=part * Int32(ROWS * ACROSS) + Int32(thread)] = scale
            syncwarp()  # one lane leaves for all, which have read x and the scales
            ring.leave()
            comptime for _ in range(CONSUMERS - 1):
                ring.advance()
        meet[ADDERS](1)
        comptime for j in range(OWNED):
            var element = j * ADDERS + thread_idx.x
            var at = place_of(element)
            comptime for part in range(PARTS):
                if begin + Int32(part) < groups:
                    var scale = scales[unsafe_offset=(part * ROWS + at[0]) * ACROSS + at[1] // SCALED_OUTPUTS]
                    totals[j] = fma(parts[unsafe_offset=part * SUMS + element], scale, totals[j])
        meet[ADDERS](1)
    comptime for j in range(OWNED):
        var at = place_of(j * ADDERS + thread_idx.x)
        if at[0] < rows and first + at[1] < outputs:
            y[unsafe_offset=at[0] * outputs + first + at[1]] = totals[j].cast[y_type]()
