"""mili.half_linear and mili.gather_half_rows: float16 with a scale for each row, summed in float16 for 64 columns."""

from functools import cache

import numpy as np
import pytest
from max.dtype import DType
from max.graph import ops

from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, tensor
from tests.unit.kernels.isas import HALVES
from tests.unit.kernels.matrices import packed_scaled

CHUNK = 64
"""Columns whose products are summed in float16, those of even and of odd columns apart."""

SHAPES = [(1, 1, 1), (1, 2, 2), (1, 3, 5), (2, 4, 16), (3, 7, 65), (5, 64, 64), (12, 65, 200), (29, 131, 333)]
SHAPES.append((64, 517, 160))


@cache
def op() -> OpRunner:
    """x, rows, packed w, N -> linear, gathered rows."""

    def build(inputs):
        x, rows, w, _ = (value.tensor for value in inputs)
        gathered = ops.custom("mili.gather_half_rows", DEVICE, [w, rows], [tensor(FLOAT, "R", "K")])
        if not HALVES:
            return gathered
        return [*ops.custom("mili.half_linear", DEVICE, [x, w], [tensor(FLOAT, "T", "N")]), *gathered]

    packed = tensor(DType.float16, "panels", "steps", "width")
    return OpRunner([tensor(FLOAT, "T", "K"), tensor(INT, "R"), packed, tensor(INT, "N")], build)


def linear(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    if not HALVES:
        pytest.skip("the CPU lacks AVX512-FP16")
    return op()(x, np.zeros(0, np.int32), packed_scaled(w), np.zeros(len(w), np.int32))[0]


def scaled(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as float16 below 32, and their scales."""
    largest = np.abs(x).max(1, keepdims=True)
    scales = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1))) - 4).astype(np.float32)
    return (x / scales).astype(np.float16), scales


def expected_bits(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What the kernel does, number by number: a float16 FMA is a float64 one rounded once."""
    (x, x_scales), (w, w_scales) = scaled(x), scaled(w)
    totals = np.zeros((2, len(x), len(w)), np.float32)
    for begin in range(0, x.shape[1], CHUNK):
        sums = np.zeros(totals.shape, np.float16)
        for k in range(begin, min(begin + CHUNK, x.shape[1])):
            products = np.multiply.outer(x[:, k].astype(np.float64), w[:, k].astype(np.float64))
            sums[k % 2] = (sums[k % 2] + products).astype(np.float16)
        totals += sums.astype(np.float32)
    return (totals[0] + totals[1]) * (w_scales.T * x_scales)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_every_bit_is_as_expected(rows: int, outputs: int, inputs: int) -> None:
    rng = np.random.default_rng([rows, outputs, inputs])
    # Rows of very different sizes, and numbers in them.
    x = (rng.standard_normal((rows, inputs)) * 10.0 ** rng.integers(-20, 20, (rows, 1))).astype(np.float32)
    x *= 10.0 ** -rng.integers(0, 3, inputs)
    w = (rng.standard_normal((outputs, inputs)) * 10.0 ** rng.integers(-9, 9, (outputs, 1))).astype(np.float32)
    x[rows // 2], w[outputs // 2] = 0, 0
    np.testing.assert_array_equal(linear(x, w), expected_bits(x, w))


def test_the_largest_numbers_do_not_overflow() -> None:
    x, w = np.full((2, 192), 3e38, np.float32), np.full((3, 192), 1e-30, np.float32)
    np.testing.assert_allclose(linear(x, w), 192 * 3e8, rtol=2e-2)


def test_it_loses_less_than_rounding_to_bfloat16() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((13, 2048)).astype(np.float32), rng.standard_normal((512, 2048)).astype(np.float32)
    x[:, 7] = rng.uniform(500, 1000, 13)  # as some columns of real activations are
    w = (w.view(np.uint32) & 0xFFFF0000).view(np.float32)  # bfloat16
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    error = np.abs(linear(x, w) - exact)
    as_bfloat16 = ((x.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)
    rounding = np.abs(as_bfloat16.astype(np.float64) @ w.T.astype(np.float64) - exact)
    assert np.sqrt(np.mean(error**2)) < 0.75 * np.sqrt(np.mean(rounding**2))


def test_what_is_not_finite_stays_in_its_row() -> None:
    x = np.ones((4, 40), np.float32)
    x[1, 3], x[2, 5] = np.nan, np.inf
    y = linear(x, np.ones((5, 40), np.float32))
    assert (y[[0, 3]] == 40).all() and not np.isfinite(y[1:3]).any()


def test_a_row_never_depends_on_its_neighbours() -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((70, 301)).astype(np.float32), rng.standard_normal((1030, 301)).astype(np.float32)
    whole = linear(x, w)
    for begin, end in [(0, 1), (69, 70), (3, 5), (10, 17), (1, 70), (20, 44)]:
        np.testing.assert_array_equal(linear(x[begin:end], w), whole[begin:end])


def test_no_rows() -> None:
    assert linear(np.zeros((0, 8), np.float32), np.ones((5, 8), np.float32)).shape == (0, 5)


@pytest.mark.parametrize("exponent", [-30, 0, 30])
def test_bfloat16_rows_come_back_as_they_were(exponent: int) -> None:
    rng = np.random.default_rng(3)
    w = (rng.standard_normal((130, 77)) * 2.0**exponent).astype(np.float32)
    w = (w.view(np.uint32) & 0xFFFF0000).view(np.float32)
    rows = rng.integers(0, 130, 9).astype(np.int32)
    gathered = op()(np.zeros((1, 77), np.float32), rows, packed_scaled(w), np.zeros(130, np.int32))[-1]
    np.testing.assert_array_equal(gathered, w[rows])
