"""Linear layer in float16: y = x @ w.T on rows and weights of float16 with a scale each; see `half_rows.mojo`.

A float16 FMA has twice the numbers of a float32 one. Columns of even and of odd numbers are summed apart: up to 32
products in float16, these sums in float32, and at last the two. That loses less than bfloat16's rounding of x: each of
the 32 roundings is 2^-12 at most, relative to a part of the sum. Chunks begin at multiples of 64 columns and each
lane's sum runs over k in order, so a row's result never depends on the rows beside it (batch invariance).
"""

from std.math import ceildiv
from std.sys.intrinsics import prefetch

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .half_rows import (
    FEW_BLOCK,
    HALF_BLOCK,
    HalfRows,
    HalfTile,
    PAIRS,
    WIDE,
    add_pair,
    half_panel_size,
    panel_scales,
)
from .packed import AHEAD, ChunkAhead, LINE, PANEL, READ_SOON, store_outputs
from ..utils.isa import HALVES, Halves, put_halves
from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, WritePtr, require_cpu, untracked

comptime CHUNK = 32
"""Pairs of columns whose products are summed in float16."""
comptime PASS = 24
"""Rows that go through a panel together, chunk by chunk: each finds the chunk's weights in the nearest cache."""
comptime LINES = 2 * PAIRS // LINE
"""Cache lines of a pair of columns."""
comptime VECTORS = PAIRS // HALVES
comptime TILES = [HALF_BLOCK, FEW_BLOCK, 2, 1]
"""Rows of register tiles, the largest first."""


@always_inline
def add_chunk[
    rows: Int, lines: Int
](
    sums: WritePtr[DType.float32],
    x: HalfTile,
    w: ReadPtr[DType.float16],
    pairs: Int,
    ahead: ReadPtr[DType.uint8],
):
    """Adds the products of some rows at up to a chunk of columns.

    Parameters:
        rows: How many, all of one block.
        lines: Cache lines that are asked for with each pair.

    Args:
        sums: [rows, 64, 2], of even and odd columns.
        x: The rows.
        w: The weights.
        pairs: How many.
        ahead: Where the lines lie.
    """
    var acc = Array[Halves, rows * VECTORS](fill=Halves(0))
    var vectors = Array[ReadPtr[DType.float16], VECTORS](fill=w)
    comptime for v in range(VECTORS):
        vectors[v] = w.unsafe_offset(v * HALVES)
    for k in range(pairs):
        comptime for line in range(lines):
            prefetch[READ_SOON](ahead.unsafe_offset((k * lines + line) * LINE))
        add_pair[rows, VECTORS](acc, x.data.unsafe_offset(k * x.stride), 1, vectors, k * PAIRS)
    var halves = Array[Float16, rows * PAIRS](uninitialized=True)
    var hp = untracked(halves.unsafe_ptr())
    comptime for i in range(rows * VECTORS):
        put_halves(hp.unsafe_offset(i * HALVES), acc[i])
    comptime for i in range(0, rows * PAIRS, WIDE):
        var wide = hp.unsafe_load[width=WIDE](i).cast[DType.float32]()
        sums.unsafe_store(i, sums.unsafe_load[width=WIDE](i) + wide)
    _ = halves^


