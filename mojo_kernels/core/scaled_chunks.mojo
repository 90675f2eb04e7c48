"""Products of some rows with a chunk of a panel of float16 or int16 numbers; see `scaled_rows.mojo`.

A float16 FMA has twice the numbers of a float32 one. Columns of even and of odd numbers are summed apart: up to 32
products in float16, these sums in float32, and at last the two. That loses less than bfloat16's rounding of x: each of
the 32 roundings is 2^-12 at most, relative to a part of the sum.

Of int16, one instruction adds the two products of a pair to an int32 (VNNI's vpdpwssd, or AVX2's vpmaddwd and another
one), which is twice as many products as FMAs have. The sum of a group is exact.
"""

from std.math import fma
from std.memory import bitcast
from std.sys.intrinsics import prefetch

from .packed import LINE, PANEL, READ_SOON
from .scaled_rows import GROUP, PAIRS, ScaledTile, WIDE
from ..utils.isa import HALVES, Halves, add_halves, add_words, lanes, put_halves, registers
from ..utils.types import ReadPtr, WritePtr, untracked

comptime HALF_VECTORS = PAIRS // HALVES


def chunk_pairs[dtype: DType]() -> Int:
    """Pairs of columns whose products are summed in the numbers' own way."""
    return 32 if dtype == DType.float16 else GROUP // 2


def row_sums[dtype: DType]() -> Int:
    """Float32 sums of a row: [64, 2], of even and odd columns, or [64]."""
    return PAIRS if dtype == DType.float16 else PANEL


@always_inline
def add_chunk[
    dtype: DType, isa: StaticString, rows: Int, lines: Int
](
    sums: WritePtr[DType.float32],
    x: ScaledTile,
    w: ReadPtr[dtype],
    pairs: Int,
    scales: ReadPtr[DType.float32],
    groups: Int,
    ahead: ReadPtr[DType.uint8],
):
    """Adds the products of some rows at up to a chunk of columns.

    Parameters:
        dtype: Float16 or int16.
        isa: Instructions that multiply int16.
        rows: How many, all of one block.
        lines: Cache lines that are asked for with each pair.

    Args:
        sums: [rows, `row_sums`].
        x: The rows.
        w: The weights.
        pairs: How many.
        scales: Of int16, the first row's scale.
        groups: From a row's scale to that of the next.
        ahead: Where the lines lie.
    """
    comptime if dtype == DType.float16:
        add_half_chunk[rows, lines](sums, x, rebind[ReadPtr[DType.float16]](w), pairs, ahead)
    else:
        add_word_chunk[isa, rows, lines](sums, x, rebind[ReadPtr[DType.int16]](w), pairs, scales, groups, ahead)


@always_inline
def add_half_chunk[
    rows: Int, lines: Int
](
    sums: WritePtr[DType.float32],
    x: ScaledTile,
    w: ReadPtr[DType.float16],
    pairs: Int,
    ahead: ReadPtr[DType.uint8],
):
    """`add_chunk` of float16."""
    var acc = Array[Halves, rows * HALF_VECTORS](fill=Halves(0))
    var vectors = Array[ReadPtr[DType.float16], HALF_VECTORS](fill=w)
    comptime for v in range(HALF_VECTORS):
        vectors[v] = w.unsafe_offset(v * HALVES)
    for k in range(pairs):
        fetch_lines[lines](ahead, k)
        add_pair[rows, HALF_VECTORS](acc, x.data.unsafe_offset(k * x.stride), 1, vectors, k * PAIRS)
    var halves = Array[Float16, rows * PAIRS](uninitialized=True)
    var hp = untracked(halves.unsafe_ptr())
    comptime for i in range(rows * HALF_VECTORS):
        put_halves(hp.unsafe_offset(i * HALVES), acc[i])
    comptime for i in range(0, rows * PAIRS, WIDE):
        var wide = hp.unsafe_load[width=WIDE](i).cast[DType.float32]()
        sums.unsafe_store(i, sums.unsafe_load[width=WIDE](i) + wide)
    _ = halves^


@always_inline
def add_word_chunk[
    isa: StaticString, rows: Int, lines: Int
](
    sums: WritePtr[DType.float32],
    x: ScaledTile,
    w: ReadPtr[DType.int16],
    pairs: Int,
    scales: ReadPtr[DType.float32],
    groups: Int,
    ahead: ReadPtr[DType.uint8],
):
    """`add_chunk` of int16: as many vectors at a time as leave room for weights among the registers."""
    comptime width = lanes[isa]()
    comptime all = PANEL // width
    comptime Sums = SIMD[DType.int32, width]
    comptime vectors = word_vectors[isa, rows]()
    comptime for first in range(0, all, vectors):
        var acc = Array[Sums, rows * vectors](fill=Sums(0))
        for k in range(pairs):
            comptime if first == 0:
                fetch_lines[lines](ahead, k)
            var here = w.unsafe_offset(k * PAIRS + 2 * first * width)
            var wv = Array[Sums, vectors](fill=Sums(0))
            comptime for v in range(vectors):
                wv[v] = bitcast[DType.int32, width](here.unsafe_load[width=2 * width](2 * v * width))
            comptime for r in range(rows):
                var pair = Sums(bitcast[DType.int32, 1](x.data[unsafe_offset=k * x.stride + r]))
                comptime for v in range(vectors):
                    acc[r * vectors + v] = add_words[isa](acc[r * vectors + v], wv[v], pair)
        comptime for r in range(rows):
            var scale = SIMD[DType.float32, width](scales[unsafe_offset=r * groups])
            comptime for v in range(vectors):
                var place = sums.unsafe_offset(r * PANEL + (first + v) * width)
                var sum = acc[r * vectors + v].cast[DType.float32]()
                place.unsafe_store(fma(sum, scale, place.unsafe_load[width=width](0)))


def word_vectors[isa: StaticString, rows: Int]() -> Int:
    """Vectors of int32 sums of a tile of so many rows, side by side."""
    var vectors = PANEL // lanes[isa]()
    while vectors > 1 and (rows + 1) * vectors > registers[isa]() - 2:
        vectors //= 2
    return vectors


@always_inline
def fetch_lines[lines: Int](ahead: ReadPtr[DType.uint8], pair: Int):
    """Asks for a pair's lines."""
    comptime for line in range(lines):
        prefetch[READ_SOON](ahead.unsafe_offset((pair * lines + line) * LINE))


@always_inline
def add_pair[
    rows: Int, vectors: Int
](
    mut acc: Array[Halves, rows * vectors],
    x: ReadPtr[DType.uint32],
    x_stride: Int,
    w: Array[ReadPtr[DType.float16], vectors],
    offset: Int,
):
    """Adds the products of a pair of each row with the pairs of each vector's lanes.

    Parameters:
        rows: Rows of x.
        vectors: Vectors of pairs.

    Args:
        acc: [rows, vectors].
        x: The first row's pair.
        x_stride: Pairs from one row to the next.
        w: The vectors.
        offset: Numbers from where `w` says to where they lie.
    """
    var wv = Array[Halves, vectors](fill=Halves(0))
    comptime for v in range(vectors):
        wv[v] = bitcast[DType.uint32, HALVES // 2](w[v].unsafe_load[width=HALVES](offset))
    comptime for r in range(rows):
        var xv = Halves(x[unsafe_offset=r * x_stride])
        comptime for v in range(vectors):
            acc[r * vectors + v] = add_halves(acc[r * vectors + v], xv, wv[v])
