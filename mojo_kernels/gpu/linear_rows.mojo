"""A linear layer on few rows, which takes the time that its weights take to be read.

A block of eight warps has 8 x TILES outputs; the groups of columns (`group_columns`) go to its warps in turn. Each
warp copies the chunks of w that it multiplies itself, some steps ahead, so warps wait for each other only where groups
are added up, in order.
"""

from max.gpu import block_idx, lane_id, thread_idx, warp_id
from max.gpu.compute.mma import ld_matrix
from max.gpu.memory import (
    AddressSpace,
    async_copy,
    async_copy_commit_group,
    async_copy_wait_group,
    external_memory,
)
from max.gpu.sync import barrier, syncwarp
from std.math import ceildiv, fma
from std.memory import bitcast, stack_allocation

from .block import GpuRead, GpuWrite
from .linear_products import (
    BFLOAT,
    CHUNK,
    Chunk,
    FLOAT8,
    SCALED_COLUMNS,
    SCALED_OUTPUTS,
    Words,
    add_unit,
    unit_columns,
    w_bytes,
    x_bytes,
    x_chunks,
)
from .mma import Sums

comptime ROWS = 16
"""Most rows."""
comptime WARPS = 8
comptime THREADS = 32 * WARPS
comptime STAGES = 4
"""Steps of which weights are being copied or multiplied."""


def shared_bytes[tiles: Int]() -> Int:
    """Dynamic shared memory of a block."""
    return STAGES * tiles * THREADS * CHUNK


@always_inline
def load_words[
    format: Int
](x: GpuRead[DType.uint8], row: Int, rows: Int, columns: Int, column: Int) -> Words[format]:
    """A lane's words of a row of x in the unit that begins at `column`; zeros outside of x."""
    comptime if format == BFLOAT:
        var words = Words[format](0)
        comptime for i in range(4):
            var pair = column + i * 8 + lane_id() % 4 * 2
            if row < rows and pair < columns:
                words[i] = bitcast[DType.uint32, 1](x.unsafe_load[width=4, alignment=4]((row * columns + pair) * 2))
        return words
    comptime size = x_chunks[format]() * CHUNK
    var at = column * x_bytes[format]() + lane_id() % 4 * size
    var result = Words[format](0)
    comptime for i in range(x_chunks[format]()):
        if row < rows and at + i * CHUNK < columns * x_bytes[format]():
            var place = row * columns * x_bytes[format]() + at + i * CHUNK
            var words = bitcast[DType.uint32, 4](x.unsafe_load[width=CHUNK, alignment=CHUNK](place))
            result = result.insert[offset=4 * i](words)
    return result


