"""A linear layer on many rows, in tiles of rows by outputs.

A block copies the next columns of its rows of x and w to shared memory, some steps ahead, while its warps multiply.
Each warp has a part of the tile's sums in registers. Groups of columns are added up as on few rows
(`linear_rows.mojo`), so that a row has the same bits in either kernel and in a tile of any size.
"""

from max.gpu import lane_id, thread_idx, warp_id
from max.gpu.compute.mma import ld_matrix
from max.gpu.memory import (
    AddressSpace,
    async_copy,
    async_copy_commit_group,
    async_copy_wait_group,
    external_memory,
)
from max.gpu.sync import barrier
from std.math import ceildiv, fma
from std.memory import bitcast

from .block import GpuRead, GpuWrite
from .linear_products import (
    BFLOAT,
    CHUNK,
    Chunk,
    FLOAT8,
    SCALED_COLUMNS,
    SCALED_OUTPUTS,
    WIDENED,
    Words,
    add_unit,
    unit_columns,
    w_bytes,
    x_bytes,
    x_chunks,
)
from .linear_output import store_pairs, tile_place
from .mma import Sums

comptime ROW_BYTES = 128
"""Of a row of x in shared memory."""
comptime SharedBytes = MutPointer[UInt8, _, address_space=AddressSpace.SHARED]


def stage_count[tile_rows: Int]() -> Int:
    """Steps whose columns are being copied or multiplied; small tiles are few, and need more to keep memory busy."""
    return 3 if tile_rows > 64 else 6


def step_columns[format: Int]() -> Int:
    """Columns that are copied at a time."""
    return ROW_BYTES // x_bytes[format]()


def shared_bytes[format: Int, tile_rows: Int, tile_outputs: Int]() -> Int:
    """Dynamic shared memory of a block."""
    return stage_count[tile_rows]() * (tile_rows * ROW_BYTES + tile_outputs * step_columns[format]() * w_bytes[format]())


@always_inline
def place_in[format: Int, row_bytes: Int](row: Int, chunk: Int) -> Int:
    """Where a chunk of a row lies in shared memory.

    What is read at once must lie in different banks, in rows of 128 bytes. Of bfloat16 that is a chunk of eight rows
    (`ldmatrix`); else eight lanes read four chunks of a row, which of x that goes with widened weights are every other
    one, and the same of the next row.
    """
    comptime if row_bytes == ROW_BYTES:
        comptime if format == BFLOAT:
            return row * row_bytes + (chunk ^ row % 8) * CHUNK
        comptime flip = 1 if format == WIDENED else 4
        return row * row_bytes + (chunk ^ (row % 2 * flip)) * CHUNK
    else:
        return row * row_bytes + chunk * CHUNK


