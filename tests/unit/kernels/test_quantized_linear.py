"""mili.quantize_rows, mili.quantized_linear and mili.gather_quantized_rows in every format and instruction set."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from max.dtype import DType
from max.graph import ops

from python_layer.model.packing import quantized_shape
from python_layer.model.quantized import QuantFormat
from tests.unit.kernels.harness import DEVICE, FLOAT, INT, OpRunner, tensor
from tests.unit.kernels.isas import BEST, other_isas
from tests.unit.kernels.matrices import packed_quantized, random_quantized

FEW_FORMATS = [QuantFormat(8, 32, False), QuantFormat(4, 128, True)]
CASES = [(BEST, form) for form in [*FEW_FORMATS, QuantFormat(8, 64, True), QuantFormat(4, 32, False)]]
CASES += [(isa, form) for isa in other_isas() for form in FEW_FORMATS]


GROUP_BOUND = 0.5 / 127
"""Most that rounding changes a number by, of the largest in its group."""


FORMATS = list(dict.fromkeys(form for _, form in CASES))


@cache
def every_case() -> OpRunner:
    """rows, N, x and w of each format -> values, scales and table rows of each format, linear of each case."""

    def build(inputs):
        rows, _, *matrices = (value.tensor for value in inputs)
        x, w = (dict(zip(FORMATS, matrices[i::2], strict=True)) for i in range(2))
        rounded, tables = {}, []
        for number, form in enumerate(FORMATS):
            types = [tensor(DType.int8, "T", f"K{number}"), tensor(FLOAT, "T", f"groups{number}", 2)]
            rounded[form] = [v.tensor for v in ops.custom("mili.quantize_rows", DEVICE, [x[form]], types)]
            kind = {"bits": form.bits, "offsets": form.offsets, "group": form.group}
            out = [tensor(FLOAT, "R", f"K{number}")]
            tables += ops.custom("mili.gather_quantized_rows", DEVICE, [w[form], rows], out, kind)
        linear = []
        for isa, form in CASES:
            kind = {"isa": isa, "bits": form.bits, "offsets": form.offsets}
            inputs = [*rounded[form], w[form]]
            linear += ops.custom("mili.quantized_linear", DEVICE, inputs, [tensor(FLOAT, "T", "N")], kind)
        return [*(value for form in FORMATS for value in rounded[form]), *tables, *linear]

    inputs = [tensor(INT, "R"), tensor(INT, "N")]  # of N only the size is used
    for number in range(len(FORMATS)):
        inputs.append(tensor(FLOAT, "T", f"K{number}"))
        inputs.append(tensor(DType.uint8, f"panels{number}", f"groups{number}", f"block{number}"))
    return OpRunner(inputs, build)


def runner(form: QuantFormat, isa: str) -> Callable[[np.ndarray, np.ndarray, np.ndarray, int], list[np.ndarray]]:
    """x, w, rows, outputs -> values, scales, linear, gathered rows of one case; the other formats get zeros."""

    def one(x: np.ndarray, w: np.ndarray, rows: np.ndarray, outputs: int) -> list[np.ndarray]:
        matrices: list[np.ndarray] = []
        for other in FORMATS:
            zeros = np.zeros(quantized_shape((outputs, other.group), other), np.uint8)
            empty = np.zeros((len(x), other.group), np.float32)
            matrices += [x, w] if other == form else [empty, zeros]
        results = every_case()(rows, np.zeros(outputs, np.int32), *matrices)
        place = FORMATS.index(form)
        values, scales = results[2 * place : 2 * place + 2]
        linear = results[3 * len(FORMATS) + CASES.index((isa, form))]
        return [values, scales, linear, results[2 * len(FORMATS) + place]]

    return one


def name_of(case: tuple[str, QuantFormat]) -> str:
    isa, form = case
    return f"{isa}-{form.bits}bit-{form.group}{'-offsets' if form.offsets else ''}"


@pytest.fixture(params=CASES, ids=name_of)
def case(request: pytest.FixtureRequest) -> tuple[str, QuantFormat]:
    return request.param


@pytest.mark.parametrize(
    ("rows", "outputs", "groups"), [(1, 1, 1), (2, 64, 3), (3, 65, 2), (13, 131, 2), (33, 3001, 1)]
)
def test_matches_reference(case: tuple[str, QuantFormat], rows: int, outputs: int, groups: int) -> None:
    isa, form = case
    rng = np.random.default_rng([rows, outputs])
    x = rng.standard_normal((rows, groups * form.group)).astype(np.float32)
    x[0, :32] *= 50  # another scale for one group
    w = random_quantized(rng, outputs, groups * form.group, form)
    chosen = rng.integers(0, outputs, 9).astype(np.int32)

    values, scales, linear, gathered = runner(form, isa)(x, packed_quantized(w), chosen, outputs)

    grouped = x.reshape(rows, groups, -1)
    largest = np.abs(grouped).max(2)
    np.testing.assert_allclose(scales[..., 0], largest / 127, rtol=1e-6)
    units = values.reshape(grouped.shape).astype(np.float64)
    np.testing.assert_allclose(scales[..., 1], scales[..., 0] * units.sum(2), rtol=1e-6, atol=1e-6)
    restored = units * scales[..., :1].astype(np.float64)
    assert (np.abs(restored - grouped) <= (GROUP_BOUND + 1e-6) * largest[..., None]).all()

    exact = w.dequantize().astype(np.float64)
    x_seen = restored.reshape(x.shape)
    expected = x_seen @ exact.T
    # A float32 rounding for each term of a group's sum: the products', and that of what stands for zero.
    tolerance = 2e-6 * (np.abs(x_seen) @ (np.abs(exact) + 13).T)
    assert (np.abs(linear - expected) <= tolerance).all()
    np.testing.assert_array_equal(gathered, w.dequantize()[chosen])


@pytest.mark.parametrize("form", FEW_FORMATS, ids=lambda form: f"{form.bits}bit")
def test_every_instruction_set_gives_the_same(form: QuantFormat) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((7, 256)).astype(np.float32)
    w = packed_quantized(random_quantized(rng, 200, 256, form))
    first, *others = (runner(form, isa)(x, w, np.zeros(0, np.int32), 200)[2] for isa in [BEST, *other_isas()])
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-3)


def test_a_row_never_depends_on_its_neighbours(case: tuple[str, QuantFormat]) -> None:
    isa, form = case
    rng = np.random.default_rng(1)
    x = rng.standard_normal((70, 384)).astype(np.float32)
    w = packed_quantized(random_quantized(rng, 1030, 384, form))
    none = np.zeros(0, np.int32)
    run = runner(form, isa)
    whole = run(x, w, none, 1030)[2]
    for begin, end in [(0, 1), (69, 70), (3, 5), (10, 17), (1, 70), (20, 44)]:
        np.testing.assert_array_equal(run(x[begin:end], w, none, 1030)[2], whole[begin:end])


def test_zeros_and_no_rows(case: tuple[str, QuantFormat]) -> None:
    isa, form = case
    w = packed_quantized(random_quantized(np.random.default_rng(2), 70, 128, form))
    run = runner(form, isa)
    zeros = run(np.zeros((2, 128), np.float32), w, np.zeros(0, np.int32), 70)
    assert not any(result.any() for result in zeros)
    empty = run(np.zeros((0, 128), np.float32), w, np.zeros(0, np.int32), 70)
    assert empty[2].shape == (0, 70)
