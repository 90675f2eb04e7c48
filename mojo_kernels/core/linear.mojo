"""Linear layer on packed weights: y = x @ w.T (+ bias); see `packed.mojo` for how w lies in memory.

Lanes are outputs, and each one's sum runs over k in the same order for any number of rows, so a row's result never
depends on the rows beside it (batch invariance).

With x and w both in bfloat16, CPUs with AVX512-BF16 multiply pairs of them in one instruction. The compiler does not
know it of these CPUs, so it is written as assembly, and who builds the graph decides by what it makes of x.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import ceildiv, fma
from std.memory import bitcast
from std.sys import inlined_assembly, simd_width_of, size_of
from std.sys.intrinsics import PrefetchOptions, prefetch

from .packed import PANEL, pack_factor
from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, WritePtr, require_cpu, untracked

comptime LANES = 16
comptime Vector = SIMD[DType.float32, LANES]
"""One register with AVX-512, several elsewhere."""
comptime WIDE = simd_width_of[DType.float32]() == LANES
comptime ROWS = 6 if WIDE else 2
"""Rows of x in a register tile: ROWS x VECTORS accumulators must fit the register file."""
comptime VECTORS = PANEL // LANES if WIDE else 2
"""Vectors of outputs in a register tile."""
comptime LINE = 64
"""Bytes of a cache line."""
comptime AHEAD = 2048
"""Bytes that weights are asked for before they are needed: what memory delivers while it answers."""
comptime STRIP = 16
"""Steps whose weights are read twice, the second time from the nearest cache."""
comptime READ_AHEAD = PrefetchOptions().for_read().high_locality().to_data_cache()


@always_inline
def dot_pairs(a: Vector, b: Vector, acc: Vector) -> Vector:
    """Adds to each lane of acc the two products of the bfloat16 pairs in a and b (vdpbf16ps)."""
    return inlined_assembly["vdpbf16ps $2, $1, $0", Vector, constraints="=v,v,v,0", has_side_effect=False](a, b, acc)


@always_inline
def load_half[half: Int, dtype: DType](w: ReadPtr[dtype], lane: Int) -> Vector:
    """The first or the second elements of the pairs at some lanes as float32; where there are no pairs, the elements."""
    comptime if pack_factor[dtype]() == 1:
        return w.unsafe_load[width=LANES](lane).cast[DType.float32]()
    else:
        var bits = bitcast[DType.uint32, LANES](w.unsafe_load[width=2 * LANES](2 * lane))
        # A bfloat16 is the upper half of a float32.
        return bitcast[DType.float32, LANES](bits << 16 if half == 0 else bits & 0xFFFF_0000)


@always_inline
def prefetch_step[vectors: Int, wtype: DType](w: ReadPtr[wtype], k: Int):
    """Asks for the weights that are needed some steps after step `k`."""
    comptime size = size_of[wtype]()
    comptime width = pack_factor[wtype]()
    comptime for line in range(0, vectors * LANES * width, LINE // size):
        prefetch[READ_AHEAD](w.unsafe_offset(k * PANEL * width + AHEAD // size + line))


@always_inline
def add_products[
    rows: Int, vectors: Int, fetch: Bool, xtype: DType, wtype: DType
](
    mut acc: Array[Vector, rows * vectors], x: ReadPtr[xtype], x_stride: Int, w: ReadPtr[wtype], steps: Int
):
    """Adds the products at some columns, or at pairs of columns where those lie together.

    Parameters:
        rows: Rows of x.
        vectors: Vectors of outputs.
        fetch: Ask for weights ahead: they come from memory, not from the cache.
        xtype: Type of x.
        wtype: Type of the weights.

    Args:
        acc: [rows, vectors].
        x: The first row, from the first of the columns on.
        x_stride: Elements from one row of x to the next.
        w: The same of the panel.
        steps: Columns, or pairs of them.
    """
    comptime factor = pack_factor[wtype]()
    comptime width = PANEL * factor
    comptime if WIDE and xtype == DType.bfloat16 and wtype == DType.bfloat16:
        for k in range(steps):
            comptime if fetch:
                prefetch_step[vectors](w, k)
            var wv = Array[Vector, vectors](fill=Vector(0))
            comptime for v in range(vectors):
                wv[v] = bitcast[DType.float32, LANES](w.unsafe_load[width=2 * LANES](k * width + 2 * LANES * v))
            comptime for r in range(rows):
                var pair = bitcast[DType.float32, 1](x.unsafe_load[width=2](r * x_stride + 2 * k))
                comptime for v in range(vectors):
                    acc[r * vectors + v] = dot_pairs(Vector(pair[0]), wv[v], acc[r * vectors + v])
    else:
        # One half of some pairs after the other: both at once would not fit the register file.
        for begin in range(0, steps, STRIP):
            comptime for half in range(factor):
                for k in range(begin, min(begin + STRIP, steps)):
                    comptime if fetch and half == 0:
                        prefetch_step[vectors](w, k)
                    var wv = Array[Vector, vectors](fill=Vector(0))
                    comptime for v in range(vectors):
                        wv[v] = load_half[half](w.unsafe_offset(k * width), LANES * v)
                    comptime for r in range(rows):
                        var xv = Vector(x[unsafe_offset=r * x_stride + k * factor + half].cast[DType.float32]())
                        comptime for v in range(vectors):
                            acc[r * vectors + v] = fma(xv, wv[v], acc[r * vectors + v])


@always_inline
def linear_tile[
    rows: Int, vectors: Int, fetch: Bool, xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: ReadPtr[xtype],
    w: ReadPtr[wtype],
    k_size: Int,
    outputs: Int,
    bias: Optional[ReadPtr[DType.float32]],
):
    """A block of outputs, accumulated in registers over all of k.

    Parameters:
        rows: Rows of x.
        vectors: Vectors of outputs.
        fetch: Ask for weights ahead.
        xtype: Type of x.
        wtype: Type of the weights.

    Args:
        y: First output of the block; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: [rows, k_size].
        w: The panel, from the block's first lane on.
        k_size: Length of the sums.
        outputs: How many of the lanes are outputs.
        bias: Of the outputs.
    """
    comptime factor = pack_factor[wtype]()
    var acc = Array[Vector, rows * vectors](fill=Vector(0))
    var whole = k_size // factor
    add_products[rows, vectors, fetch](acc, x, k_size, w, whole)
    if whole * factor < k_size:  # half a pair is left, and the other half of the weights is zero
        var last = Array[Scalar[xtype], rows * 2](fill=0)
        comptime for r in range(rows):
            last[2 * r] = x[unsafe_offset=r * k_size + k_size - 1]
        add_products[rows, vectors, False](
            acc, untracked(last.unsafe_ptr()), 2, w.unsafe_offset(whole * PANEL * factor), 1
        )
        _ = last^
    comptime for r in range(rows):
        comptime for v in range(vectors):
            var sums = acc[r * vectors + v]
            var place = y.unsafe_offset(r * y_stride + LANES * v)
            if outputs >= LANES * (v + 1):
                if bias:
                    sums += bias.value().unsafe_load[width=LANES](LANES * v)
                place.unsafe_store(0, sums)
            else:
                for lane in range(outputs - LANES * v):
                    var own = bias.value()[unsafe_offset=LANES * v + lane] if bias else Float32(0)
                    place[unsafe_offset=lane] = sums[lane] + own


@always_inline
def linear_rows[
    rows: Int, fetch: Bool, xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: ReadPtr[xtype],
    w: ReadPtr[wtype],
    k_size: Int,
    outputs: Int,
    bias: Optional[ReadPtr[DType.float32]],
):
    """`rows` rows of x against a panel; arguments as in `linear_tile`."""
    comptime for lane in range(0, PANEL, VECTORS * LANES):
        if lane < outputs:
            var own: Optional[ReadPtr[DType.float32]] = None
            if bias:
                own = bias.value().unsafe_offset(lane)
            linear_tile[rows, VECTORS, fetch](
                y.unsafe_offset(lane),
                y_stride,
                x,
                w.unsafe_offset(lane * pack_factor[wtype]()),
                k_size,
                outputs - lane,
                own,
            )


def linear_block[
    fetch: Bool, xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: ReadPtr[xtype],
    m_size: Int,
    w: ReadPtr[wtype],
    k_size: Int,
    outputs: Int,
    bias: Optional[ReadPtr[DType.float32]],
) -> Int:
    """The first rows of x, as many as make a tile, against a panel; returns how many."""
    comptime for rows in [ROWS, 4, 2, 1]:
        comptime if rows <= ROWS:
            if m_size >= rows:
                linear_rows[rows, fetch](y, y_stride, x, w, k_size, outputs, bias)
                return rows
    return 0


def linear_cpu[
    xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    x: ReadPtr[xtype],
    w: ReadPtr[wtype],
    m_size: Int,
    n_size: Int,
    k_size: Int,
    bias: Optional[ReadPtr[DType.float32]] = None,
):
    """Computes y[m, n] = sum over k of x[m, k] * w[n, k], in float32, on all cores.

    Args:
        y: [m_size, n_size], written.
        x: [m_size, k_size], float32 or bfloat16.
        w: [n_size, k_size], packed; float32, bfloat16 or float16.
        m_size: Rows of x.
        n_size: Rows of w.
        k_size: Columns of x and w.
        bias: [n_size], added to every row.
    """
    comptime factor = pack_factor[wtype]()
    var panel_size = ceildiv(k_size, factor) * factor * PANEL

    def panels(begin: Int, end: Int) {var y, var x, var w, imm}:
        for p in range(begin, end):
            var n = p * PANEL
            var outputs = min(PANEL, n_size - n)
            var wp = w.unsafe_offset(p * panel_size)
            var own: Optional[ReadPtr[DType.float32]] = None
            if bias:
                own = bias.value().unsafe_offset(n)
            # The first rows bring a panel of weights into the cache, the others find it there.
            var m = linear_block[True](y.unsafe_offset(n), n_size, x, m_size, wp, k_size, outputs, own)
            while m < m_size:
                m += linear_block[False](
                    y.unsafe_offset(m * n_size + n),
                    n_size,
                    x.unsafe_offset(m * k_size),
                    m_size - m,
                    wp,
                    k_size,
                    outputs,
                    own,
                )

    parallel_ranges(ceildiv(n_size, PANEL), PANEL * m_size * k_size, panels)


@extensibility.register("mili.linear")
struct Linear:
    """`y[T, N] = x[T, K] @ w[N, K].T`; w packed as [N / 64, K / P, 64 P], x in float32 or bfloat16, sums in float32."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[rank=2, ...],
        w: InputTensor[rank=3, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        linear_cpu(
            untracked(y.unsafe_ptr()),
            untracked(x.unsafe_ptr()),
            untracked(w.unsafe_ptr()),
            x.dim_size(0),
            y.dim_size(1),
            x.dim_size(1),
        )


@extensibility.register("mili.linear_bias")
struct LinearBias:
    """`y[T, N] = x[T, K] @ w[N, K].T + bias[N]`, as `mili.linear`."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[rank=2, ...],
        w: InputTensor[rank=3, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        linear_cpu(
            untracked(y.unsafe_ptr()),
            untracked(x.unsafe_ptr()),
            untracked(w.unsafe_ptr()),
            x.dim_size(0),
            y.dim_size(1),
            x.dim_size(1),
            ReadPtr[DType.float32](untracked(bias.unsafe_ptr())),
        )
