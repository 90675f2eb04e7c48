"""What is done to rows of numbers beside matrices, on Arm, for rows of any length, against float64."""

from std.math import exp, exp2, sqrt
from std.testing import TestSuite, assert_equal

from mojo_kernels.core.activations import swiglu_row
from mojo_kernels.core.normalization import rms_norm_row
from mojo_kernels.core.rope import rotate_half
from mojo_kernels.utils.exp import exp2_vector
from mojo_kernels.utils.simd import WIDTH, store_row
from mojo_kernels.utils.types import untracked
from numbers import Numbers, assert_close

comptime MOST = 70
"""Numbers of a row, of which every number is tried."""
comptime EPS = Float32(1e-6)


def test_vectors_are_those_of_arm() raises:
    assert_equal(WIDTH, 4)


def test_rms_norm() raises:
    for size in range(1, MOST + 1):
        var numbers = Numbers(size)
        var x = numbers.list[DType.float32](size, 5)
        var gamma = numbers.list[DType.float32](size, 2)
        var y = List[Float32](length=size + 1, fill=-77)
        rms_norm_row(untracked(y.unsafe_ptr()), untracked(x.unsafe_ptr()), untracked(gamma.unsafe_ptr()), size, EPS)
        var squares = Float64(0)
        for i in range(size):
            squares += x[i].cast[DType.float64]() ** 2
        var rms = sqrt(squares / Float64(size) + EPS.cast[DType.float64]())
        for i in range(size):
            var expected = x[i].cast[DType.float64]() / rms * gamma[i].cast[DType.float64]()
            assert_close(y[i], expected, 1e-6 * abs(expected), String(i, " of ", size))
        assert_equal(y[size], -77)


def test_swiglu() raises:
    for size in range(1, MOST + 1):
        var numbers = Numbers(size)
        var gate = numbers.list[DType.float32](size, 20)
        var up = numbers.list[DType.float32](size, 5)
        var y = List[Float32](length=size + 1, fill=-77)
        swiglu_row(untracked(y.unsafe_ptr()), untracked(gate.unsafe_ptr()), untracked(up.unsafe_ptr()), size)
        for i in range(size):
            var g = gate[i].cast[DType.float64]()
            var expected = g / (1 + exp(-g)) * up[i].cast[DType.float64]()
            assert_close(y[i], expected, 4e-6 * abs(expected), String(i, " of ", size))
        assert_equal(y[size], -77)


def test_rotation() raises:
    for size in range(32, 257, 32):
        var numbers = Numbers(size)
        var x = numbers.list[DType.float32](size, 5)
        var rope = numbers.list[DType.float32](size)
        var y = x.copy()
        rotate_half(untracked(y.unsafe_ptr()), untracked(rope.unsafe_ptr()), size)
        for i in range(size // 2):
            var a = x[i].cast[DType.float64]()
            var b = x[size // 2 + i].cast[DType.float64]()
            var c = rope[i].cast[DType.float64]()
            var s = rope[size // 2 + i].cast[DType.float64]()
            assert_close(y[i], a * c - b * s, 1e-6, String(i, " of ", size))
            assert_close(y[size // 2 + i], b * c + a * s, 1e-6, String(size // 2 + i, " of ", size))


def test_powers_of_two() raises:
    var x = Float32(-130)
    while x + 0.0073 * 16 < 127:
        var steps = SIMD[DType.float32, 16](0)
        comptime for i in range(16):
            steps[i] = x + 0.0073 * Float32(i)
        var wide = exp2_vector[16](steps)
        var narrow = exp2_vector[WIDTH](steps.slice[WIDTH]())
        comptime for i in range(16):
            var expected = exp2(steps[i].cast[DType.float64]()) if steps[i] > -125.5 else Float64(0)
            assert_close(wide[i], expected, 2.5e-7 * expected, String("2 to the ", steps[i]))
            assert_equal(wide[i], exp2_vector[1](steps[i]))
        assert_equal(narrow, wide.slice[WIDTH]())
        x += 0.0073 * 16


def test_bfloat16_is_the_nearest_one() raises:
    for size in range(1, MOST + 1):
        var numbers = Numbers(size)
        var x = numbers.list[DType.float32](size, 5)
        for i in range(0, size, 3):  # halfway between two: the even one is taken
            x[i] = Float32(from_bits=(x[i].to_bits() & 0xFFFF_0000) | 0x8000)
        var y = List[BFloat16](length=size + 1, fill=-77)
        store_row(untracked(y.unsafe_ptr()), untracked(x.unsafe_ptr()), size)
        for i in range(size):
            var bits = Int(x[i].to_bits())
            assert_equal(Int(y[i].to_bits()), (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
        assert_equal(y[size], -77)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
