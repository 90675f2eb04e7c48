"""mili.linear, mili.gather_rows and mili.gather_packed_rows in every weight type and instruction set."""

from collections.abc import Callable

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph import ops

from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, tensor, to_dtype
from tests.unit.kernels.isas import BEST, PAIRED, other_isas
from tests.unit.kernels.matrices import packed

CASES = [(BEST, FLOAT, DType.float32), (BEST, FLOAT, DType.bfloat16), (BEST, FLOAT, DType.float16)]
"""Instruction set, and types of x and of w."""
if PAIRED:
    CASES.append((PAIRED, DType.bfloat16, DType.bfloat16))
CASES += [(isa, FLOAT, DType.bfloat16) for isa in other_isas()]
WEIGHT_TYPES = (DType.float32, DType.bfloat16, DType.float16)

Run = Callable[..., list[np.ndarray]]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].name}-{case[2].name}")
def case(request: pytest.FixtureRequest) -> tuple[str, DType, DType]:
    return request.param


@pytest.fixture
def types(case: tuple[str, DType, DType]) -> tuple[DType, DType]:
    return case[1:]


@pytest.fixture
def weight_type(types: tuple[DType, DType]) -> DType:
    return types[1]


def rounded(x: np.ndarray, types: tuple[DType, DType]) -> np.ndarray:
    """x as the kernel gets it, in float64."""
    return to_dtype(x, types[0])[1].astype(np.float64)


@pytest.fixture(scope="module")
def every_case() -> OpRunner:
    """x, rows, w and packed w of each type -> linear of each case, gather_rows and gather_packed_rows of each type."""

    def build(values):
        x, rows, *matrices = (value.tensor for value in values)
        plain, packed = (dict(zip(WEIGHT_TYPES, matrices[i::2], strict=True)) for i in range(2))
        gathered = tensor(FLOAT, "R", "K")
        linear = [
            ops.custom(
                "mili.linear",
                DEVICE,
                [ops.cast(x, x_type), packed[w_type]],
                [tensor(FLOAT, "T", f"N{w_type.name}")],
                {"isa": isa},
            )[0]
            for isa, x_type, w_type in CASES
        ]
        plain_rows = [ops.custom("mili.gather_rows", DEVICE, [plain[t], rows], [gathered])[0] for t in WEIGHT_TYPES]
        packed_rows = [
            ops.custom("mili.gather_packed_rows", DEVICE, [packed[t], rows], [gathered])[0] for t in WEIGHT_TYPES
        ]
        return [*linear, *plain_rows, *packed_rows]

    inputs = [tensor(FLOAT, "T", "K"), tensor(INT, "R")]
    for dtype in WEIGHT_TYPES:
        inputs.append(tensor(dtype, f"N{dtype.name}", "K"))
        inputs.append(tensor(dtype, f"panels{dtype.name}", f"steps{dtype.name}", f"width{dtype.name}"))
    return OpRunner(inputs, build)


@pytest.fixture
def run(every_case: OpRunner, case: tuple[str, DType, DType]) -> Run:
    """x, w, rows -> linear, gather_rows, gather_packed_rows of one case; the other types get a row of zeros."""

    def one(x: np.ndarray, w: Buffer, rows: np.ndarray) -> list[np.ndarray]:
        matrices = {t: w if t == case[2] else to_dtype(np.zeros(w.shape), t)[0] for t in WEIGHT_TYPES}
        both = [buffer for t in WEIGHT_TYPES for buffer in (matrices[t], packed(matrices[t]))]
        results = every_case(x, rows, *both)
        place = WEIGHT_TYPES.index(case[2])
        plain, interleaved = results[len(CASES) : len(CASES) + 3], results[len(CASES) + 3 :]
        return [results[CASES.index(case)], plain[place], interleaved[place]]

    return one


SHAPES = [(1, 1, 1), (1, 3, 5), (2, 4, 16), (3, 7, 17), (5, 64, 33), (6, 65, 100), (13, 131, 257), (64, 517, 173)]
SHAPES.append((205, 70, 1031))  # so many that weights are unpacked in long stretches


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SHAPES)
def test_matches_reference(run: Run, types: tuple[DType, DType], rows: int, outputs: int, inputs: int) -> None:
    rng = np.random.default_rng([rows, outputs, inputs])
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    w, exact = to_dtype(rng.standard_normal((outputs, inputs)), types[1])
    chosen = rng.integers(0, outputs, 9).astype(np.int32)

    linear, gathered, from_packed = run(x, w, chosen)

    x = rounded(x, types)
    expected = x @ exact.T
    tolerance = 1e-6 * (np.abs(x) @ np.abs(exact).T)
    assert (np.abs(linear - expected) <= tolerance).all()
    np.testing.assert_array_equal(gathered, exact[chosen].astype(np.float32))
    np.testing.assert_array_equal(from_packed, gathered)


def test_no_rows(run: Run, weight_type: DType) -> None:
    w, _ = to_dtype(np.ones((5, 8)), weight_type)
    results = run(np.zeros((0, 8), np.float32), w, np.zeros(0, np.int32))
    assert [result.shape for result in results] == [(0, 5), (0, 8), (0, 8)]


def test_a_row_never_depends_on_its_neighbours(run: Run, weight_type: DType) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((70, 301)).astype(np.float32)
    w, _ = to_dtype(rng.standard_normal((1030, 301)), weight_type)
    none = np.zeros(0, np.int32)
    whole = run(x, w, none)[0]
    for begin, end in [(0, 1), (69, 70), (3, 5), (10, 17), (1, 70), (20, 44)]:
        np.testing.assert_array_equal(run(x[begin:end], w, none)[0], whole[begin:end])


def test_large_enough_for_threads(run: Run, types: tuple[DType, DType]) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((33, 512)).astype(np.float32)
    w, exact = to_dtype(rng.standard_normal((3001, 512)), types[1])
    linear = run(x, w, np.zeros(0, np.int32))[0]
    np.testing.assert_allclose(linear, rounded(x, types) @ exact.T, atol=2e-4)
