"""Linear layers on weights of 8 and 4 bits on Arm: against sums in float64, and against the portable path."""

from std.memory import bitcast
from std.testing import TestSuite, assert_equal

from mojo_kernels.core.quantized import quantized_linear
from mojo_kernels.core.quantized_rows import QuantizedMatrix, QuantizedRows, quantize_row
from mojo_kernels.utils.isa import add_quads, quad_lanes, quad_shift, widen_sums
from mojo_kernels.utils.types import untracked
from matrices import QuantizedWeights
from numbers import Numbers, assert_close, assert_same_bits

comptime MOST = 70
"""Rows of x, of which every number is tried."""
comptime BEHIND = 64
"""Numbers behind y that have to stay as they are."""
comptime UNTOUCHED = Float32(-77)


struct Rows:
    """Rows of x, rounded."""

    var values: List[Int8]
    """[MOST, k]."""
    var scales: List[Float32]
    """[MOST, groups, 2]."""
    var groups: Int
    var k: Int

    def __init__(out self, mut x: List[Float32], groups: Int, group: Int):
        self.groups = groups
        self.k = groups * group
        self.values = List[Int8](length=MOST * self.k, fill=0)
        self.scales = List[Float32](length=MOST * groups * 2, fill=0)
        for t in range(MOST):
            quantize_row(
                untracked(self.values.unsafe_ptr()).unsafe_offset(t * self.k),
                untracked(self.scales.unsafe_ptr()).unsafe_offset(t * groups * 2),
                untracked(x.unsafe_ptr()).unsafe_offset(t * self.k),
                groups,
                group,
            )


def multiply[
    isa: StaticString, bits: Int, offsets: Bool
](mut x: Rows, first: Int, rows: Int, mut w: QuantizedWeights[bits, offsets]) raises -> List[Float32]:
    """The layer of some rows of x."""
    var y = List[Float32](length=rows * w.n + BEHIND, fill=UNTOUCHED)
    var all = QuantizedRows(untracked(x.values.unsafe_ptr()), untracked(x.scales.unsafe_ptr()), x.k, x.groups)
    var matrix = QuantizedMatrix[bits, offsets](untracked(w.packed.unsafe_ptr()), w.n, w.groups, w.group)
    quantized_linear[isa](untracked(y.unsafe_ptr()), all.row(first), rows, matrix)
    for i in range(BEHIND):
        if y[rows * w.n + i] != UNTOUCHED:
            raise Error("written behind y")
    return y^


def check[bits: Int, offsets: Bool](n: Int, groups: Int, group: Int) raises:
    """All rows against float64 and the portable path, any number of them against the same rows among all."""
    var k = groups * group
    var numbers = Numbers(n * 1000 + k)
    var w = QuantizedWeights[bits, offsets](numbers, n, groups, group)
    var numbers_of_x = numbers.list[DType.float32](MOST * k, 3)
    for i in range(k):  # the largest steps, of either sign, and none
        numbers_of_x[i] = 3
        numbers_of_x[k + i] = -3
        numbers_of_x[2 * k + i] = 0
    var x = Rows(numbers_of_x, groups, group)
    var what = String(bits, " bits, offsets ", offsets, ", ", n, " x ", groups, " x ", group)
    var whole = multiply["neon"](x, 0, MOST, w)
    var portable = multiply["portable"](x, 0, MOST, w)
    for t in range(MOST):
        for o in range(n):
            var sum = Float64(0)
            var size = Float64(0)
            for g in range(groups):
                var unit = x.scales[2 * (t * groups + g)].cast[DType.float64]()
                var scale = w.scales[o * groups + g].cast[DType.float64]()
                for i in range(g * group, (g + 1) * group):
                    var step = unit * Float64(Int(x.values[t * k + i]))
                    sum += step * (scale * Float64(Int(w.values[o * k + i])) - w.offset(o, g))
                    size += abs(step) * (abs(scale) * Float64(1 << bits) + abs(w.offset(o, g)))
            var bound = Float64(groups + 4) * 2.0**-24 * size
            assert_close(whole[t * n + o], sum, bound, String(what, ": ", t, " ", o))
            assert_close(portable[t * n + o], sum, bound, String(what, ", portable: ", t, " ", o))
    comptime if quad_shift["neon", bits]() == quad_shift["portable", bits]():
        assert_same_bits(whole, 0, portable, 0, MOST * n, what)
    for rows in range(1, MOST):
        var first = MOST - rows if rows % 2 else 0
        var part = multiply["neon"](x, first, rows, w)
        assert_same_bits(part, 0, whole, first * n, rows * n, String(what, ", ", rows, " rows"))


def check_format[bits: Int, offsets: Bool]() raises:
    check[bits, offsets](1, 1, 32)
    check[bits, offsets](63, 3, 32)
    check[bits, offsets](67, 2, 64)
    check[bits, offsets](130, 2, 128)


def test_8_bits() raises:
    check_format[8, False]()


def test_8_bits_and_offsets() raises:
    check_format[8, True]()


def test_4_bits() raises:
    check_format[4, False]()


def test_4_bits_and_offsets() raises:
    check_format[4, True]()


def test_every_product_of_bytes() raises:
    comptime Bytes = SIMD[DType.uint8, 4 * quad_lanes["neon"]()]
    comptime Sums = SIMD[DType.int32, quad_lanes["neon"]()]
    comptime for bits in [8, 4]:
        comptime shift = quad_shift["neon", bits]()
        for w in range(1 << bits):
            for x in range(-127, 128):
                for place in range(4):
                    var weights = Bytes(shift)  # counts as zero
                    var steps = SIMD[DType.int8, 4](-127)
                    weights[4 + place] = UInt8(w)
                    steps[place] = Int8(x)
                    var sums = Sums(5)
                    sums[1] += Int32((w - shift) * x)
                    var added = add_quads["neon", bits](5, weights, bitcast[DType.int32, 1](steps))
                    assert_equal(widen_sums["neon", bits](added), sums)


def test_rows_are_rounded_to_the_nearest_step() raises:
    var numbers = Numbers(1)
    for group in [32, 64, 128]:
        comptime groups = 5
        var x = numbers.list[DType.float32](groups * group, 10)
        for i in range(group):
            x[2 * group + i] = 0
        var values = List[Int8](length=groups * group, fill=1)
        var scales = List[Float32](length=2 * groups, fill=1)
        quantize_row(
            untracked(values.unsafe_ptr()), untracked(scales.unsafe_ptr()), untracked(x.unsafe_ptr()), groups, group
        )
        for g in range(groups):
            var largest = Float64(0)
            var steps = 0
            for i in range(g * group, (g + 1) * group):
                largest = max(largest, abs(x[i].cast[DType.float64]()))
                steps += Int(values[i])
            var unit = largest / 127
            assert_close(scales[2 * g], unit, unit * 1e-7, "the unit")
            assert_close(scales[2 * g + 1], unit * Float64(steps), unit * abs(Float64(steps)) * 3e-7, "the sum")
            for i in range(g * group, (g + 1) * group):
                assert_close(x[i], unit * Float64(Int(values[i])), unit * 0.50001, "a rounded number")
        _ = x^


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
