"""Linear layer on quantised weights: y = x @ w.T, products of int8 summed as int32, scales applied per group.

Weights of 8 or 4 bits share a scale, and where they are asymmetric an offset, in groups of columns; x is quantised to
int8 row by row with the same groups. Within a group the sums are exact integers, and groups are added in order, so a
row's result never depends on the rows beside it (batch invariance). `quantized_rows.mojo` tells how w lies in memory.
"""

from std.math import ceildiv, fma
from std.memory import bitcast

from .packed import NextWeights, PANEL, fetch_ahead, store_outputs
from .quantized_amx import TiledQuads, by_tiles, quantized_panel_by_amx, sum_weight
from .quantized_rows import QUADS, QuantizedMatrix, QuantizedRows
from ..utils.isa import (
    QuadSums,
    ZEN4,
    add_quads,
    has_tiles,
    quad_lanes,
    quad_shift,
    quad_sum_type,
    registers,
    widen_sums,
)
from ..utils.parallel import parallel_ranges
from ..utils.tiles import TILE_ROWS
from ..utils.types import ReadPtr, WritePtr, untracked


comptime STRETCH = 32
"""Columns of which every group has a whole number, `bits` steps: as many as an int16 sums quads of four bits of."""


@always_inline
def unpack[bits: Int, half: Int, width: Int](bytes: SIMD[DType.uint8, width]) -> SIMD[DType.uint8, width]:
    """The weights in some bytes; of weights of 4 bits those in the lower halves, or in the upper ones."""
    comptime if bits == 8:
        return bytes
    elif half == 0:
        return bytes & 15
    else:
        return bytes >> 4


