"""Linear layer in float16: y = x @ w.T on rows and weights of float16 with a scale each; see `half_rows.mojo`.

A float16 FMA has twice the numbers of a float32 one. The products of 32 columns are summed in float16, and these sums
in float32. That loses less than bfloat16's rounding of x: each of the 32 roundings is 2^-12 at most, relative to a
part of the sum. Chunks begin at multiples of 32 columns and each lane's sum runs over k in order, so a row's result
never depends on the rows beside it (batch invariance).
"""

from std.math import ceildiv
from std.memory import bitcast

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .half_rows import HALF_BLOCK, HalfMatrix, HalfRows
from .packed import NextWeights, PANEL, fetch_ahead, store_outputs
from ..utils.isa import HALVES, Halves, add_halves, put_halves
from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, WritePtr, floats, require_cpu, untracked

comptime CHUNK = 32
"""Columns whose products are summed in float16."""
comptime ASKING = 8
"""Columns between two requests for the next panel."""
comptime VECTORS = PANEL // HALVES
comptime WIDE = 16
"""Float32 numbers in a vector."""
comptime TILES = [HALF_BLOCK, 8, 4, 2, 1]
"""Rows of register tiles, the largest first."""


@always_inline
def add_columns[
    rows: Int
](
    mut acc: Array[Halves, rows * VECTORS],
    x: ReadPtr[DType.uint32],
    x_stride: Int,
    w: ReadPtr[DType.float16],
    begin: Int,
    end: Int,
):
    """Adds the products at some columns."""
    for k in range(begin, end):
        var here = w.unsafe_offset(k * PANEL)
        fetch_ahead[2 * PANEL](here)
        var wv = Array[Halves, VECTORS](fill=Halves(0))
        comptime for v in range(VECTORS):
            wv[v] = bitcast[DType.uint32, 16](here.unsafe_load[width=HALVES](v * HALVES))
        comptime for r in range(rows):
            var xv = Halves(x[unsafe_offset=k * x_stride + r])
            comptime for v in range(VECTORS):
                acc[r * VECTORS + v] = add_halves(acc[r * VECTORS + v], xv, wv[v])