@always_inline
def place_in_step[format: Int](row: Int, chunk: Int) -> Int:
    """Where a warp has a chunk of a step's eight rows of w, in bytes.

    Lanes read their own chunks; but of bfloat16 a warp reads a chunk of all rows at once (`ldmatrix`), which must lie
    in different banks.
    """
    return (row * 4 + (chunk ^ row // 2 if format == BFLOAT else chunk)) * CHUNK


@always_inline
def weights_at[format: Int](step: MutPointer[UInt8, _, address_space=AddressSpace.SHARED]) -> Chunk:
    """A lane's words of a step's eight rows of w."""
    var lane = lane_id()
    comptime if format == BFLOAT:
        var tile = step.unsafe_offset(place_in_step[format](lane % 8, lane // 8)).unsafe_bitcast[BFloat16]()
        return bitcast[DType.uint32, 4](ld_matrix[simd_width=8](tile))
    var chunk = step.unsafe_load[width=CHUNK, alignment=CHUNK](place_in_step[format](lane // 4, lane % 4))
    return bitcast[DType.uint32, 4](chunk)


@fieldwise_init
struct Place(TrivialRegisterPassable):
    """Where a warp is in its groups; what lies beyond the last column is zero."""

    var column: Int
    """First of a unit."""
    var unit: Int
    """Its number in the group."""

    @always_inline
    def move[width: Int](mut self, units: Int):
        """On to the next unit; after the last of a group, of the warp's next group."""
        self.column += width
        self.unit += 1
        if self.unit == units:
            self.unit = 0
            self.column += (WARPS - 1) * units * width


def linear_rows_kernel[
    format: Int, y_type: DType, tiles: Int
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
    """`y[T, N] = x[T, K] @ w[N, K].T` for up to ROWS rows; the grid is (N / (8 tiles)), rounded up.

    Parameters:
        format: Of x and w.
        y_type: Type of y.
        tiles: Eights of outputs of a block.

    Args:
        y: [T, N].
        x: [T, K]; K times an element's bytes is a multiple of 16, of w as well.
        w: [N, K].
        x_scales: [T, K / 128], rounded up, where both are e4m3.
        w_scales: [N / 8, K / 128], both rounded up, where w is e4m3.
        row_count: T.
        output_count: N.
        column_count: K.
        group: Columns of a group.
    """
    comptime width = unit_columns[format]()
    comptime elements = tiles * 4
    comptime owned = elements * 32 // THREADS
    var shared = external_memory[UInt8, address_space=AddressSpace.SHARED, alignment=16]()
    var parts = stack_allocation[WARPS * elements * 32, Float32, address_space=AddressSpace.SHARED]()
    var rows, outputs, columns = Int(row_count), Int(output_count), Int(column_count)
    var first = block_idx.x * tiles * 8
    var lane = lane_id()
    var units = Int(group) // width
    var steps = ceildiv(columns, Int(group) * WARPS) * units
    var own = shared.unsafe_offset(warp_id() * 32 * CHUNK)
    var slot = place_in_step[format](lane // 4, lane % 4)

    var copied = Place(warp_id() * Int(group), 0)

    @always_inline
    @__parameter
    def copy(step: Int):
        comptime for n in range(tiles):
            var row = first + n * 8 + lane // 4
            var at = copied.column * w_bytes[format]() + lane % 4 * CHUNK
            var there = row < outputs and at < columns * w_bytes[format]()
            var source = row * columns * w_bytes[format]() + at if there else 0
            async_copy[CHUNK, fill=UInt8(0)](
                w.unsafe_offset(source).unsafe_address_space_cast[AddressSpace.GLOBAL](),
                own.unsafe_offset((step % STAGES * tiles + n) * THREADS * CHUNK + slot),
                Int32(CHUNK) if there else Int32(0),
            )
        async_copy_commit_group()
        copied.move[width](units)

    comptime for step in range(STAGES - 1):
        copy(step)
    var sums = Array[Sums, tiles](fill=Sums(0))
    var totals = SIMD[DType.float32, owned](0)
    var place = Place(warp_id() * Int(group), 0)
    var low = load_words[format](x, lane // 4, rows, columns, place.column)
    var high = load_words[format](x, lane // 4 + 8, rows, columns, place.column)
    var first_group = 0
    for step in range(steps):
        async_copy_wait_group(STAGES - 2)
        comptime if format == BFLOAT:
            syncwarp()  # a lane reads what others copied
        var weights = Array[Chunk, tiles](fill=Chunk(0))
        comptime for n in range(tiles):
            weights[n] = weights_at[format](own.unsafe_offset((step % STAGES * tiles + n) * THREADS * CHUNK))
        copy(step + STAGES - 1)
        place.move[width](units)
        var next_low = load_words[format](x, lane // 4, rows, columns, place.column)
        var next_high = load_words[format](x, lane // 4 + 8, rows, columns, place.column)
        comptime for n in range(tiles):
            add_unit[format](sums[n], low, high, weights[n])
        low = next_low
        high = next_high
        if place.unit == 0:  # a group of each warp is complete
            comptime for n in range(tiles):
                comptime for i in range(4):
                    parts[unsafe_offset=(warp_id() * elements + n * 4 + i) * 32 + lane] = sums[n][i]
                sums[n] = Sums(0)
            barrier()
            comptime for j in range(owned):
                var element = j * THREADS + thread_idx.x
                var at = place_of(element)
                comptime for part in range(WARPS):
                    var group_at = first_group + part
                    if group_at * Int(group) < columns:
                        var sum = parts[unsafe_offset=part * elements * 32 + element]
                        comptime if format == BFLOAT:
                            totals[j] += sum
                        else:
                            var scale = scale_of[format](
                                x_scales, w_scales, at[0], first + at[1], group_at, rows, outputs, columns
                            )
                            totals[j] = fma(sum, scale, totals[j])
            first_group += WARPS
            barrier()
    comptime for j in range(owned):
        var at = place_of(j * THREADS + thread_idx.x)
        if at[0] < rows and first + at[1] < outputs:
            y[unsafe_offset=at[0] * outputs + first + at[1]] = totals[j].cast[y_type]()


@always_inline
def place_of(element: Int) -> Tuple[Int, Int]:
    """The row and the output of the block that an element of a warp's sums is; see `mma.mojo`."""
    var lane, i, n = element % 32, element // 32 % 4, element // 128
    return lane // 4 + i // 2 * 8, n * 8 + lane % 4 * 2 + i % 2


@always_inline
def scale_of[
    format: Int
](
    x_scales: GpuRead[DType.float32],
    w_scales: GpuRead[DType.float32],
    row: Int,
    output: Int,
    group: Int,
    rows: Int,
    outputs: Int,
    columns: Int,
) -> Float32:
    """What a group's sum has to be multiplied with; 0 outside of y."""
    var groups = ceildiv(columns, SCALED_COLUMNS)
    if row >= rows or output >= outputs:
        return 0
    var scale = w_scales[unsafe_offset=output // SCALED_OUTPUTS * groups + group]
    comptime if format == FLOAT8:
        scale *= x_scales[unsafe_offset=row * groups + group]
    return scale
