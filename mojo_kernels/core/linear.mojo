"""Linear layer on packed weights: y = x @ w.T; see `packed.mojo` for how w lies in memory.

Lanes are outputs, and each one's sum runs over k in the same order for any number of rows, so a row's result never
depends on the rows beside it (batch invariance).
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import ceildiv, fma
from std.memory import bitcast
from std.sys import size_of

from .packed import NextWeights, PANEL, fetch_ahead, pack_factor, store_outputs
from .tiled_linear import TiledRows, check_columns, tiled_panel
from ..gpu.linear_launch import launch_linear
from ..gpu.linear_products import BFLOAT
from ..utils.isa import add_pairs, has_pairs, has_tiles, lanes, registers
from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, WritePtr, floats, untracked

comptime ROWS = 6
"""Rows of x in a register tile."""
comptime STRIP = 16
"""Steps whose weights are read twice, the second time from the nearest cache."""


def tile_vectors[isa: StaticString, rows: Int]() -> Int:
    """Vectors of outputs in a register tile: one row takes all, for it reads its weights from memory, as one stream."""
    return PANEL // lanes[isa]() if rows == 1 else (4 if registers[isa]() == 32 else 2)


@always_inline
def load_half[half: Int, width: Int, dtype: DType](w: ReadPtr[dtype], lane: Int) -> SIMD[DType.float32, width]:
    """The first or the second elements of the pairs at some lanes as float32; where there are no pairs, the
    elements.
    """
    comptime if pack_factor[dtype]() == 1:
        return w.unsafe_load[width=width](lane).cast[DType.float32]()
    else:
        var bits = bitcast[DType.uint32, width](w.unsafe_load[width=2 * width](2 * lane))
        # A bfloat16 is the upper half of a float32.
        return bitcast[DType.float32, width](bits << 16 if half == 0 else bits & 0xFFFF_0000)


@always_inline
def add_products[
    isa: StaticString, rows: Int, vectors: Int, xtype: DType, wtype: DType
](
    mut acc: Array[SIMD[DType.float32, lanes[isa]()], rows * vectors],
    x: ReadPtr[xtype],
    x_stride: Int,
    w: ReadPtr[wtype],
    steps: Int,
    next: NextWeights,
):
    """Adds the products at some columns, or at pairs of columns where those lie together.

    Parameters:
        isa: Instructions.
        rows: Rows of x.
        vectors: Vectors of outputs.
        xtype: Type of x.
        wtype: Type of the weights.

    Args:
        acc: [rows, vectors].
        x: The first row, from the first of the columns on.
        x_stride: Elements from one row of x to the next.
        w: The same of the panel.
        steps: Columns, or pairs of them.
        next: What a tile of several rows asks memory for meanwhile.
    """
    comptime width = lanes[isa]()
    comptime Vector = SIMD[DType.float32, width]
    comptime factor = pack_factor[wtype]()
    comptime step_size = PANEL * factor
    comptime bytes = vectors * width * factor * size_of[wtype]()
    comptime if has_pairs[isa]() and xtype == DType.bfloat16 and wtype == DType.bfloat16:
        for k in range(steps):
            fetch_ahead[bytes](w.unsafe_offset(k * step_size))
            comptime if rows > 1:
                next.fetch(k)
            var wv = Array[SIMD[DType.float32, 16], vectors](fill=SIMD[DType.float32, 16](0))
            comptime for v in range(vectors):
                wv[v] = bitcast[DType.float32, 16](w.unsafe_load[width=32](k * step_size + 32 * v))
            comptime for r in range(rows):
                var pair = bitcast[DType.float32, 1](x.unsafe_load[width=2](r * x_stride + 2 * k))
                comptime for v in range(vectors):
                    var sums = rebind[SIMD[DType.float32, 16]](acc[r * vectors + v])
                    acc[r * vectors + v] = rebind[Vector](add_pairs(sums, SIMD[DType.float32, 16](pair[0]), wv[v]))
    else:
        # One half of some pairs after the other: both at once would not fit the register file.
        for begin in range(0, steps, STRIP):
            comptime if rows > 1:
                for k in range(begin, min(begin + STRIP, steps)):
                    next.fetch(k)
            comptime for half in range(factor):
                for k in range(begin, min(begin + STRIP, steps)):
                    comptime if half == 0:
                        fetch_ahead[bytes](w.unsafe_offset(k * step_size))
                    var wv = Array[Vector, vectors](fill=Vector(0))
                    comptime for v in range(vectors):
                        wv[v] = load_half[half, width](w.unsafe_offset(k * step_size), width * v)
                    comptime for r in range(rows):
                        var xv = Vector(x[unsafe_offset=r * x_stride + k * factor + half].cast[DType.float32]())
                        comptime for v in range(vectors):
                            acc[r * vectors + v] = fma(xv, wv[v], acc[r * vectors + v])


@always_inline
def linear_tile[
    isa: StaticString, rows: Int, vectors: Int, xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: ReadPtr[xtype],
    w: ReadPtr[wtype],
    k_size: Int,
    outputs: Int,
    next: NextWeights,
):
    """A block of outputs, accumulated in registers over all of k.

    Parameters:
        isa: Instructions.
        rows: Rows of x.
        vectors: Vectors of outputs.
        xtype: Type of x.
        wtype: Type of the weights.

    Args:
        y: First output of the block; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: [rows, k_size].
        w: The panel, from the block's first lane on.
        k_size: Length of the sums.
        outputs: How many of the lanes are outputs.
        next: What a tile of several rows asks memory for meanwhile.
    """
    comptime Vector = SIMD[DType.float32, lanes[isa]()]
    comptime factor = pack_factor[wtype]()
    var acc = Array[Vector, rows * vectors](fill=Vector(0))
    var whole = k_size // factor
    add_products[isa, rows, vectors](acc, x, k_size, w, whole, next)
    if whole * factor < k_size:  # half a pair is left, and the other half of the weights is zero
        var last = Array[Scalar[xtype], rows * 2](fill=0)
        comptime for r in range(rows):
            last[2 * r] = x[unsafe_offset=r * k_size + k_size - 1]
        add_products[isa, rows, vectors](
            acc, untracked(last.unsafe_ptr()), 2, w.unsafe_offset(whole * PANEL * factor), 1, next
        )
        _ = last^
    comptime for r in range(rows):
        comptime for v in range(vectors):
            store_outputs(y.unsafe_offset(r * y_stride), lanes[isa]() * v, acc[r * vectors + v], outputs)


def linear_panel[
    isa: StaticString, xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: ReadPtr[xtype],
    m_size: Int,
    w: ReadPtr[wtype],
    k_size: Int,
    outputs: Int,
    next: NextWeights,
):
    """All rows of x against a panel.

    Parameters:
        isa: Instructions.
        xtype: Type of x.
        wtype: Type of the weights.

    Args:
        y: First output of the panel; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: [m_size, k_size].
        m_size: Rows of x.
        w: The panel.
        k_size: Length of the sums.
        outputs: How many of the lanes are outputs.
        next: The panel that is needed next.
    """
    comptime step_bytes = PANEL * pack_factor[wtype]() * size_of[wtype]()
    var steps = k_size // pack_factor[wtype]()
    # The first rows bring the weights into the cache, the others find them there.
    var m = 0
    var tile = 0
    while m < m_size:
        comptime for rows in [ROWS, 4, 2, 1]:
            if m_size - m >= rows:
                comptime vectors = tile_vectors[isa, rows]()
                comptime for lane in range(0, PANEL, vectors * lanes[isa]()):
                    if lane < outputs:
                        linear_tile[isa, rows, vectors](
                            y.unsafe_offset(m * y_stride + lane),
                            y_stride,
                            x.unsafe_offset(m * k_size),
                            w.unsafe_offset(lane * pack_factor[wtype]()),
                            k_size,
                            outputs - lane,
                            next.after(tile, steps, step_bytes),
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
    var panel_size = ceildiv(k_size, factor) * factor * PANEL

    def panels(begin: Int, end: Int) {imm}:
        for p in range(begin, end):
            var n = p * PANEL
            var panel = w.unsafe_offset(p * panel_size)
            var next = panel.unsafe_offset(panel_size if p + 1 < end else 0).unsafe_bitcast[UInt8]()
            var outputs = min(PANEL, n_size - n)
            comptime if has_tiles[isa]() and xtype == DType.bfloat16 and wtype == DType.bfloat16:
                var rows = TiledRows[1, tiled=False](rebind[ReadPtr[DType.bfloat16]](x), m_size, k_size)
                tiled_panel(y.unsafe_offset(n), n_size, rows, rebind[ReadPtr[DType.bfloat16]](panel), outputs, {next})
            else:
                linear_panel[isa](y.unsafe_offset(n), n_size, x, m_size, panel, k_size, outputs, {next})

    parallel_ranges(ceildiv(n_size, PANEL), PANEL * m_size * k_size, panels)


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
