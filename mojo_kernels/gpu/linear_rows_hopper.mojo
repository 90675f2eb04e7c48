"""A linear layer of e4m3 on few rows on Hopper, with wgmma (sm_90a).

wgmma keeps 13 fractional bits of a sum of e4m3's products, `mma.sync` 25 (Xie et al. 2025, arXiv:2511.10909), so that a row
would have other bits among few rows than among many, which only wgmma multiplies as fast as Hopper can. Here as there
(`linear_hopper.mojo`) a group of 128 columns is four products.

The work is parted as in `linear_rows.mojo`: a block has FEW_OUTPUTS outputs; groups of columns go to its warpgroups in turn,
each of which copies the weights that it multiplies, some groups ahead. Of a product's 64 rows the first warp's 16 are
rows of x, in registers; the others are zeros.
"""

from max.gpu import block_idx, lane_id, thread_idx, warp_id
from max.gpu.memory import (
    AddressSpace,
    async_copy,
    async_copy_commit_group,
    async_copy_wait_group,
    external_memory,
)
from max.gpu.sync import barrier
from std.math import ceildiv, fma
from std.memory import bitcast, stack_allocation

from .async_barrier import meet, show_to_async
from .block import GpuRead, GpuWrite
from .linear_products import CHUNK, FLOAT8, SCALED_COLUMNS
from .linear_rows import THREADS, place_of, scale_of
from .mma import swizzled
from .wgmma import FEW_OUTPUTS, GROUP, few_rows_products

comptime WARPGROUPS = THREADS // GROUP
comptime STAGES = 8
"""Groups of a warpgroup of which weights are being copied or multiplied."""
comptime TOGETHER = 4
"""Groups of each warpgroup that are added up together."""
comptime STAGE_BYTES = FEW_OUTPUTS * SCALED_COLUMNS
comptime SHARED_BYTES = WARPGROUPS * STAGES * STAGE_BYTES
"""Dynamic shared memory of a block."""
comptime PARTS = WARPGROUPS * TOGETHER
comptime ELEMENTS = FEW_OUTPUTS // 2
"""Sums of a lane."""
comptime OWNED = ELEMENTS * 32 // THREADS
"""Elements of y of a thread."""
comptime Fragments = SIMD[DType.uint32, 16]
"""A lane's words of 16 rows of x in a group: four of each product, as `mma.mojo` has a left operand."""


@always_inline
def load_fragments(x: GpuRead[DType.uint8], rows: Int, columns: Int, column: Int) -> Fragments:
    """A lane's words of a group of x; zeros outside of x, and in all warps but a warpgroup's first."""
    var lane = lane_id()
    var result = Fragments(0)
    comptime for i in range(16):
        var row = warp_id() % 4 * 16 + lane // 4 + i % 2 * 8
        var at = column + i // 2 * 16 + lane % 4 * 4
        if row < rows and at < columns:
            result[i] = bitcast[DType.uint32, 1](x.unsafe_load[width=4, alignment=4](row * columns + at))
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
    """`y[T, N] = x[T, K] @ w[N, K].T` for up to 16 rows; the grid is (N / FEW_OUTPUTS), rounded up.

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
    var shared = external_memory[UInt8, address_space=AddressSpace.SHARED, alignment=1024]()
    var parts = stack_allocation[PARTS * ELEMENTS * 32, Float32, address_space=AddressSpace.SHARED]()
    var rows, outputs, columns = Int(row_count), Int(output_count), Int(column_count)
    var first = block_idx.x * FEW_OUTPUTS
    var warpgroup = thread_idx.x // GROUP
    var thread = thread_idx.x % GROUP
    var own = shared.unsafe_offset(warpgroup * STAGES * STAGE_BYTES)
    var groups = ceildiv(columns, SCALED_COLUMNS)
    var rounds = ceildiv(groups, PARTS)

    @always_inline
    @__parameter
    def copy(step: Int):
        """Begins to copy the weights of the warpgroup's group number `step`; zeros outside of the matrix."""
        var column = (step * WARPGROUPS + warpgroup) * SCALED_COLUMNS
        comptime for i in range(FEW_OUTPUTS // 16):
            var row, chunk = i * 16 + thread // 8, thread % 8
            var at = column + chunk * CHUNK
            var there = first + row < outputs and at < columns
            async_copy[CHUNK, fill=UInt8(0)](
                w.unsafe_offset((first + row) * columns + at if there else 0).unsafe_address_space_cast[
                    AddressSpace.GLOBAL
                ](),
                own.unsafe_offset(step % STAGES * STAGE_BYTES + 2 * swizzled[64](row, chunk)),
                Int32(CHUNK) if there else Int32(0),
            )
        async_copy_commit_group()

    comptime for step in range(STAGES - 1):
        copy(step)
    var totals = SIMD[DType.float32, OWNED](0)
    var fragments = load_fragments(x, rows, columns, warpgroup * SCALED_COLUMNS)
    for round in range(rounds):
        # Read now, so that nobody waits for them behind the barrier.
        var scales = Array[Float32, OWNED * PARTS](fill=Float32(0))
        comptime for j in range(OWNED):
            var at = place_of(j * THREADS + thread_idx.x)
            comptime for part in range(PARTS):
                if round * PARTS + part < groups:
                    scales[j * PARTS + part] = scale_of[FLOAT8](
                        x_scales, w_scales, at[0], first + at[1], round * PARTS + part, rows, outputs, columns
                    )
        for i in range(TOGETHER):
            var step = round * TOGETHER + i
            async_copy_wait_group(STAGES - 2)
            show_to_async()
            meet[GROUP](1 + warpgroup)  # the group's weights are there, and those of the one before were multiplied
            copy(step + STAGES - 1)
            var tile = own.unsafe_offset(step % STAGES * STAGE_BYTES).unsafe_bitcast[BFloat16]()
            var sums = few_rows_products(fragments, tile)
            fragments = load_fragments(x, rows, columns, ((step + 1) * WARPGROUPS + warpgroup) * SCALED_COLUMNS)
            if thread < 32:
                var part = i * WARPGROUPS + warpgroup
                comptime for element in range(ELEMENTS):
                    parts[unsafe_offset=(part * ELEMENTS + element) * 32 + thread] = sums[element]
        barrier()
        comptime for j in range(OWNED):
            comptime for part in range(PARTS):
                var sum = parts[unsafe_offset=part * ELEMENTS * 32 + j * THREADS + thread_idx.x]
                totals[j] = fma(sum, scales[j * PARTS + part], totals[j])
        barrier()
    comptime for j in range(OWNED):
        var at = place_of(j * THREADS + thread_idx.x)
        if at[0] < rows and first + at[1] < outputs:
            y[unsafe_offset=at[0] * outputs + first + at[1]] = totals[j].cast[y_type]()