@always_inline
def add_step[
    isa: StaticString, rows: Int, vectors: Int, bits: Int
](
    mut acc: Array[QuadSums[isa, bits], rows * vectors],
    values: ReadPtr[DType.uint8],
    x: ReadPtr[DType.int8],
    x_columns: Int,
):
    """Adds the products of a step; its arguments are those of `group_dots`, from the step on."""
    comptime width = quad_lanes[isa]()
    fetch_ahead[4 * width * vectors](values)
    comptime if rows == 1 and quad_lanes[isa]() == 8:
        # A vector of weights after the other, so that sums stay in registers.
        comptime for v in range(vectors):
            var both = values.unsafe_load[width=4 * width](4 * width * v)
            comptime for half in range(8 // bits):
                var quad = bitcast[DType.int32, 1](x.unsafe_load[width=4](4 * half))[0]
                acc[v] = add_quads[isa, bits](acc[v], unpack[bits, half](both), quad)
        return
    comptime for half in range(8 // bits):
        var quads = Array[Int32, rows](fill=0)
        comptime for r in range(rows):
            quads[r] = bitcast[DType.int32, 1](x.unsafe_load[width=4](r * x_columns + 4 * half))[0]
        comptime for v in range(vectors):
            var wv = unpack[bits, half](values.unsafe_load[width=4 * width](4 * width * v))
            comptime for r in range(rows):
                acc[r * vectors + v] = add_quads[isa, bits](acc[r * vectors + v], wv, quads[r])


def asks_by_group[isa: StaticString]() -> Bool:
    """Whether tiles ask for a share of the next panel in each group, not in each step: small ones have no time to ask
    twice for anything.
    """
    return quad_lanes[isa]() == 8


@always_inline
def group_dots[
    isa: StaticString, rows: Int, vectors: Int, bits: Int
](
    values: ReadPtr[DType.uint8], x: ReadPtr[DType.int8], x_columns: Int, steps: Int, next: NextWeights
) -> Array[SIMD[DType.int32, quad_lanes[isa]()], rows * vectors]:
    """The sums of a group's products.

    Parameters:
        isa: Instructions.
        rows: Rows of x.
        vectors: Vectors of outputs.
        bits: Of a weight.

    Args:
        values: The group's weights, from the tile's first lane on.
        x: The first row's numbers of the group.
        x_columns: Numbers from one row of x to the next.
        steps: The group's steps of 256 bytes of weights.
        next: What a tile of several rows asks memory for meanwhile, from the group's first step on.

    Returns:
        [rows, vectors].
    """
    comptime in_one = quad_sum_type[isa, bits]() == DType.int32
    var dots = stretch_dots[isa, rows, vectors, bits](values, x, x_columns, steps if in_one else bits, next)
    comptime if not in_one:
        for step in range(bits, steps, bits):
            var more = stretch_dots[isa, rows, vectors, bits](
                values.unsafe_offset(step * QUADS),
                x.unsafe_offset(step * (STRETCH // bits)),
                x_columns,
                bits,
                next.later(step),
            )
            comptime for i in range(rows * vectors):
                dots[i] += more[i]
    return dots^


@always_inline
def stretch_dots[
    isa: StaticString, rows: Int, vectors: Int, bits: Int
](
    values: ReadPtr[DType.uint8], x: ReadPtr[DType.int8], x_columns: Int, steps: Int, next: NextWeights
) -> Array[SIMD[DType.int32, quad_lanes[isa]()], rows * vectors]:
    """The sums of as many of a group's steps as one `QuadSums` holds; see `group_dots`."""
    comptime Sums = QuadSums[isa, bits]
    comptime Dots = SIMD[DType.int32, quad_lanes[isa]()]
    var sums = Array[Sums, rows * vectors](fill=Sums(0))
    for step in range(steps):
        comptime if rows > 1 and not asks_by_group[isa]():
            next.fetch(step)
        add_step[isa, rows, vectors, bits](
            sums, values.unsafe_offset(step * QUADS), x.unsafe_offset(step * (STRETCH // bits)), x_columns
        )
    var dots = Array[Dots, rows * vectors](fill=Dots(0))
    comptime for i in range(rows * vectors):
        dots[i] = widen_sums[isa, bits](sums[i])
    return dots^


@always_inline
def quantized_tile[
    isa: StaticString, rows: Int, vectors: Int, bits: Int, offsets: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: QuantizedRows,
    w: QuantizedMatrix[bits, offsets],
    panel: Int,
    lane: Int,
    outputs: Int,
    next: NextWeights,
):
    """A block of outputs.

    Parameters:
        isa: Instructions.
        rows: Rows of x.
        vectors: Vectors of outputs.
        bits: Of a weight.
        offsets: Whether weights have offsets.

    Args:
        y: First output of the block; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        w: The matrix.
        panel: Number of the panel.
        lane: First of the panel's lanes.
        outputs: How many of the lanes from there on are outputs.
        next: What a tile of several rows asks memory for meanwhile.
    """
    comptime width = quad_lanes[isa]()
    comptime Floats = SIMD[DType.float32, width]
    comptime columns = 32 // bits
    comptime shift = quad_shift[isa, bits]()
    comptime base = shift if offsets else shift - (1 << (bits - 1))
    """What the sum of a group's x has to be multiplied with, and added to the sum of products."""
    var total = Array[Floats, rows * vectors](fill=Floats(0))
    var steps = w.group // columns
    for g in range(w.groups):
        var block = w.block(panel, g)
        var values = block.unsafe_offset(4 * lane)
        var xg = x.values.unsafe_offset(g * w.group)
        comptime if rows > 1 and asks_by_group[isa]():
            next.fetch_share(g)
        var dots = group_dots[isa, rows, vectors, bits](
            values, xg, x.columns, steps, next.later(g * steps)
        )
        var scales = w.scales(block).unsafe_offset(lane)
        comptime for part in range(2 if offsets else 1):
            fetch_ahead[2 * width * vectors](scales.unsafe_offset(part * PANEL))
        comptime for r in range(rows):
            var unit = x.scales[unsafe_offset=2 * (r * x.groups + g)]
            var sum_ = x.scales[unsafe_offset=2 * (r * x.groups + g) + 1]
            comptime for v in range(vectors):
                var scale = scales.unsafe_load[width=width](width * v).cast[DType.float32]()
                var dot = dots[r * vectors + v].cast[DType.float32]()
                dot = fma(dot, Floats(unit), Floats(Float32(base) * sum_))
                total[r * vectors + v] = fma(scale, dot, total[r * vectors + v])
                comptime if offsets:
                    var offset = scales.unsafe_load[width=width](PANEL + width * v).cast[DType.float32]()
                    total[r * vectors + v] = fma(-offset, Floats(sum_), total[r * vectors + v])
    comptime for r in range(rows):
        comptime for v in range(vectors):
            store_outputs(y.unsafe_offset(r * y_stride), width * v, total[r * vectors + v], outputs)


def tile_rows[isa: StaticString]() -> Int:
    """Most rows of x in a register tile. Six leave registers for sums of integers alone: what groups add up to is in
    memory, which groups of many columns make seldom, and Zen 4 slowly.
    """
    return 6 if quad_lanes[isa]() == 16 and not ZEN4 else 4


def tile_vectors[isa: StaticString, rows: Int]() -> Int:
    """Vectors of outputs in a register tile: one row takes all, for it reads its weights from memory, as one stream."""
    return PANEL // quad_lanes[isa]() if rows == 1 else (4 if registers[isa]() == 32 or rows == 2 else 2)


def quantized_panel[
    isa: StaticString, bits: Int, offsets: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: QuantizedRows,
    m_size: Int,
    w: QuantizedMatrix[bits, offsets],
    panel: Int,
    next: NextWeights,
):
    """All rows of x against a panel.

    Parameters:
        isa: Instructions.
        bits: Of a weight.
        offsets: Whether weights have offsets.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        m_size: How many.
        w: The matrix.
        panel: Number of the panel.
        next: The panel that is needed next.
    """
    comptime step_bytes = QUADS
    var steps = w.groups * w.group * bits // 32
    var first = panel * PANEL
    var m = 0
    # The first rows bring the weights into the cache, the others find them there.
    var tile = 0
    while m < m_size:
        comptime for rows in [6, 4, 2, 1]:
            comptime if rows <= tile_rows[isa]():
                if m_size - m >= rows:
                    comptime vectors = tile_vectors[isa, rows]()
                    comptime width = vectors * quad_lanes[isa]()
                    comptime tiles = PANEL // width
                    comptime for i in range(tiles):
                        comptime lane = i * width
                        var asked = next.after(tile, steps, step_bytes)
                        comptime if asks_by_group[isa]():
                            asked = next.part[rows, tiles](m, i, m_size, steps * step_bytes, w.groups)
                        if first + lane < w.rows:
                            quantized_tile[isa, rows, vectors](
                                y.unsafe_offset(m * y_stride + lane),
                                y_stride,
                                x.row(m),
                                w,
                                panel,
                                lane,
                                w.rows - first - lane,
                                asked,
                            )
                    m += rows
                    break
        tile += 1


def quantized_linear[
    isa: StaticString, bits: Int, offsets: Bool
](
    y: WritePtr[DType.float32],
    x: QuantizedRows,
    m_size: Int,
    w: QuantizedMatrix[bits, offsets],
):
    """Computes y[m, n] = sum over k of x[m, k] * w[n, k] on all cores.

    Args:
        y: [m_size, w.rows], written.
        x: The rows.
        m_size: How many.
        w: The matrix.
    """
    var tiles = by_tiles[isa](m_size)
    var tiled_rows = ceildiv(m_size, TILE_ROWS) * TILE_ROWS if tiles else 0
    var copies = List[Int8](unsafe_uninit_length=tiled_rows * (x.columns + 8 * x.groups))
    var tiled = TiledQuads(untracked(copies.unsafe_ptr()), m_size, x.columns, x.groups)
    for t in range(m_size if tiles else 0):
        tiled.copy(t, x, sum_weight[bits, offsets]())

    def panels(begin: Int, end: Int) {imm}:
        for panel in range(begin, end):
            var next = w.block(min(panel + 1, end - 1), 0)
            var to = y.unsafe_offset(panel * PANEL)
            # Where there are no tiles, the compiler may not even know how to write their instructions.
            comptime if has_tiles[isa]():
                if tiles:
                    quantized_panel_by_amx(to, w.rows, tiled, 0, m_size, w, panel, next)
                    continue
            quantized_panel[isa](to, w.rows, x, m_size, w, panel, {next})

    parallel_ranges(ceildiv(w.rows, PANEL), PANEL * m_size * w.groups * w.group, panels)
    _ = copies^
