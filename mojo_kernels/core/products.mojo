"""Attention's inner loop: rows of numbers against the interleaved panels of the KV cache, sums in registers.

Lanes are positions for scores and dimensions for values; each lane adds its own products in one order for any number
of rows, so a row's result never depends on the rows beside it (batch invariance). The types decide the instruction:
bfloat16 pairs (AVX512-BF16), int16 pairs, by int16 or int8, whose int32 sums are exact (AVX512-VNNI), or float32 FMAs.
"""

from std.math import fma
from std.memory import bitcast
from std.sys import CompilationTarget, inlined_assembly
from std.sys.intrinsics import prefetch

from ..memory.kv_cache import has_scales, pair_size
from ..utils.isa import multiply_pairs
from ..utils.simd import WIDTH
from ..utils.types import ReadPtr
from .packed import READ_AHEAD

comptime LANES = 16
comptime Vector16 = SIMD[DType.float32, LANES]
"""One register with AVX-512, several elsewhere."""
comptime WIDE = WIDTH == LANES
comptime AVX2 = WIDTH == LANES // 2
comptime ONE_PASS = 8 if WIDE else 2
"""Vectors of a register tile of one or two rows."""
comptime SCORED = 4 if WIDE else 2
"""Panels whose scores a tile of one or two rows computes; a larger one takes `tile_vectors` at a time."""
comptime UNROLLED = 2 if AVX2 else 1
"""Steps between two looks at a loop's counter."""
comptime FETCHING_ROWS = 2 if AVX2 else 0
"""Most rows of a register tile that asks memory for what is needed later: it waits for memory more than it computes."""
comptime STRIP = 8
"""Pairs of which short vectors multiply first one half and then the other."""


def tile_rows[operand: DType]() -> Int:
    """Most rows of a register tile. Where each vector of the cache has to be unpacked, many rows share that."""
    comptime if WIDE:
        return 12 if operand == DType.float32 else 6
    else:
        return 6 if AVX2 else 2


def tile_vectors[operand: DType]() -> Int:
    """Vectors of a register tile of so many rows: the sums must fit the register file."""
    comptime if WIDE:
        return 24 // tile_rows[operand]()
    else:
        return 1 if AVX2 else 2


def sum_type[dtype: DType]() -> DType:
    """The type in which products of a cache of some type are summed."""
    return DType.int32 if has_scales[dtype]() else DType.float32


@always_inline
def dot_bfloat16(a: Vector16, b: Vector16, acc: Vector16) -> Vector16:
    """Adds to each lane of acc the two products of the bfloat16 pairs in a and b."""
    return inlined_assembly["vdpbf16ps $2, $1, $0", Vector16, constraints="=v,v,v,0", has_side_effect=False](a, b, acc)


@always_inline
def dot_int16(a: SIMD[DType.int32, LANES], b: SIMD[DType.int32, LANES], acc: SIMD[DType.int32, LANES]) -> type_of(acc):
    """Adds to each lane of acc the two products of the int16 pairs in a and b."""
    comptime if CompilationTarget.has_vnni() and WIDE:
        return inlined_assembly["vpdpwssd $2, $1, $0", type_of(acc), constraints="=v,v,v,0", has_side_effect=False](
            a, b, acc
        )
    elif CompilationTarget.is_x86() and AVX2:
        var x = bitcast[DType.int16, 2 * LANES](a)
        var w = bitcast[DType.int16, 2 * LANES](b)
        var first = multiply_pairs(x.slice[LANES](), w.slice[LANES]())
        return acc + first.join(multiply_pairs(x.slice[LANES, offset=LANES](), w.slice[LANES, offset=LANES]()))
    else:
        return acc + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16)


@always_inline
def load_half[half: Int, dtype: DType](w: ReadPtr[dtype], offset: Int) -> Vector16:
    """The first or the second numbers of 16 pairs as float32; where there are no pairs, the numbers."""
    comptime if pair_size[dtype]() == 1:
        return w.unsafe_load[width=LANES](offset).cast[DType.float32]()
    else:
        var bits = bitcast[DType.uint32, LANES](w.unsafe_load[width=2 * LANES](offset))
        # A bfloat16 is the upper half of a float32.
        return bitcast[DType.float32, LANES](bits << 16 if half == 0 else bits & 0xFFFF_0000)


