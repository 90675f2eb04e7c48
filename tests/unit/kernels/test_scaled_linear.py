"""mili.scaled_linear and mili.gather_scaled_rows: float16 or int16 with a scale for each row of the matrix.

Of x, float16 has a scale for each row too, and int16 one for each group of columns.
"""

from functools import cache

import numpy as np
import pytest
from max.dtype import DType
from max.graph import ops

from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, tensor
from tests.unit.kernels.isas import HALVES, WORDS
from tests.unit.kernels.matrices import packed_scaled

CHUNK = 64
"""Columns whose products are summed in float16, those of even and of odd columns apart."""
GROUP = 128
"""Columns whose products are summed as int16."""
LARGEST = np.float32(4095)
"""Of the int16 in a group of x."""

SHAPES = [(1, 1, 1), (1, 2, 2), (1, 3, 5), (2, 4, 16), (3, 7, 65), (5, 64, 64), (12, 65, 200), (29, 131, 333)]
SHAPES.append((64, 517, 160))

lacking = pytest.mark.skipif(not HALVES, reason="the CPU lacks AVX512-FP16")
WAYS = [pytest.param("float16", HALVES, marks=lacking, id="float16")]
WAYS += [pytest.param("int16", isa, id=f"int16-{isa}") for isa in WORDS]
ways = pytest.mark.parametrize(("dtype", "isa"), WAYS)


@cache
def linear_op(dtype: str, isa: str) -> OpRunner:
    """x, packed w, N -> linear."""

    def build(inputs):
        x, w, _ = (value.tensor for value in inputs)
        return ops.custom("mili.scaled_linear", DEVICE, [x, w], [tensor(FLOAT, "T", "N")], {"isa": isa})

    packed = tensor(DType[dtype], "panels", "steps", "width")
    return OpRunner([tensor(FLOAT, "T", "K"), packed, tensor(INT, "N")], build)


@cache
def gather_op(dtype: str) -> OpRunner:
    """Packed table, row numbers, K -> rows."""

    def build(inputs):
        table, rows, _ = (value.tensor for value in inputs)
        return ops.custom("mili.gather_scaled_rows", DEVICE, [table, rows], [tensor(FLOAT, "R", "K")])

    return OpRunner([tensor(DType[dtype], "panels", "steps", "width"), tensor(INT, "R"), tensor(INT, "K")], build)


def linear(x: np.ndarray, w: np.ndarray, dtype: str, isa: str) -> np.ndarray:
    return linear_op(dtype, isa)(x, packed_scaled(w, dtype), np.zeros(len(w), np.int32))[0]