def half_panel(
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: HalfRows,
    w: ReadPtr[DType.float16],
    outputs: Int,
    next: ReadPtr[DType.uint8],
):
    """All rows of x against a panel.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        w: The panel.
        outputs: How many of its lanes are outputs.
        next: The panel that is needed next.
    """
    var bytes = 2 * half_panel_size(x.columns)
    var scales = panel_scales(w, x.columns)
    var room = Array[Float32, PASS * PAIRS](uninitialized=True)
    var sums = untracked(room.unsafe_ptr())
    for first in range(0, x.rows, PASS):
        var count = min(PASS, x.rows - first)
        for i in range(0, count * PAIRS, WIDE):
            sums.unsafe_store(i, SIMD[DType.float32, WIDE](0))
        for begin in range(0, x.pairs(), CHUNK):
            var pairs = min(CHUNK, x.pairs() - begin)
            var here = w.unsafe_offset(begin * PAIRS)
            var ahead = ChunkAhead[LINES](w.unsafe_bitcast[UInt8](), bytes, 2 * begin * PAIRS + AHEAD, next)
            if first > 0:  # the panel is in the cache already
                ahead.left = 0
            var tiles = ceildiv(count, x.block())
            var m = 0
            while m < count:
                var now = ahead.share(tiles)
                tiles = max(1, tiles - 1)  # the last block may be more than one
                var from_ = ahead.take(now, pairs)
                var tile = x.tile(first + m).later(begin)
                comptime for rows in TILES:
                    if tile.rows >= rows:
                        var to = sums.unsafe_offset(m * PAIRS)
                        comptime for lines in [0, 1, 2, LINES]:
                            if now == lines:
                                add_chunk[rows, lines](to, tile, here, pairs, from_)
                        m += rows
                        break
        for r in range(count):
            var scale = x.scales()[unsafe_offset=first + r]
            var row = y.unsafe_offset((first + r) * y_stride)
            comptime for lane in range(0, PANEL, WIDE):
                var factor = scales.unsafe_load[width=WIDE](lane) * scale
                var even, odd = sums.unsafe_load[width=2 * WIDE](r * PAIRS + 2 * lane).deinterleave()
                store_outputs[WIDE](row, lane, (even + odd) * factor, outputs)
    _ = room^


@extensibility.register("mili.half_linear")
struct HalfLinear:
    """`y[T, N] = x[T, K] @ w[N, K].T` with x rounded to float16 by rows; w packed as [N / 64, K / 2 + 1, 128]."""

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
        var copies = List[UInt32](unsafe_uninit_length=size * (ceildiv(columns, 2) + 1))
        var rows = HalfRows(untracked(copies.unsafe_ptr()), size, columns)
        var panel_size = half_panel_size(columns)
        var wp = untracked(w.unsafe_ptr())
        var xp = untracked(x.unsafe_ptr())
        var yp = untracked(y.unsafe_ptr())

        def put(begin: Int, end: Int) {imm}:
            for m in range(begin, end):
                rows.put(m, xp.unsafe_offset(m * columns))

        parallel_ranges(size, columns, put)

        def panels(begin: Int, end: Int) {imm}:
            for p in range(begin, end):
                var n = p * PANEL
                var panel = wp.unsafe_offset(p * panel_size)
                var next = panel.unsafe_offset(panel_size if p + 1 < end else 0).unsafe_bitcast[UInt8]()
                half_panel(yp.unsafe_offset(n), outputs, rows, panel, min(PANEL, outputs - n), next)

        parallel_ranges(w.dim_size(0), PANEL * size * columns, panels)
        _ = copies^


@extensibility.register("mili.gather_half_rows")
struct GatherHalfRows:
    """`y[R, D] = table[rows[R], :]`, from a table that is packed as [N / 64, D / 2 + 1, 128]."""

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
        var tp = untracked(table.unsafe_ptr())
        var yp = untracked(y.unsafe_ptr())
        var rp = untracked(rows.unsafe_ptr())

        def gather(begin: Int, end: Int) {imm}:
            for r in range(begin, end):
                var index, lane = divmod(Int(rp[unsafe_offset=r]), PANEL)
                var panel = tp.unsafe_offset(index * half_panel_size(size))
                var scale = panel_scales(panel, size)[unsafe_offset=lane]
                for k in range(size):
                    var number = panel[unsafe_offset = k // 2 * PAIRS + 2 * lane + k % 2].cast[DType.float32]()
                    yp[unsafe_offset=r * size + k] = number * scale

        parallel_ranges(y.dim_size(0), size, gather)
