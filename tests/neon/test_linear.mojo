"""Linear layers on Arm against sums in float64, with weights of every type."""

from std.testing import TestSuite

from mojo_kernels.core.linear import linear_cpu
from mojo_kernels.utils.types import untracked
from matrices import pack
from numbers import Numbers, assert_close, assert_same_bits

comptime MOST = 70
"""Rows of x, of which every number is tried."""
comptime BEHIND = 64
"""Numbers behind y that have to stay as they are."""
comptime UNTOUCHED = Float32(-77)


def multiply[
    isa: StaticString, dtype: DType
](x: List[Float32], first: Int, rows: Int, packed: List[Scalar[dtype]], n: Int, k: Int) raises -> List[Float32]:
    """The layer of some rows of x."""
    var y = List[Float32](length=rows * n + BEHIND, fill=UNTOUCHED)
    linear_cpu[isa](
        untracked(y.unsafe_ptr()),
        untracked(x.unsafe_ptr().unsafe_mut_cast[True]()).unsafe_offset(first * k),
        untracked(packed.unsafe_ptr().unsafe_mut_cast[True]()),
        rows,
        n,
        k,
    )
    for i in range(BEHIND):
        if y[rows * n + i] != UNTOUCHED:
            raise Error("written behind y")
    return y^


def check[isa: StaticString, dtype: DType](n: Int, k: Int) raises:
    """All rows against float64, and any number of them against the same rows among all."""
    var numbers = Numbers(n * 1000 + k)
    var x = numbers.list[DType.float32](MOST * k)
    var w = numbers.list[dtype](n * k)
    var packed = pack(w, n, k)
    var whole = multiply[isa](x, 0, MOST, packed, n, k)
    for t in range(MOST):
        for o in range(n):
            var sum = Float64(0)
            var size = Float64(0)
            for i in range(k):
                var product = x[t * k + i].cast[DType.float64]() * w[o * k + i].cast[DType.float64]()
                sum += product
                size += abs(product)
            assert_close(whole[t * n + o], sum, Float64(k) * 2.0**-24 * size, String(isa, " ", dtype, " ", t, " ", o))
    for rows in range(1, MOST):
        var first = MOST - rows if rows % 2 else 0
        var part = multiply[isa](x, first, rows, packed, n, k)
        assert_same_bits(part, 0, whole, first * n, rows * n, String(isa, " ", dtype, ", ", rows, " rows"))


def check_type[dtype: DType]() raises:
    comptime for isa in ["neon", "portable"]:
        check[isa, dtype](1, 1)
        check[isa, dtype](63, 2)
        check[isa, dtype](64, 33)
        check[isa, dtype](67, 70)
        check[isa, dtype](130, 129)
        check[isa, dtype](201, 31)


def test_float32() raises:
    check_type[DType.float32]()


def test_bfloat16() raises:
    check_type[DType.bfloat16]()


def test_float16() raises:
    check_type[DType.float16]()


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