def scaled(x: np.ndarray, exponent: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are below 2 to the power of the exponent, and their scales."""
    largest = np.abs(x).max(1, keepdims=True)
    scales = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1))) + 1 - exponent).astype(np.float32)
    return x / scales, scales


def float16_bits(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What the kernel does, number by number: a float16 FMA is a float64 one rounded once."""
    (x, x_scales), (w, w_scales) = scaled(x, 5), scaled(w, 5)
    x, w = x.astype(np.float16), w.astype(np.float16)
    totals = np.zeros((2, len(x), len(w)), np.float32)
    for begin in range(0, x.shape[1], CHUNK):
        sums = np.zeros(totals.shape, np.float16)
        for k in range(begin, min(begin + CHUNK, x.shape[1])):
            products = np.multiply.outer(x[:, k].astype(np.float64), w[:, k].astype(np.float64))
            sums[k % 2] = (sums[k % 2] + products).astype(np.float16)
        totals += sums.astype(np.float32)
    return (totals[0] + totals[1]) * (w_scales.T * x_scales)


def int16_bits(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Likewise: sums of a group are exact, and FMAs, which round x too, are float64 ones rounded once."""
    w, w_scales = scaled(w, 12)
    w = np.rint(w).astype(np.int64)
    totals = np.zeros((len(x), len(w)), np.float32)
    for begin in range(0, x.shape[1], GROUP):
        part = x[:, begin : begin + GROUP]
        largest = np.abs(part).max(1, keepdims=True)
        inverse = np.divide(LARGEST, largest, out=np.zeros_like(largest), where=largest > 0)
        sums = np.rint(part.astype(np.float64) * inverse).astype(np.int64) @ w[:, begin : begin + GROUP].T
        assert np.abs(sums).max() < 2**31
        products = sums.astype(np.float32).astype(np.float64) * (largest / LARGEST)
        totals = (totals + products).astype(np.float32)
    return totals * w_scales.T


@ways
@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_every_bit_is_as_expected(rows: int, outputs: int, inputs: int, dtype: str, isa: str) -> None:
    rng = np.random.default_rng([rows, outputs, inputs])
    # Rows of very different sizes, and numbers in them.
    x = (rng.standard_normal((rows, inputs)) * 10.0 ** rng.integers(-20, 20, (rows, 1))).astype(np.float32)
    x *= 10.0 ** -rng.integers(0, 3, inputs)
    w = (rng.standard_normal((outputs, inputs)) * 10.0 ** rng.integers(-9, 9, (outputs, 1))).astype(np.float32)
    x[rows // 2], w[outputs // 2] = 0, 0
    expected = {"float16": float16_bits, "int16": int16_bits}[dtype]
    np.testing.assert_array_equal(linear(x, w, dtype, isa), expected(x, w))


@ways
def test_the_largest_numbers_do_not_overflow(dtype: str, isa: str) -> None:
    if dtype == "float16":
        x, w = np.full((2, 192), 3e38, np.float32), np.full((3, 192), 1e-30, np.float32)
        np.testing.assert_allclose(linear(x, w, dtype, isa), 192 * 3e8, rtol=2e-2)
    # The largest below a power of two, and all of one sign: sums of integers cannot become larger.
    x = np.full((2, 256), np.nextafter(np.float32(2**100), np.float32(0)))
    w = np.full((3, 256), np.nextafter(np.float32(2**-90), np.float32(0)))
    np.testing.assert_allclose(linear(x, w, dtype, isa), 256 * 2.0**10, rtol=2e-2)


@ways
def test_it_loses_less_than_rounding_to_bfloat16(dtype: str, isa: str) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((13, 2048)).astype(np.float32), rng.standard_normal((512, 2048)).astype(np.float32)
    x[:, 7] = rng.uniform(500, 1000, 13)  # as some columns of real activations are
    w = (w.view(np.uint32) & 0xFFFF0000).view(np.float32)  # bfloat16
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    error = np.abs(linear(x, w, dtype, isa) - exact)
    as_bfloat16 = ((x.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
    rounding = np.abs(as_bfloat16.astype(np.float64) @ w.T.astype(np.float64) - exact)
    assert np.sqrt(np.mean(error**2)) < 0.75 * np.sqrt(np.mean(rounding**2))


@ways
@pytest.mark.parametrize("column", [3, 35, 39])
def test_what_is_not_finite_stays_in_its_row(column: int, dtype: str, isa: str) -> None:
    x = np.ones((4, 40), np.float32)
    x[1, column], x[2, column] = np.nan, np.inf
    y = linear(x, np.ones((5, 40), np.float32), dtype, isa)
    np.testing.assert_allclose(y[[0, 3]], 40, rtol=0 if dtype == "float16" else 1e-6)
    assert not np.isfinite(y[1:3]).any()


@ways
def test_a_row_never_depends_on_its_neighbours(dtype: str, isa: str) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((70, 301)).astype(np.float32), rng.standard_normal((1030, 301)).astype(np.float32)
    whole = linear(x, w, dtype, isa)
    for begin, end in [(0, 1), (69, 70), (3, 5), (10, 17), (1, 70), (20, 44)]:
        np.testing.assert_array_equal(linear(x[begin:end], w, dtype, isa), whole[begin:end])


@ways
def test_no_rows(dtype: str, isa: str) -> None:
    assert linear(np.zeros((0, 8), np.float32), np.ones((5, 8), np.float32), dtype, isa).shape == (0, 5)


@pytest.mark.parametrize("exponent", [-30, 0, 30])
def test_bfloat16_rows_come_back_from_float16_as_they_were(exponent: int) -> None:
    w, rows = table(exponent)
    np.testing.assert_array_equal(gathered(w, rows, "float16"), w[rows])


@pytest.mark.parametrize("exponent", [-30, 0, 30])
def test_bfloat16_rows_come_back_from_int16_as_far_as_they_are_large(exponent: int) -> None:
    w, rows = table(exponent)
    found, expected = gathered(w, rows, "int16"), w[rows]
    most = np.abs(expected).max(1, keepdims=True)
    large = np.abs(expected) >= most / 2**4
    np.testing.assert_array_equal(found[large], expected[large])
    assert (np.abs(found - expected) <= most * 2.0**-12).all()


def table(exponent: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix of bfloat16 numbers, and some of its rows."""
    rng = np.random.default_rng(3)
    w = (rng.standard_normal((130, 77)) * 2.0**exponent).astype(np.float32)
    return (w.view(np.uint32) & 0xFFFF0000).view(np.float32), rng.integers(0, 130, 9).astype(np.int32)


def gathered(w: np.ndarray, rows: np.ndarray, dtype: str) -> np.ndarray:
    return gather_op(dtype)(packed_scaled(w, dtype), rows, np.zeros(w.shape[1], np.int32))[0]
