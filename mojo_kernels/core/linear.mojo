"""Linear layer on packed weights: y = x @ w.T; see `packed.mojo` for how w lies in memory.

Lanes are outputs, and each one's sum runs over k in the same order for any number of rows, so a row's result never
depends on the rows beside it (batch invariance).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import ceildiv
from std.sys import size_of

from .float_rows import Rows, block_rows
from .linear_tile import linear_tile, strip_steps, tile_sizes, tile_vectors
from .packed import NextWeights, PANEL, pack_factor
from .paired_linear import FEW_ROWS, TILE_ROWS, few_rows_of_pairs
from .tiled_linear import TiledRows, check_columns, tiled_panel
from .unpacked_linear import MANY_ROWS, blocks_against_unpacked, unpacks
from ..gpu.linear_launch import launch_linear
from ..gpu.linear_products import BFLOAT
from ..utils.isa import has_pairs, has_tiles, lanes
from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, WritePtr, floats, untracked


def linear_panel[
    isa: StaticString, xtype: DType, wtype: DType, block: Int
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: Rows[xtype, block],
    w: ReadPtr[wtype],
    outputs: Int,
    next: NextWeights,
):
    """All rows of x against a panel.

    Parameters:
        isa: Instructions.
        xtype: Type of x.
        wtype: Type of the weights.
        block: How x lies in memory.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        w: The panel.
        outputs: How many of the lanes are outputs.
        next: The panel that is needed next.
    """
    comptime step_bytes = PANEL * pack_factor[wtype]() * size_of[wtype]()
    var steps = x.columns // pack_factor[wtype]()
    comptime if has_pairs[isa]() and xtype == DType.bfloat16 and wtype == DType.bfloat16:
        if TILE_ROWS < x.rows <= FEW_ROWS:
            var pairs = rebind[ReadPtr[DType.bfloat16]](w)
            few_rows_of_pairs[isa](y, y_stride, rebind[Rows[DType.bfloat16, 0]](x), pairs, outputs, next.start)
            return
    # The first rows bring the weights into the cache, the others find them there.
    var m = 0
    var tile = 0
    comptime if unpacks[isa, wtype, block]():
        if x.rows >= MANY_ROWS and outputs >= PANEL:
            m = blocks_against_unpacked[isa](y, y_stride, rebind[Rows[DType.float32, block]](x), w, next)
    while m < x.rows:
        comptime for size in range(5):
            comptime rows = tile_sizes[block]()[size]
            if x.rows - m >= rows:
                comptime vectors = tile_vectors[isa, rows]()
                comptime width = vectors * lanes[isa]()
                comptime tiles = PANEL // width
                comptime for i in range(tiles):
                    comptime lane = i * width
                    var asked = next.after(tile, steps, step_bytes)
                    comptime if block > 0:
                        var shares = ceildiv(steps, strip_steps[block, rows]())
                        asked = next.part[rows, tiles](m, i, x.rows, steps * step_bytes, shares)
                    if lane < outputs:
                        linear_tile[isa, rows, vectors](
                            y.unsafe_offset(m * y_stride + lane),
                            y_stride,
                            x.tile(m),
                            w.unsafe_offset(lane * pack_factor[wtype]()),
                            x.columns,
                            outputs - lane,
                            asked,
                        )
                m += rows
                break
        tile += 1


def linear_cpu[
    isa: StaticString, xtype: DType, wtype: DType
](y: WritePtr[DType.float32], x: ReadPtr[xtype], w: ReadPtr[wtype], m_size: Int, n_size: Int, k_size: Int):
    """Computes y[m, n] = sum over k of x[m, k] * w[n, k], in float32, on all cores.

    Args:
        y: [m_size, n_size], written.
        x: [m_size, k_size], float32 or bfloat16.
        w: [n_size, k_size], packed; float32, bfloat16 or float16.
        m_size: Rows of x.
        n_size: Rows of w.
        k_size: Columns of x and w.
    """
    comptime factor = pack_factor[wtype]()
    comptime block = block_rows[isa, xtype]()
    var panel_size = ceildiv(k_size, factor) * factor * PANEL
    var copied = block > 0 and m_size > 1  # one row is a block as it is
    var copies = List[Scalar[xtype]](unsafe_uninit_length=m_size * k_size if copied else 0)
    var rows = Rows[xtype, block](untracked(copies.unsafe_ptr()) if copied else x, m_size, k_size)

    def put(begin: Int, end: Int) {imm}:
        comptime if block > 0:
            for i in range(begin, end):
                rows.put(i * block, x.unsafe_offset(i * block * k_size), k_size)

    if copied:
        parallel_ranges(ceildiv(m_size, max(block, 1)), max(block, 1) * k_size, put)

    def panels(begin: Int, end: Int) {imm}:
        for p in range(begin, end):
            var n = p * PANEL
            var panel = w.unsafe_offset(p * panel_size)
            var next = panel.unsafe_offset(panel_size if p + 1 < end else 0).unsafe_bitcast[UInt8]()
            var outputs = min(PANEL, n_size - n)
            comptime if has_tiles[isa]() and xtype == DType.bfloat16 and wtype == DType.bfloat16:
                var tiled = TiledRows[tiled=False](rebind[ReadPtr[DType.bfloat16]](x), m_size, k_size)
                tiled_panel(
                    y.unsafe_offset(n),
                    n_size,
                    tiled,
                    0,
                    m_size,
                    rebind[ReadPtr[DType.bfloat16]](panel),
                    {0, k_size},
                    outputs,
                    {next},
                )
            else:
                linear_panel[isa](y.unsafe_offset(n), n_size, rows, panel, outputs, {next})

    parallel_ranges(ceildiv(n_size, PANEL), PANEL * m_size * k_size, panels)
    _ = copies^


@extensibility.register("mili.linear")
struct Linear:
    """`y[T, N] = x[T, K] @ w[N, K].T`, sums in float32.

    On a CPU y is float32, x float32 or bfloat16, and w packed as [N / 64, K / P, 64 P]; where AMX multiplies bfloat16,
    32 divides K. On a GPU x and w are bfloat16, w as it is, and `isa` means nothing.
    """

    @staticmethod
    def execute[
        target: StaticString, isa: StaticString
    ](y: OutputTensor[rank=2, ...], x: InputTensor[rank=2, ...], w: InputTensor, ctx: DeviceContext) raises:
        comptime if target == "gpu":
            comptime assert x.dtype == DType.bfloat16 and w.dtype == DType.bfloat16, "a GPU multiplies bfloat16"
            # There are no scales: the pointers in their places are not used.
            var no = w.unsafe_ptr().unsafe_bitcast[Float32]()
            launch_linear[BFLOAT](
                y.unsafe_ptr(),
                x.unsafe_ptr().unsafe_bitcast[UInt8](),
                w.unsafe_ptr().unsafe_bitcast[UInt8](),
                no,
                no,
                x.dim_size(0),
                w.dim_size(0),
                x.dim_size(1),
                ctx,
            )
        else:
            comptime if has_tiles[isa]() and x.dtype == DType.bfloat16:
                check_columns(x.dim_size(1))
            linear_cpu[isa](
                floats(y.unsafe_ptr()),
                untracked(x.unsafe_ptr()),
                untracked(w.unsafe_ptr()),
                x.dim_size(0),
                y.dim_size(1),
                x.dim_size(1),
            )
