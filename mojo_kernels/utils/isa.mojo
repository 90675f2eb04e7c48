"""The instruction sets that linear layers are written for.

Who builds a graph names one, by what the CPU says of itself. The compiler does not know AVX512-BF16, AVX512-FP16 and
VNNI of all CPUs it compiles for, so what needs those is written as assembly.

    amx          tiles of bfloat16 pairs and of int8 quads, see `tiles.mojo`; beside them all that follows
    avx512_fp16  float16 (vfmadd231ph), twice as many numbers as float32; quads of int8
    avx512_bf16  pairs of bfloat16 (vdpbf16ps), and quads of int8; on AMD's CPUs, for Intel's are faster with FMAs
    avx512_vnni  pairs of int16 (vpdpwssd), and quads of int8 (vpdpbusd)
    avx2_vnni    the same in vectors half as long
    avx2         pairs of int16 (vpmaddwd); int8 by way of int16
    avx512       float32; int8 by way of int16
    neon         float32; quads of int8 (sdot)
    portable     what the compiler makes of short vectors
"""

from std.memory import bitcast
from std.sys import CompilationTarget, inlined_assembly, llvm_intrinsic

from .types import WritePtr

comptime ZEN4 = CompilationTarget._arch() == "znver4"
"""Whether the CPU compiled for is AMD's Zen 4. Its L1 cache of 32 KiB has no room for weights to come beside those that
are multiplied, and storing a vector of AVX-512 takes it two cycles.
"""


def lanes[isa: StaticString]() -> Int:
    """Float32 numbers in a vector."""
    comptime if isa.startswith("avx512") or isa == "amx":
        return 16
    elif isa.startswith("avx2"):
        return 8
    else:
        return 4


def registers[isa: StaticString]() -> Int:
    """Vector registers."""
    return 16 if isa.startswith("avx2") else 32


def has_tiles[isa: StaticString]() -> Bool:
    """Whether there are tiles."""
    return isa == "amx"


def has_pairs[isa: StaticString]() -> Bool:
    """Whether pairs of bfloat16 are multiplied at once."""
    return has_tiles[isa]() or isa == "avx512_bf16"


def has_quads[isa: StaticString]() -> Bool:
    """Whether quads of int8 are multiplied at once."""
    return has_pairs[isa]() or isa == "avx512_fp16" or isa.endswith("_vnni")


def quad_lanes[isa: StaticString]() -> Int:
    """Int32 numbers in a vector of sums of quads."""
    # AVX-512 without VNNI lacks vpsignb.
    return 8 if isa == "avx512" else lanes[isa]()


@always_inline
def add_pairs(
    acc: SIMD[DType.float32, 16], a: SIMD[DType.float32, 16], b: SIMD[DType.float32, 16]
) -> SIMD[DType.float32, 16]:
    """Adds to each lane of acc the two products of the bfloat16 pairs in a and b (vdpbf16ps)."""
    return inlined_assembly[
        "vdpbf16ps $2, $1, $0", SIMD[DType.float32, 16], constraints="=v,v,v,0", has_side_effect=False
    ](a, b, acc)