def half_tile[
    rows: Int
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: HalfRows,
    m: Int,
    w: HalfMatrix,
    panel: ReadPtr[DType.float16],
    outputs: Int,
    next: NextWeights,
):
    """Some rows against a panel.

    Parameters:
        rows: How many, all of one block.

    Args:
        y: The panel's first output of the first row; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: All rows.
        m: The first of these.
        w: The matrix.
        panel: The panel.
        outputs: How many of the lanes are outputs.
        next: What a tile of several rows asks memory for meanwhile.
    """
    comptime Vector = SIMD[DType.float32, WIDE]
    var sums = Array[Float32, rows * PANEL](fill=0)
    var halves = Array[Float16, rows * PANEL](uninitialized=True)
    var sp = untracked(sums.unsafe_ptr())
    var hp = untracked(halves.unsafe_ptr())
    var data = x.row(m)
    # A tile of so many rows is a whole block.
    var stride = rows if rows == HALF_BLOCK else x.together(m)
    for begin in range(0, x.columns, CHUNK):
        var acc = Array[Halves, rows * VECTORS](fill=Halves(0))
        var end = min(begin + CHUNK, x.columns)
        comptime if rows == 1:
            add_columns[rows](acc, data, stride, panel, begin, end)
        else:
            for k in range(begin, end, ASKING):
                next.fetch_share(k // ASKING)
                add_columns[rows](acc, data, stride, panel, k, min(k + ASKING, end))
        comptime for i in range(rows * VECTORS):
            put_halves(hp.unsafe_offset(i * HALVES), acc[i])
        comptime for i in range(rows * PANEL // WIDE):
            var wide = hp.unsafe_load[width=WIDE](i * WIDE).cast[DType.float32]()
            sp.unsafe_store(i * WIDE, sp.unsafe_load[width=WIDE](i * WIDE) + wide)
    var scales = w.scales(panel)
    comptime for r in range(rows):
        var scale = x.scales()[unsafe_offset=m + r]
        comptime for lane in range(0, PANEL, WIDE):
            var factor = scales.unsafe_load[width=WIDE](lane) * scale
            var sum = sp.unsafe_load[width=WIDE](r * PANEL + lane)
            store_outputs[WIDE](y.unsafe_offset(r * y_stride), lane, sum * factor, outputs)
    _ = sums^
    _ = halves^


def half_panel(
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: HalfRows,
    w: HalfMatrix,
    index: Int,
    outputs: Int,
    next: NextWeights,
):
    """All rows of x against a panel.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        w: The matrix.
        index: Number of the panel.
        outputs: How many of its lanes are outputs.
        next: The panel that is needed next.
    """
    var panel = w.panel(index)
    var shares = ceildiv(x.columns, ASKING)
    var m = 0
    while m < x.rows:
        comptime for rows in TILES:
            if x.rows - m >= rows:
                var asked = next.part[rows, 1](m, 0, x.rows, 2 * HalfMatrix.panel_size(x.columns), shares)
                half_tile[rows](y.unsafe_offset(m * y_stride), y_stride, x, m, w, panel, outputs, asked)
                m += rows
                break


@extensibility.register("mili.half_linear")
struct HalfLinear:
    """`y[T, N] = x[T, K] @ w[N, K].T` with x rounded to float16 by rows; w packed as [N / 64, K + 2, 64]."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        w: InputTensor[dtype=DType.float16, rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        var size = x.dim_size(0)
        var columns = x.dim_size(1)
        var outputs = y.dim_size(1)
        var copies = List[UInt32](unsafe_uninit_length=size * HalfRows.size(columns))
        var rows = HalfRows(untracked(copies.unsafe_ptr()), size, columns)
        var matrix = HalfMatrix(untracked(w.unsafe_ptr()), columns)
        var xp = untracked(x.unsafe_ptr())
        var yp = untracked(y.unsafe_ptr())

        def put(begin: Int, end: Int) {imm}:
            for i in range(begin, end):
                rows.put(i * HALF_BLOCK, xp.unsafe_offset(i * HALF_BLOCK * columns), columns)

        parallel_ranges(ceildiv(size, HALF_BLOCK), HALF_BLOCK * columns, put)

        def panels(begin: Int, end: Int) {imm}:
            for p in range(begin, end):
                var next = matrix.panel(p + 1 if p + 1 < end else p).unsafe_bitcast[UInt8]()
                var n = p * PANEL
                half_panel(yp.unsafe_offset(n), outputs, rows, matrix, p, min(PANEL, outputs - n), {next})

        parallel_ranges(w.dim_size(0), PANEL * size * columns, panels)
        _ = copies^


@extensibility.register("mili.gather_half_rows")
struct GatherHalfRows:
    """`y[R, D] = table[rows[R], :]`, from a table that is packed as [N / 64, D + 2, 64]."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        table: InputTensor[dtype=DType.float16, rank=3, ...],
        rows: InputTensor[dtype=DType.int32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        var size = y.dim_size(1)
        var matrix = HalfMatrix(untracked(table.unsafe_ptr()), size)
        var yp = untracked(y.unsafe_ptr())
        var rp = untracked(rows.unsafe_ptr())

        def gather(begin: Int, end: Int) {imm}:
            for r in range(begin, end):
                var index, lane = divmod(Int(rp[unsafe_offset=r]), PANEL)
                var panel = matrix.panel(index)
                var scale = matrix.scales(panel)[unsafe_offset=lane]
                for k in range(size):
                    var number = panel[unsafe_offset=k * PANEL + lane].cast[DType.float32]()
                    yp[unsafe_offset=r * size + k] = number * scale

        parallel_ranges(y.dim_size(0), size, gather)
