"""mili.linear, mili.linear_bias and mili.gather_rows in every weight type."""

import numpy as np
import pytest
from max.dtype import DType
from max.graph import ops

from python_layer.utils.cpu import multiplies_bfloat16
from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, tensor, to_dtype

TYPES = [(FLOAT, DType.float32), (FLOAT, DType.bfloat16), (FLOAT, DType.float16)]
"""Of x and of w."""
if multiplies_bfloat16():
    TYPES.append((DType.bfloat16, DType.bfloat16))


@pytest.fixture(scope="module", params=TYPES, ids=lambda types: f"{types[0].name}-{types[1].name}")
def types(request: pytest.FixtureRequest) -> tuple[DType, DType]:
    return request.param


@pytest.fixture(scope="module")
def weight_type(types: tuple[DType, DType]) -> DType:
    return types[1]


def rounded(x: np.ndarray, types: tuple[DType, DType]) -> np.ndarray:
    """x as the kernel gets it, in float64."""
    return to_dtype(x, types[0])[1].astype(np.float64)


@pytest.fixture(scope="module")
def run(types: tuple[DType, DType]) -> OpRunner:
    """x, w, bias, rows -> linear, linear_bias, gather_rows."""

    def build(values):
        x, w, bias, rows = (value.tensor for value in values)
        x = ops.cast(x, types[0])
        out = tensor(FLOAT, "T", "N")
        return [
            ops.custom("mili.linear", DEVICE, [x, w], [out])[0],
            ops.custom("mili.linear_bias", DEVICE, [x, w, bias], [out])[0],
            ops.custom("mili.gather_rows", DEVICE, [w, rows], [tensor(FLOAT, "R", "K")])[0],
        ]

    inputs = [tensor(FLOAT, "T", "K"), tensor(types[1], "N", "K"), tensor(FLOAT, "N"), tensor(INT, "R")]
    return OpRunner(inputs, build)


SHAPES = [(1, 1, 1), (1, 3, 5), (2, 4, 16), (3, 7, 17), (5, 64, 33), (6, 65, 100), (13, 131, 257), (64, 517, 173)]


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_matches_reference(run: OpRunner, types: tuple[DType, DType], rows: int, outputs: int, inputs: int) -> None:
    rng = np.random.default_rng([rows, outputs, inputs])
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    w, exact = to_dtype(rng.standard_normal((outputs, inputs)), types[1])
    chosen = rng.integers(0, outputs, 9).astype(np.int32)

    linear, with_bias, gathered = run(x, w, bias, chosen)

    x = rounded(x, types)
    expected = x @ exact.T
    tolerance = 1e-6 * (np.abs(x) @ np.abs(exact).T)
    assert (np.abs(linear - expected) <= tolerance).all()
    assert (np.abs(with_bias - expected - bias) <= tolerance + 1e-6).all()
    np.testing.assert_array_equal(gathered, exact[chosen].astype(np.float32))


def test_no_rows(run: OpRunner, weight_type: DType) -> None:
    w, _ = to_dtype(np.ones((5, 8)), weight_type)
    linear, with_bias, gathered = run(np.zeros((0, 8), np.float32), w, np.zeros(5, np.float32), np.zeros(0, np.int32))
    assert linear.shape == with_bias.shape == (0, 5)
    assert gathered.shape == (0, 8)


def test_a_row_never_depends_on_its_neighbours(run: OpRunner, weight_type: DType) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((70, 301)).astype(np.float32)
    w, _ = to_dtype(rng.standard_normal((1030, 301)), weight_type)
    bias = rng.standard_normal(1030).astype(np.float32)
    none = np.zeros(0, np.int32)
    whole = run(x, w, bias, none)[1]
    for begin, end in [(0, 1), (69, 70), (3, 5), (10, 17), (1, 70), (20, 44)]:
        np.testing.assert_array_equal(run(x[begin:end], w, bias, none)[1], whole[begin:end])


def test_large_enough_for_threads(run: OpRunner, types: tuple[DType, DType]) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((33, 512)).astype(np.float32)
    w, exact = to_dtype(rng.standard_normal((3001, 512)), types[1])
    linear = run(x, w, np.zeros(3001, np.float32), np.zeros(0, np.int32))[0]
    np.testing.assert_allclose(linear, rounded(x, types) @ exact.T, atol=2e-4)
