"""Linear layer on row-major weights: y = x @ w.T (+ bias).

The sum of one output runs over k in the same order for any number of rows, so a row's result never
depends on the rows beside it (batch invariance).

With x and w both in bfloat16, CPUs with AVX512-BF16 multiply pairs of them in one instruction. The compiler does not
know it of these CPUs, so it is written as assembly, and who builds the graph decides by what it makes of x.
"""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext
from std.math import fma
from std.memory import bitcast
from std.sys import inlined_assembly, simd_width_of
from std.sys.intrinsics import PrefetchOptions, prefetch

from ..utils.parallel import parallel_ranges
from ..utils.types import ReadPtr, WritePtr, require_cpu, untracked

comptime WIDTH = simd_width_of[DType.float32]()
comptime Vector = SIMD[DType.float32, WIDTH]
comptime ROWS = 6 if WIDTH == 16 else 2
"""Rows of x in a register tile: ROWS x COLS accumulators must fit the register file."""
comptime COLS = 4
"""Rows of w in a register tile."""
comptime PANEL = 16 * COLS
"""Rows of w that stay in the L2 cache while all rows of x pass by."""
comptime READ_AHEAD = PrefetchOptions().for_read().high_locality().to_data_cache()


@always_inline
def load_lanes[paired: Bool, dtype: DType](p: ReadPtr[dtype]) -> Vector:
    """WIDTH elements as float32, or twice as many bfloat16 elements, two in each lane."""
    comptime if paired:
        return bitcast[DType.float32, WIDTH](p.unsafe_load[width=2 * WIDTH]())
    return p.unsafe_load[width=WIDTH]().cast[DType.float32]()


@always_inline
def multiply_add[paired: Bool](a: Vector, b: Vector, acc: Vector) -> Vector:
    """Adds to each lane the product of the lanes, or of the pairs in them the sum of both products (vdpbf16ps)."""
    comptime if paired:
        return inlined_assembly["vdpbf16ps $2, $1, $0", Vector, constraints="=v,v,v,0", has_side_effect=False](
            a, b, acc
        )
    return fma(a, b, acc)


@always_inline
def linear_tile[
    rows: Int, cols: Int, fetch: Bool, xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: ReadPtr[xtype],
    w: ReadPtr[wtype],
    k_size: Int,
):
    """A block of outputs, accumulated in registers over all of k.

    Parameters:
        rows: Rows of x.
        cols: Rows of w.
        fetch: Ask for the next tile's weights on the way: they come from memory, not from the cache.
        xtype: Type of x.
        wtype: Type of the weights.

    Args:
        y: First output of the block; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: [rows, k_size].
        w: [cols, k_size].
        k_size: Length of the sums.
    """
    comptime paired = WIDTH == 16 and xtype == DType.bfloat16 and wtype == DType.bfloat16
    comptime step = 2 * WIDTH if paired else WIDTH
    var acc = Array[Vector, rows * cols](fill=Vector(0))
    var k = 0
    while k + step <= k_size:
        var wv = Array[Vector, cols](fill=Vector(0))
        comptime for c in range(cols):
            wv[c] = load_lanes[paired](w.unsafe_offset(c * k_size + k))
            comptime if fetch:
                prefetch[READ_AHEAD](w.unsafe_offset((c + cols) * k_size + k))
        comptime for r in range(rows):
            var xv = load_lanes[paired](x.unsafe_offset(r * k_size + k))
            comptime for c in range(cols):
                acc[r * cols + c] = multiply_add[paired](xv, wv[c], acc[r * cols + c])
        k += step
    comptime for r in range(rows):
        comptime for c in range(cols):
            var total = acc[r * cols + c].reduce_add()
            for t in range(k, k_size):
                total = fma(
                    x[unsafe_offset=r * k_size + t].cast[DType.float32](),
                    w[unsafe_offset=c * k_size + t].cast[DType.float32](),
                    total,
                )
            y[unsafe_offset=r * y_stride + c] = total


@always_inline
def linear_rows[
    rows: Int, fetch: Bool, xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: ReadPtr[xtype],
    w: ReadPtr[wtype],
    n_size: Int,
    k_size: Int,
):
    """`rows` rows of x against `n_size` rows of w; parameters as in `linear_tile`."""
    var n = 0
    while n + COLS <= n_size:
        linear_tile[rows, COLS, fetch](
            y.unsafe_offset(n), y_stride, x, w.unsafe_offset(n * k_size), k_size
        )
        n += COLS
    while n < n_size:
        linear_tile[rows, 1, fetch](
            y.unsafe_offset(n), y_stride, x, w.unsafe_offset(n * k_size), k_size
        )
        n += 1


def linear_block[
    fetch: Bool, xtype: DType, wtype: DType
](
    y: WritePtr[DType.float32],
    x: ReadPtr[xtype],
    w: ReadPtr[wtype],
    m_size: Int,
    y_stride: Int,
    n_size: Int,
    k_size: Int,
) -> Int:
    """The first rows of x, as many as make a tile, against a panel of w; returns how many."""
    comptime for rows in [ROWS, 4, 2, 1]:
        comptime if rows <= ROWS:
            if m_size >= rows:
                linear_rows[rows, fetch](y, y_stride, x, w, n_size, k_size)
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
        w: [n_size, k_size], float32, bfloat16 or float16.
        m_size: Rows of x.
        n_size: Rows of w.
        k_size: Columns of x and w.
        bias: [n_size], added to every row.
    """

    def panel(begin: Int, end: Int) {var y, var x, var w, imm}:
        for n in range(begin, end, PANEL):
            var cols = min(PANEL, end - n)
            var wp = w.unsafe_offset(n * k_size)
            # The first rows bring a panel of weights into the cache, the others find it there.
            var m = linear_block[True](y.unsafe_offset(n), x, wp, m_size, n_size, cols, k_size)
            while m < m_size:
                m += linear_block[False](
                    y.unsafe_offset(m * n_size + n), x.unsafe_offset(m * k_size), wp, m_size - m, n_size, cols, k_size
                )
            if bias:
                for row in range(m_size):
                    for col in range(n, n + cols):
                        y[unsafe_offset=row * n_size + col] += bias.value()[unsafe_offset=col]

    parallel_ranges(n_size, m_size * k_size, panel, grain=COLS)


@extensibility.register("mili.linear")
struct Linear:
    """`y[T, N] = x[T, K] @ w[N, K].T`; x in float32 or bfloat16, w in those or float16, sums in float32."""

    @staticmethod
    def execute[
        target: StaticString
    ](
        y: OutputTensor[dtype=DType.float32, rank=2, ...],
        x: InputTensor[rank=2, ...],
        w: InputTensor[rank=2, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        linear_cpu(
            untracked(y.unsafe_ptr()), untracked(x.unsafe_ptr()), untracked(w.unsafe_ptr()), x.dim_size(0), w.dim_size(0), w.dim_size(1)
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
        w: InputTensor[rank=2, ...],
        bias: InputTensor[dtype=DType.float32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        require_cpu[target]()
        linear_cpu(
            untracked(y.unsafe_ptr()),
            untracked(x.unsafe_ptr()),
            untracked(w.unsafe_ptr()),
            x.dim_size(0),
            w.dim_size(0),
            w.dim_size(1),
            ReadPtr[DType.float32](untracked(bias.unsafe_ptr())),
        )
