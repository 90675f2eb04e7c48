"""The inner loop of linear layers on float32 or bfloat16 weights: rows of x against lanes of a panel, in registers."""

from std.math import fma
from std.memory import bitcast
from std.sys import size_of

from .float_rows import RowTile
from .packed import NextWeights, PANEL, fetch_ahead, pack_factor, store_outputs
from ..utils.isa import add_pairs, has_pairs, lanes, registers
from ..utils.types import ReadPtr, WritePtr, untracked

comptime STRIP = 16
"""Steps between two requests for the next panel; and where both halves of pairs do not fit the registers, steps whose
weights are read twice, the second time from the nearest cache.
"""


def tile_sizes[block: Int]() -> Array[Int, 5]:
    """Rows of register tiles, the largest first."""
    comptime if block == 12:
        return [12, 8, 4, 2, 1]
    else:
        return [6, 4, 2, 1, 1]


def tile_vectors[isa: StaticString, rows: Int]() -> Int:
    """Vectors of outputs in a register tile: one row takes all, for it reads its weights from memory, as one stream."""
    comptime if rows == 1:
        return PANEL // lanes[isa]()
    elif registers[isa]() == 32:
        return 4 if rows <= 6 else 2
    else:
        return 4 if rows == 2 else 2


def unrolled_steps[block: Int, rows: Int]() -> Int:
    """Columns, or pairs of them, between two looks at a loop's counter, where finding numbers takes as long as multiplying
    them; with one row, that would be too many requests to memory at once.
    """
    return 4 if block > 0 and rows > 1 else 1


def strip_steps[block: Int, rows: Int]() -> Int:
    """Steps between two requests for the next panel, where memory can't take as much at once as a strip asks for."""
    comptime if block == 12:
        return 4 if rows >= 8 else STRIP
    else:
        return 4 if 1 < rows < block else STRIP


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
    isa: StaticString, rows: Int, vectors: Int, xtype: DType, wtype: DType, block: Int, asked: Int = -1
](
    mut acc: Array[SIMD[DType.float32, lanes[isa]()], rows * vectors],
    x: RowTile[xtype, block],
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
        block: How x lies in memory.
        asked: Lines of what is needed later that each pair of columns asks for; -1 where it asks for the panel itself,
            some steps on, and for the next one.

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
            comptime if asked >= 0:
                next.fetch_lines[asked](k)
            else:
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
        comptime unroll = unrolled_steps[block, rows]()
        comptime strip = strip_steps[block, rows]()
        for begin in range(0, steps, strip):
            var end = min(begin + strip, steps)
            comptime if block > 0:
                comptime if rows > 1:
                    next.fetch_share(begin // strip)
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
    isa: StaticString, rows: Int, vectors: Int, xtype: DType, wtype: DType, block: Int
](
    mut acc: Array[SIMD[DType.float32, lanes[isa]()], rows * vectors],
    x: RowTile[xtype, block],
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
    isa: StaticString, rows: Int, vectors: Int, half: Int, xtype: DType, wtype: DType, block: Int
](
    mut acc: Array[SIMD[DType.float32, lanes[isa]()], rows * vectors],
    x: RowTile[xtype, block],
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
    isa: StaticString, rows: Int, vectors: Int, xtype: DType, wtype: DType, block: Int, asked: Int = -1
](
    y: WritePtr[DType.float32],
    y_stride: Int,
    x: RowTile[xtype, block],
    w: ReadPtr[wtype],
    k_size: Int,
    outputs: Int,
    next: NextWeights,
    resumed: Bool = False,
):
    """A block of outputs, accumulated in registers over all of k.

    Parameters:
        isa: Instructions.
        rows: Rows of x.
        vectors: Vectors of outputs.
        xtype: Type of x.
        wtype: Type of the weights.
        block: How x lies in memory.
        asked: Lines of what is needed later that each pair of columns asks for; -1 where it asks for the panel itself,
            some steps on, and for the next one.

    Args:
        y: First output of the block; row r begins at `y + r * y_stride`.
        y_stride: Elements from one row of y to the next.
        x: The rows.
        w: The panel, from the block's first lane on.
        k_size: Length of the sums.
        outputs: How many of the lanes are outputs.
        next: What a tile of several rows asks memory for meanwhile.
        resumed: Whether sums go on from what y has, where all lanes are outputs.
    """
    comptime Vector = SIMD[DType.float32, lanes[isa]()]
    comptime factor = pack_factor[wtype]()
    var acc = Array[Vector, rows * vectors](fill=Vector(0))
    if resumed:
        comptime for r in range(rows):
            comptime for v in range(vectors):
                acc[r * vectors + v] = y.unsafe_load[width=lanes[isa]()](r * y_stride + lanes[isa]() * v)
    var whole = k_size // factor
    add_products[isa, rows, vectors, asked=asked](acc, x, w, whole, next)
    if whole * factor < k_size:  # half a pair is left, and the other half of the weights is zero
        var last = Array[Scalar[xtype], rows * 2](fill=0)
        comptime for r in range(rows):
            last[2 * r] = x.get[rows](r, k_size - 1)
        add_products[isa, rows, vectors](
            acc,
            RowTile[xtype, 0](untracked(last.unsafe_ptr()), 2),
            w.unsafe_offset(whole * PANEL * factor),
            1,
            next,
        )
        _ = last^
    comptime for r in range(rows):
        comptime for v in range(vectors):
            store_outputs(y.unsafe_offset(r * y_stride), lanes[isa]() * v, acc[r * vectors + v], outputs)
