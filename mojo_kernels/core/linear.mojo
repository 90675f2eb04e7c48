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
    comptime if rows == 1:
        return PANEL // lanes[isa]()
    elif registers[isa]() == 32:
        return 4
    else:
        return 4 if rows == 2 else 2


def unrolled_steps[isa: StaticString, rows: Int]() -> Int:
    """Columns, or pairs of them, between two looks at a loop's counter, where finding numbers takes as long as multiplying
    them; with one row, that would be too many requests to memory at once.
    """
    return 4 if takes_blocks[isa]() and rows > 1 else 1


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


def takes_blocks[isa: StaticString]() -> Bool:
    """Whether rows of float32 are best multiplied from `RowBlocks`: where an instruction multiplies few numbers, finding
    each row's next number by itself takes a sixth of the time.
    """
    return isa == "avx2"


@fieldwise_init
struct Rows[dtype: DType, blocks: Bool](TrivialRegisterPassable):
    """Rows of x[M, K].

    Parameters:
        dtype: Float32 or bfloat16.
        blocks: Whether they lie as [M / 6, K, 6], where a tile finds its numbers one after the other, and the last block
            has just the rows that there are; else as [M, K].
    """

    var data: ReadPtr[Self.dtype]
    var rows: Int
    var columns: Int

    @always_inline
    def tile(self, m: Int) -> RowTile[Self.dtype, Self.blocks]:
        """Row m and those that lie behind it."""
        comptime if Self.blocks:
            var first = m // ROWS * ROWS
            return {self.data.unsafe_offset(first * self.columns + m - first), min(ROWS, self.rows - first)}
        else:
            return {self.data.unsafe_offset(m * self.columns), self.columns}

    def put(self, t: Int, x: ReadPtr[Self.dtype]):
        """Writes row t of blocks."""
        comptime assert Self.blocks, "only blocks are written"
        var place = self.tile(t)
        var target = place.data.unsafe_mut_cast[True]()
        for k in range(self.columns):
            target[unsafe_offset=k * place.stride] = x[unsafe_offset=k]


@fieldwise_init
struct RowTile[dtype: DType, blocks: Bool](TrivialRegisterPassable):
    """Some rows of x, from a column on."""

    var data: ReadPtr[Self.dtype]
    var stride: Int
    """Numbers from one column of a block to the next; else from one row to the next."""

    @always_inline
    def get[tile: Int](self, r: Int, k: Int) -> Scalar[Self.dtype]:
        """The number in row r and column k of a tile of so many rows."""
        comptime if Self.blocks:
            # A tile of as many rows is a block.
            return self.data[unsafe_offset = k * (ROWS if tile == ROWS else self.stride) + r]
        else:
            return self.data[unsafe_offset = r * self.stride + k]