@always_inline
def copy_rows[
    format: Int, row_bytes: Int, tile: Int, threads: Int
](target: SharedBytes, source: GpuRead[DType.uint8], first: Int, count: Int, size: Int, offset: Int):
    """Begins to copy a tile of rows; zeros outside of the matrix.

    Parameters:
        format: Of x and w.
        row_bytes: Bytes to copy of each row.
        tile: Rows.
        threads: Of the block.

    Args:
        target: Shared memory.
        source: The matrix.
        first: First row.
        count: Rows of the matrix.
        size: Bytes of its rows.
        offset: Of the first byte in each row.
    """
    comptime chunks = row_bytes // CHUNK
    comptime rows = threads // chunks
    var chunk = thread_idx.x % chunks
    comptime for i in range(tile // rows):
        var row = i * rows + thread_idx.x // chunks
        var at = offset + chunk * CHUNK
        var there = first + row < count and at < size
        async_copy[CHUNK, fill=UInt8(0)](
            source.unsafe_offset((first + row) * size + at if there else 0).unsafe_address_space_cast[
                AddressSpace.GLOBAL
            ](),
            target.unsafe_offset(place_in[format, row_bytes](row, chunk)),
            Int32(CHUNK) if there else Int32(0),
        )


@always_inline
def chunks_at[
    format: Int, row_bytes: Int, chunks: Int
](tile: SharedBytes, row: Int, unit: Int) -> SIMD[DType.uint32, 4 * chunks]:
    """A lane's chunks of a row of a tile."""
    var result = SIMD[DType.uint32, 4 * chunks](0)
    comptime for i in range(chunks):
        var chunk = (unit * 4 + lane_id() % 4) * chunks + i
        var bytes = tile.unsafe_load[width=CHUNK, alignment=CHUNK](place_in[format, row_bytes](row, chunk))
        result = result.insert[offset=4 * i](bitcast[DType.uint32, 4](bytes))
    return result


@always_inline
def matrices_at(tile: SharedBytes, row: Int, chunk: Int) -> Chunk:
    """A lane's words of four 8 x 8 matrices of bfloat16, of which this lane names a row of one (`ldmatrix`)."""
    var place = tile.unsafe_offset(place_in[BFLOAT, ROW_BYTES](row, chunk)).unsafe_bitcast[BFloat16]()
    return bitcast[DType.uint32, 4](ld_matrix[simd_width=8](place))


@always_inline
def weights_at[format: Int, row_bytes: Int](tile: SharedBytes, output: Int, unit: Int) -> Chunk:
    """A lane's words of eight rows of w from `output` on."""
    var lane = lane_id()
    comptime if format == BFLOAT:
        return matrices_at(tile, output + lane % 8, unit * 4 + lane // 8)
    return chunks_at[format, row_bytes, 1](tile, output + lane // 4, unit)


@always_inline
def rows_at[format: Int](tile: SharedBytes, row: Int, unit: Int) -> Tuple[Words[format], Words[format]]:
    """A lane's words of 16 rows of x from `row` on: of row g, and of row g + 8."""
    var lane = lane_id()
    comptime if format == BFLOAT:
        var first = matrices_at(tile, row + lane % 16, unit * 4 + lane // 16)
        var second = matrices_at(tile, row + lane % 16, unit * 4 + 2 + lane // 16)
        var low = Chunk(first[0], first[2], second[0], second[2])
        var high = Chunk(first[1], first[3], second[1], second[3])
        return rebind[Words[format]](low), rebind[Words[format]](high)
    return (
        chunks_at[format, ROW_BYTES, x_chunks[format]()](tile, row + lane // 4, unit),
        chunks_at[format, ROW_BYTES, x_chunks[format]()](tile, row + lane // 4 + 8, unit),
    )


def linear_tile_kernel[
    format: Int, y_type: DType, tile_rows: Int, tile_outputs: Int, warp_rows: Int
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
    """`y[T, N] = x[T, K] @ w[N, K].T`; a block for each tile of y, warps of `warp_rows` x 32.

    Parameters:
        format: Of x and w.
        y_type: Type of y.
        tile_rows: Rows of a tile.
        tile_outputs: Outputs of a tile.
        warp_rows: Rows of a warp.

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
    comptime down = warp_rows // 16
    comptime across = 4
    comptime warp_outputs = across * 8
    comptime warps_across = tile_outputs // warp_outputs
    comptime threads = tile_rows // warp_rows * warps_across * 32
    comptime stages = stage_count[tile_rows]()
    comptime step_size = step_columns[format]()
    comptime w_row_bytes = step_size * w_bytes[format]()
    comptime x_tile_bytes = tile_rows * ROW_BYTES
    comptime stage_bytes = x_tile_bytes + tile_outputs * w_row_bytes
    var shared = external_memory[UInt8, address_space=AddressSpace.SHARED, alignment=128]()
    var rows, outputs, columns = Int(row_count), Int(output_count), Int(column_count)

    var place = tile_place[tile_rows, tile_outputs](rows, outputs)
    var first_row, first_output = place[0], place[1]
    var warp_row = warp_id() // warps_across * warp_rows
    var warp_output = warp_id() % warps_across * warp_outputs
    var lane = lane_id()
    var steps = ceildiv(columns, step_size)
    var steps_per_group = Int(group) // step_size

    @always_inline
    @__parameter
    def copy(step: Int):
        if step < steps:
            var stage = shared.unsafe_offset(step % stages * stage_bytes)
            copy_rows[format, ROW_BYTES, tile_rows, threads](
                stage, x, first_row, rows, columns * x_bytes[format](), step * ROW_BYTES
            )
            copy_rows[format, w_row_bytes, tile_outputs, threads](
                stage.unsafe_offset(x_tile_bytes),
                w,
                first_output,
                outputs,
                columns * w_bytes[format](),
                step * w_row_bytes,
            )
        async_copy_commit_group()

    comptime for step in range(stages - 1):
        copy(step)
    var sums = Array[Sums, down * across](fill=Sums(0))
    var totals = Array[Sums, down * across](fill=Sums(0))
    var group_at = 0
    var left = steps_per_group
    for step in range(steps):
        async_copy_wait_group(Int32(stages - 2))
        barrier()  # the step's columns are there, and those of the one before have been read
        copy(step + stages - 1)
        var x_tile = shared.unsafe_offset(step % stages * stage_bytes)
        var w_tile = x_tile.unsafe_offset(x_tile_bytes)
        for unit in range(step_size // unit_columns[format]()):
            var weights = Array[Chunk, across](fill=Chunk(0))
            comptime for n in range(across):
                weights[n] = weights_at[format, w_row_bytes](w_tile, warp_output + n * 8, unit)
            comptime for m in range(down):
                var words = rows_at[format](x_tile, warp_row + m * 16, unit)
                comptime for n in range(across):
                    add_unit[format](sums[m * across + n], words[0], words[1], weights[n])
        left -= 1
        if left == 0 or step + 1 == steps:
            comptime if format == BFLOAT:
                comptime for i in range(down * across):
                    totals[i] += sums[i]
                    sums[i] = Sums(0)
            else:
                add_scaled[format, down, across](
                    totals,
                    sums,
                    x_scales,
                    w_scales,
                    first_row + warp_row + lane // 4,
                    first_output + warp_output,
                    group_at,
                    rows,
                    outputs,
                    ceildiv(columns, SCALED_COLUMNS),
                )
            left = steps_per_group
            group_at += 1
    comptime for m in range(down):
        comptime for half in range(2):
            var row = first_row + warp_row + m * 16 + half * 8 + lane // 4
            comptime for n in range(0, across, 2):
                var first = totals[m * across + n].slice[2, offset=2 * half]()
                var second = totals[m * across + n + 1].slice[2, offset=2 * half]()
                store_pairs[y_type](y, row, first_output + warp_output + n * 8, rows, outputs, first, second)


@always_inline
def add_scaled[
    format: Int, down: Int, across: Int
](
    mut totals: Array[Sums, down * across],
    mut sums: Array[Sums, down * across],
    x_scales: GpuRead[DType.float32],
    w_scales: GpuRead[DType.float32],
    row: Int,
    output: Int,
    group: Int,
    rows: Int,
    outputs: Int,
    groups: Int,
):
    """Adds a group's sums, times their scales, to the totals, and begins new sums.

    Rows and outputs outside of y take the scales of the last ones; nothing comes of them.
    """
    var of_outputs = Array[Float32, across](fill=Float32(0))
    comptime for n in range(across):
        var place = min(output + n * 8, outputs - 1) // SCALED_OUTPUTS
        of_outputs[n] = w_scales[unsafe_offset=place * groups + group]
    comptime for m in range(down):
        var low, high = Float32(1), Float32(1)
        comptime if format == FLOAT8:
            low = x_scales[unsafe_offset=min(row + m * 16, rows - 1) * groups + group]
            high = x_scales[unsafe_offset=min(row + m * 16 + 8, rows - 1) * groups + group]
        comptime for n in range(across):
            var scale = Sums(low, low, high, high) * of_outputs[n]
            totals[m * across + n] = fma(sums[m * across + n], scale, totals[m * across + n])
            sums[m * across + n] = Sums(0)