comptime HALVES = 32
"""Float16 numbers in a vector, where those are multiplied."""
comptime Halves = SIMD[DType.uint32, HALVES // 2]
"""So many, as bits: compilers that do not know of float16's instructions would take such vectors apart."""


@always_inline
def add_halves(acc: Halves, a: Halves, b: Halves) -> Halves:
    """Adds to each float16 of acc the product of those in a and b (vfmadd231ph)."""
    return inlined_assembly["vfmadd231ph $2, $1, $0", Halves, constraints="=v,v,v,0", has_side_effect=False](a, b, acc)


@always_inline
def put_halves(to: WritePtr[DType.float16], numbers: Halves):
    """Stores them so that the compiler does not know what is there: read as vectors that are half as long, they are
    widened as they are loaded, which takes half the instructions of parting them in registers.
    """
    inlined_assembly["vmovups $0, ($1)", NoneType, constraints="v,r,~{memory}", has_side_effect=True](numbers, to)


def quad_shift[isa: StaticString, bits: Int]() -> Int:
    """What `add_quads` takes off every weight: 128 where the CPU can't multiply unsigned with signed bytes exactly."""
    return 0 if bits == 4 or has_quads[isa]() or isa == "portable" else 128


def quad_sum_type[isa: StaticString, bits: Int]() -> DType:
    """The type in which `add_quads` sums: int16 where that halves the work. It holds eight quads of four bits: 16 times
    15 times 127 is below 2^15.
    """
    return DType.int16 if bits == 4 and quad_lanes[isa]() == 8 and not has_quads[isa]() else DType.int32


comptime QuadSums[isa: StaticString, bits: Int] = SIMD[
    quad_sum_type[isa, bits](), quad_lanes[isa]() * (2 if quad_sum_type[isa, bits]() == DType.int16 else 1)
]
"""Sums of `add_quads`: one for each lane, or two that `widen_sums` adds up."""


@always_inline
def multiply_pairs(a: SIMD[DType.int16, 16], b: SIMD[DType.int16, 16]) -> SIMD[DType.int32, 8]:
    """Of each pair of int16 the sum of its two products (AVX2's vpmaddwd)."""
    return llvm_intrinsic["llvm.x86.avx2.pmadd.wd", SIMD[DType.int32, 8]](a, b)


@always_inline
def add_words[
    isa: StaticString
](
    acc: SIMD[DType.int32, lanes[isa]()], w: SIMD[DType.int32, lanes[isa]()], x: SIMD[DType.int32, lanes[isa]()]
) -> SIMD[DType.int32, lanes[isa]()]:
    """Adds to each lane of acc the two products of the int16 pairs in w and x; exact."""
    comptime width = lanes[isa]()
    comptime if isa.endswith("_vnni"):
        comptime text = StaticString("{vex} vpdpwssd $2, $1, $0" if width == 8 else "vpdpwssd $2, $1, $0")
        comptime operands = StaticString("=x,x,x,0" if width == 8 else "=v,v,v,0")
        return inlined_assembly[text, SIMD[DType.int32, width], constraints=operands, has_side_effect=False](w, x, acc)
    else:
        comptime assert width == 8, "int16 is multiplied with AVX2"
        var products = multiply_pairs(
            rebind[SIMD[DType.int16, 16]](bitcast[DType.int16, 2 * width](w)),
            rebind[SIMD[DType.int16, 16]](bitcast[DType.int16, 2 * width](x)),
        )
        return acc + rebind[SIMD[DType.int32, width]](products)


@always_inline
def widen_sums[
    isa: StaticString, bits: Int
](sums: QuadSums[isa, bits]) -> SIMD[DType.int32, quad_lanes[isa]()]:
    """A sum of int32 for each lane."""
    comptime Wide = SIMD[DType.int32, quad_lanes[isa]()]
    comptime if quad_sum_type[isa, bits]() == DType.int16:
        return rebind[Wide](multiply_pairs(rebind[SIMD[DType.int16, 16]](sums), 1))
    else:
        return rebind[Wide](sums)


@always_inline
def add_quads[
    isa: StaticString, bits: Int
](acc: QuadSums[isa, bits], w: SIMD[DType.uint8, 4 * quad_lanes[isa]()], x: Int32) -> QuadSums[isa, bits]:
    """Adds to each lane of acc the four products of its weights, less `quad_shift`, with the four int8 in x; exact.

    Parameters:
        isa: The instructions to use.
        bits: Of the weights: 8, or 4, when each is below 16.

    Args:
        acc: Sums.
        w: The weights: four for each lane.
        x: Four int8, each within -127 and 127.
    """
    comptime width = quad_lanes[isa]()
    comptime Sums = SIMD[DType.int32, width]
    var quads = Sums(x)
    comptime if has_quads[isa]():
        # AVX-VNNI's has the shorter of the two encodings, which names only the first 16 registers.
        comptime text = StaticString("{vex} vpdpbusd $2, $1, $0" if width == 8 else "vpdpbusd $2, $1, $0")
        comptime operands = StaticString("=x,x,x,0" if width == 8 else "=v,v,v,0")
        var sums = inlined_assembly[text, Sums, constraints=operands, has_side_effect=False](
            bitcast[DType.int32, width](w), quads, rebind[Sums](acc)
        )
        return rebind[type_of(acc)](sums)
    elif isa == "neon":
        var signed = bitcast[DType.int8, 16](rebind[SIMD[DType.uint8, 16]](w) ^ UInt8(quad_shift[isa, bits]()))
        var xv = bitcast[DType.int8, 16](quads)
        return rebind[type_of(acc)](
            llvm_intrinsic["llvm.aarch64.neon.sdot.v4i32.v16i8", SIMD[DType.int32, 4]](
                rebind[SIMD[DType.int32, 4]](acc), signed, xv
            )
        )
    elif width == 8:
        var xv = bitcast[DType.int8, 32](quads)
        var wv = rebind[SIMD[DType.uint8, 32]](w)
        comptime if bits == 4:
            return acc + rebind[type_of(acc)](
                llvm_intrinsic["llvm.x86.avx2.pmadd.ub.sw", SIMD[DType.int16, 16]](wv, xv)
            )
        # |w| and x with w's sign: the sum of two products fits 16 bits.
        var signed = bitcast[DType.int8, 32](wv ^ 128)
        wv = bitcast[DType.uint8, 32](abs(signed))
        xv = llvm_intrinsic["llvm.x86.avx2.psign.b", SIMD[DType.int8, 32]](xv, signed)
        var pairs = llvm_intrinsic["llvm.x86.avx2.pmadd.ub.sw", SIMD[DType.int16, 16]](wv, xv)
        return acc + rebind[type_of(acc)](multiply_pairs(pairs, 1))
    else:
        var products = w.cast[DType.int32]() * bitcast[DType.int8, 4 * width](quads).cast[DType.int32]()
        var even, odd = products.deinterleave()
        var low, high = (even + odd).deinterleave()
        return acc + rebind[type_of(acc)](low + high)