@always_inline
def add_products[
    rows: Int, vectors: Int, xtype: DType, wtype: DType
](
    mut acc: Array[SIMD[sum_type[wtype](), LANES], rows * vectors],
    x: ReadPtr[xtype],
    x_stride: Int,
    w: Array[ReadPtr[wtype], vectors],
    w_stride: Int,
    steps: Int,
    later: Array[ReadPtr[wtype], vectors],
    later_stride: Int,
):
    """Adds x[r, k] * w[k, lane] for some k to the sums.

    Parameters:
        rows: Rows of x.
        vectors: Vectors of lanes.
        xtype: Type of x: float32; bfloat16 with a bfloat16 w; int16 with an int8 or int16 w.
        wtype: Type of the cache.

    Args:
        acc: [rows, vectors].
        x: The first row, from the first k on.
        x_stride: Elements from one row of x to the next.
        w: Of each vector of lanes, its numbers at the first k: P at a time of each of 16 lanes.
        w_stride: Elements from the P numbers of a lane to its next.
        steps: Numbers k, or pairs of them.
        later: As many places whose numbers are needed soon: a tile of few rows asks for a vector at each in each step.
        later_stride: Elements from a step's to the next one's.
    """
    comptime pair = pair_size[wtype]()
    comptime if xtype == DType.float32 and WIDE:
        for k in range(steps):
            comptime for half in range(pair):
                comptime if half == 0 and rows <= FETCHING_ROWS:
                    fetch(later, k * later_stride)
                add_half[rows, vectors, half](acc, x, x_stride, w, w_stride, k)
    elif xtype == DType.float32:
        for begin in range(0, steps, STRIP):
            var end = min(begin + STRIP, steps)
            comptime for half in range(pair):
                var k = begin
                while k + UNROLLED <= end:
                    comptime for i in range(UNROLLED):
                        comptime if half == 0 and rows <= FETCHING_ROWS:
                            fetch(later, (k + i) * later_stride)
                        add_half[rows, vectors, half](acc, x, x_stride, w, w_stride, k + i)
                    k += UNROLLED
                comptime if UNROLLED > 1:
                    while k < end:
                        add_half[rows, vectors, half](acc, x, x_stride, w, w_stride, k)
                        k += 1
    elif wtype == DType.bfloat16:
        for k in range(steps):
            var wv = Array[Vector16, vectors](fill=Vector16(0))
            comptime for v in range(vectors):
                wv[v] = bitcast[DType.float32, LANES](w[v].unsafe_load[width=2 * LANES](k * w_stride))
            comptime for r in range(rows):
                var xv = Vector16(bitcast[DType.float32, 1](x.unsafe_load[width=2](r * x_stride + 2 * k))[0])
                comptime for v in range(vectors):
                    acc[r * vectors + v] = rebind[type_of(acc[0])](
                        dot_bfloat16(xv, wv[v], rebind[Vector16](acc[r * vectors + v]))
                    )
    else:
        comptime Sums = SIMD[DType.int32, LANES]
        for k in range(steps):
            comptime if rows <= FETCHING_ROWS:
                fetch(later, k * later_stride)
            var wv = Array[Sums, vectors](fill=Sums(0))
            comptime for v in range(vectors):
                var wide = w[v].unsafe_load[width=2 * LANES](k * w_stride).cast[DType.int16]()
                wv[v] = bitcast[DType.int32, LANES](wide)
            comptime for r in range(rows):
                var xv = Sums(bitcast[DType.int32, 1](x.unsafe_load[width=2](r * x_stride + 2 * k))[0])
                comptime for v in range(vectors):
                    acc[r * vectors + v] = rebind[type_of(acc[0])](
                        dot_int16(xv, wv[v], rebind[Sums](acc[r * vectors + v]))
                    )


@always_inline
def fetch[dtype: DType, count: Int](places: Array[ReadPtr[dtype], count], offset: Int):
    """Asks memory for what is at some places, so many elements on."""
    comptime for i in range(count):
        prefetch[READ_AHEAD](places[i].unsafe_offset(offset))


@always_inline
def add_half[
    rows: Int, vectors: Int, half: Int, xtype: DType, wtype: DType
](
    mut acc: Array[SIMD[sum_type[wtype](), LANES], rows * vectors],
    x: ReadPtr[xtype],
    x_stride: Int,
    w: Array[ReadPtr[wtype], vectors],
    w_stride: Int,
    k: Int,
):
    """Adds in float32 the products at one k, or at the first or second of pair k."""
    comptime pair = pair_size[wtype]()
    var wv = Array[Vector16, vectors](fill=Vector16(0))
    comptime for v in range(vectors):
        wv[v] = load_half[half](w[v], k * w_stride)
    comptime for r in range(rows):
        var xv = Vector16(x[unsafe_offset=r * x_stride + k * pair + half].cast[DType.float32]())
        comptime for v in range(vectors):
            acc[r * vectors + v] = rebind[type_of(acc[0])](
                fma(xv, wv[v], rebind[Vector16](acc[r * vectors + v]))
            )