@always_inline
def add_products[
    isa: StaticString, rows: Int, vectors: Int, xtype: DType, wtype: DType, blocks: Bool
](
    mut acc: Array[SIMD[DType.float32, lanes[isa]()], rows * vectors],
    x: RowTile[xtype, blocks],
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
        blocks: How x lies in memory.

    Args:
        acc: [rows, vectors].
        x: The rows, from the first of the columns on.
        w: The same of the panel.
        steps: Columns, or pairs of them.
        next: What a tile of several rows asks memory for meanwhile.
    """
    comptime width = lanes[isa]()
    comptime Vector = SIMD[DType.float32, width]
    comptime factor = pack_factor[wtype]()
    comptime step_size = PANEL * factor
    comptime if has_pairs[isa]() and xtype == DType.bfloat16 and wtype == DType.bfloat16:
        comptime bytes = vectors * width * factor * size_of[wtype]()
        for k in range(steps):
            fetch_ahead[bytes](w.unsafe_offset(k * step_size))
            comptime if rows > 1:
                next.fetch(k)
            var wv = Array[SIMD[DType.float32, 16], vectors](fill=SIMD[DType.float32, 16](0))
            comptime for v in range(vectors):
                wv[v] = bitcast[DType.float32, 16](w.unsafe_load[width=32](k * step_size + 32 * v))
            comptime for r in range(rows):
                var pair = bitcast[DType.float32, 1](x.data.unsafe_load[width=2](r * x.stride + 2 * k))
                comptime for v in range(vectors):
                    var sums = rebind[SIMD[DType.float32, 16]](acc[r * vectors + v])
                    acc[r * vectors + v] = rebind[Vector](add_pairs(sums, SIMD[DType.float32, 16](pair[0]), wv[v]))
    else:
        comptime unroll = unrolled_steps[isa, rows]()
        for begin in range(0, steps, STRIP):
            var end = min(begin + STRIP, steps)
            comptime if takes_blocks[isa]():
                comptime if rows > 1:
                    next.later(begin).fetch_all(end - begin)
                var k = begin
                while k + unroll <= end:
                    comptime for i in range(unroll):
                        add_column[isa, rows, vectors](acc, x, w, k + i)
                    k += unroll
                comptime if unroll > 1:
                    while k < end:
                        add_column[isa, rows, vectors](acc, x, w, k)
                        k += 1
            else:
                comptime if rows > 1:
                    for k in range(begin, end):
                        next.fetch(k)
                # One half of some pairs after the other: both at once would not fit the register file.
                comptime for half in range(factor):
                    for k in range(begin, end):
                        add_half[isa, rows, vectors, half](acc, x, w, k)


@always_inline
def add_column[
    isa: StaticString, rows: Int, vectors: Int, xtype: DType, wtype: DType, blocks: Bool
](
    mut acc: Array[SIMD[DType.float32, lanes[isa]()], rows * vectors],
    x: RowTile[xtype, blocks],
    w: ReadPtr[wtype],
    k: Int,
):
    """Adds the products at one column in float32, or at both columns of pair k."""
    comptime width = lanes[isa]()
    comptime Vector = SIMD[DType.float32, width]
    comptime factor = pack_factor[wtype]()
    comptime if rows == 1:
        # A vector of weights after the other, so that each is read once.
        var here = w.unsafe_offset(k * PANEL * factor)
        fetch_ahead[vectors * width * factor * size_of[wtype]()](here)
        comptime for v in range(vectors):
            comptime for half in range(factor):
                var xv = Vector(x.get[rows](0, k * factor + half).cast[DType.float32]())
                acc[v] = fma(xv, load_half[half, width](here, width * v), acc[v])
    else:
        comptime for half in range(factor):
            add_half[isa, rows, vectors, half](acc, x, w, k)


@always_inline
def add_half[
    isa: StaticString, rows: Int, vectors: Int, half: Int, xtype: DType, wtype: DType, blocks: Bool
](
    mut acc: Array[SIMD[DType.float32, lanes[isa]()], rows * vectors],
    x: RowTile[xtype, blocks],
    w: ReadPtr[wtype],
    k: Int,
):
    """Adds the products at one column in float32: at the first or the second of pair k where there are pairs."""
    comptime width = lanes[isa]()
    comptime Vector = SIMD[DType.float32, width]
    comptime factor = pack_factor[wtype]()
    var here = w.unsafe_offset(k * PANEL * factor)
    comptime if half == 0:
        fetch_ahead[vectors * width * factor * size_of[wtype]()](here)
    var wv = Array[Vector, vectors](fill=Vector(0))
    comptime for v in range(vectors):
        wv[v] = load_half[half, width](here, width * v)
    comptime for r in range(rows):
        var xv = Vector(x.get[rows](r, k * factor + half).cast[DType.float32]())
        comptime for v in range(vectors):
            acc[r * vectors + v] = fma(xv, wv[v], acc[r * vectors + v])


@always_inline
def linear_tile[
    isa: StaticString, rows: Int, vectors: Int, xtype: DType, wtype: DType, blocks: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: RowTile[xtype, blocks],
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
        blocks: How x lies in memory.

    Args:
        y: First output of the block; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        w: The panel, from the block's first lane on.
        k_size: Length of the sums.
        outputs: How many of the lanes are outputs.
        next: What a tile of several rows asks memory for meanwhile.
    """
    comptime Vector = SIMD[DType.float32, lanes[isa]()]
    comptime factor = pack_factor[wtype]()
    var acc = Array[Vector, rows * vectors](fill=Vector(0))
    var whole = k_size // factor
    add_products[isa, rows, vectors](acc, x, w, whole, next)
    if whole * factor < k_size:  # half a pair is left, and the other half of the weights is zero
        var last = Array[Scalar[xtype], rows * 2](fill=0)
        comptime for r in range(rows):
            last[2 * r] = x.get[rows](r, k_size - 1)
        add_products[isa, rows, vectors](
            acc,
            RowTile[xtype, False](untracked(last.unsafe_ptr()), 2),
            w.unsafe_offset(whole * PANEL * factor),
            1,
            next,
        )
        _ = last^
    comptime for r in range(rows):
        comptime for v in range(vectors):
            store_outputs(y.unsafe_offset(r * y_stride), lanes[isa]() * v, acc[r * vectors + v], outputs)


def linear_panel[
    isa: StaticString, xtype: DType, wtype: DType, blocks: Bool
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: Rows[xtype, blocks],
    w: ReadPtr[wtype],
    outputs: Int,
    next: NextWeights,
):
    """All rows of x against a panel.

    Parameters:
        isa: Instructions.
        xtype: Type of x.
        wtype: Type of the weights.
        blocks: How x lies in memory.

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
    # The first rows bring the weights into the cache, the others find them there.
    var m = 0
    var tile = 0
    while m < x.rows:
        comptime for rows in [ROWS, 4, 2, 1]:
            if x.rows - m >= rows:
                comptime vectors = tile_vectors[isa, rows]()
                comptime for lane in range(0, PANEL, vectors * lanes[isa]()):
                    if lane < outputs:
                        linear_tile[isa, rows, vectors](
                            y.unsafe_offset(m * y_stride + lane),
                            y_stride,
                            x.tile(m),
                            w.unsafe_offset(lane * pack_factor[wtype]()),
                            x.columns,
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
                var rows = Rows[xtype, blocks=False](x, m_size, k_size)
                linear_panel[isa](y.unsafe_offset(n), n_size, rows, panel, outputs, {next})

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
