"""Linear layer in float16 or int16: y = x @ w.T on rows and weights with scales; see `scaled_rows.mojo`.

Chunks begin at multiples of as many columns and each lane's sum runs over k in order, so a row's result never depends
on the rows beside it (batch invariance).
"""

from std.math import ceildiv

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .packed import AHEAD, ChunkAhead, LINE, PANEL, store_outputs
from .scaled_chunks import add_chunk, chunk_pairs, row_sums
from .scaled_rows import LARGE_BLOCK, PAIRS, SMALL_BLOCK, ScaledRows, WIDE, panel_scales, scaled_panel_size
from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, WritePtr, require_cpu, untracked

comptime PASS = 24
"""Rows that go through a panel together, chunk by chunk: each finds the chunk's weights in the nearest cache."""
comptime LINES = 2 * PAIRS // LINE
"""Cache lines of a pair of columns."""
comptime TILES = [LARGE_BLOCK, SMALL_BLOCK, 2, 1]
"""Rows of register tiles, the largest first."""


def scaled_panel[
    dtype: DType, //, isa: StaticString
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: ScaledRows[dtype],
    w: ReadPtr[dtype],
    outputs: Int,
    next: ReadPtr[DType.uint8],
):
    """All rows of x against a panel.

    Parameters:
        dtype: Float16 or int16.
        isa: Instructions that multiply int16.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        w: The panel.
        outputs: How many of its lanes are outputs.
        next: The panel that is needed next.
    """
    comptime chunk = chunk_pairs[dtype]()
    comptime size = row_sums[dtype]()
    var bytes = 2 * scaled_panel_size(x.columns)
    # What several tiles ask for together has come when the first one needs it.
    var later = max(AHEAD, 2 * chunk * PAIRS) if x.rows > x.block() else AHEAD
    var scales = panel_scales(w, x.columns)
    var room = Array[Float32, PASS * size](uninitialized=True)
    var sums = untracked(room.unsafe_ptr())
    for first in range(0, x.rows, PASS):
        var count = min(PASS, x.rows - first)
        for i in range(0, count * size, WIDE):
            sums.unsafe_store(i, SIMD[DType.float32, WIDE](0))
        for begin in range(0, x.pairs(), chunk):
            var pairs = min(chunk, x.pairs() - begin)
            var here = w.unsafe_offset(begin * PAIRS)
            var ahead = ChunkAhead[LINES](w.unsafe_bitcast[UInt8](), bytes, 2 * begin * PAIRS + later, next)
            if first > 0:  # the panel is in the cache already
                ahead.left = 0
            var tiles = ceildiv(count, x.block())
            var m = 0
            while m < count:
                var now = ahead.share(tiles)
                tiles = max(1, tiles - 1)  # the last block may be more than one
                var from_ = ahead.take(now, pairs)
                var tile = x.tile(first + m).later(begin)
                var group = x.scales(first + m).unsafe_offset(begin // chunk if dtype == DType.int16 else 0)
                comptime for rows in TILES:
                    if tile.rows >= rows:
                        var to = sums.unsafe_offset(m * size)
                        comptime for lines in [0, 1, 2, LINES]:
                            if now == lines:
                                add_chunk[dtype, isa, rows, lines](to, tile, here, pairs, group, x.groups(), from_)
                        m += rows
                        break
        for r in range(count):
            var row = y.unsafe_offset((first + r) * y_stride)
            comptime for lane in range(0, PANEL, WIDE):
                var factor = scales.unsafe_load[width=WIDE](lane)
                comptime if dtype == DType.float16:
                    factor *= x.scales(first + r)[]
                    var even, odd = sums.unsafe_load[width=2 * WIDE](r * size + 2 * lane).deinterleave()
                    store_outputs[WIDE](row, lane, (even + odd) * factor, outputs)
                else:
                    store_outputs[WIDE](row, lane, sums.unsafe_load[width=WIDE](r * size + lane) * factor, outputs)
    _ = room^


@extensibility.register("mili.scaled_linear")
struct ScaledLinear:
    """`y[T, N] = x[T, K] @ w[N, K].T` with x rounded to w's type, float16 or int16.

    w is packed as [N / 64, K / 2 + 1, 128]. `isa` has the instructions that multiply int16.
    """

    @staticmethod
    def execute[
        target: StaticString, isa: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[dtype=DType.float32, rank=2, ...],
        w: InputTensor[rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        var size = x.dim_size(0)
        var columns = x.dim_size(1)
        var outputs = y.dim_size(1)
        var copies = List[UInt32](unsafe_uninit_length=size * (2 * ceildiv(columns, 2)))
        var rows = ScaledRows[w.dtype](untracked(copies.unsafe_ptr()), size, columns)
        var panel_size = scaled_panel_size(columns)
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
                scaled_panel[isa](yp.unsafe_offset(n), outputs, rows, panel, min(PANEL, outputs - n), next)

        parallel_ranges(w.dim_size(0), PANEL * size * columns, panels)
        _ = copies^


@extensibility.register("mili.gather_scaled_rows")
struct GatherScaledRows:
    """`y[R, D] = table[rows[R], :]`, from a table of float16 or int16 that is packed as [N / 64, D / 2 + 1, 128]."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        table: InputTensor[rank=3, ...],
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
                var panel = tp.unsafe_offset(index * scaled_panel_size(size))
                var scale = panel_scales(panel, size)[unsafe_offset=lane]
                for k in range(size):
                    var number = panel[unsafe_offset = k // 2 * PAIRS + 2 * lane + k % 2].cast[DType.float32]()
                    yp[unsafe_offset=r * size + k] = number * scale

        parallel_ranges(y.dim_size(0), size, gather)
