"""Quantised linear layers on AMX and AVX-VNNI, which `tests/emulator` emulates where the CPU has none."""

from dataclasses import dataclass

import numpy as np
import pytest
from max.dtype import DType
from max.graph import ops

from python_layer.model.packing import quantized_shape
from python_layer.model.quantized import QuantFormat
from tests.emulator.emulate import emulate
from tests.unit.kernels.harness import DEVICE, FLOAT, OpRunner, tensor
from tests.unit.kernels.matrices import packed_quantized, random_quantized

FORMATS = (QuantFormat(8, 128, False), QuantFormat(8, 32, False), QuantFormat(4, 64, True), QuantFormat(4, 128, False))


@dataclass(frozen=True)
class Case:
    """An instruction set, another whose layers have the same bits, and layers that take seconds to emulate."""

    isa: str
    like: str
    outputs: int
    columns: int
    rows: tuple[int, ...]


# An instruction of AVX-VNNI does a five hundredth of one of AMX.
CASES = (
    Case("amx", "avx512_vnni", 200, 640, (0, 1, 15, 16, 17, 32, 45)),
    Case("avx2_vnni", "portable", 72, 256, (0, 1, 2, 7)),
)


def both(case: Case) -> OpRunner:
    """x and packed w of each format -> linear by the instruction set and by the other."""

    def build(values):
        x, *matrices = (value.tensor for value in values)
        outputs = []
        for form, w in zip(FORMATS, matrices, strict=True):
            groups = case.columns // form.group
            kinds = [tensor(DType.int8, "T", case.columns), tensor(FLOAT, "T", groups, 2)]
            rounded = ops.custom("mili.quantize_rows", DEVICE, [x], kinds)
            for isa in (case.isa, case.like):
                kind = {"isa": isa, "bits": form.bits, "offsets": form.offsets}
                out = [tensor(FLOAT, "T", case.outputs)]
                outputs += ops.custom("mili.quantized_linear", DEVICE, [*rounded, w], out, kind)
        return outputs

    packed = [tensor(DType.uint8, *quantized_shape((case.outputs, case.columns), form)) for form in FORMATS]
    return OpRunner([tensor(FLOAT, "T", case.columns), *packed], build)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.isa)
def test_the_bits_are_those_of_other_instructions(case: Case) -> None:
    emulate(case.isa)
    run = both(case)
    rng = np.random.default_rng(1)
    matrices = [packed_quantized(random_quantized(rng, case.outputs, case.columns, form)) for form in FORMATS]
    for rows in case.rows:
        results = run(rng.standard_normal((rows, case.columns)).astype(np.float32), *matrices)
        for number, form in enumerate(FORMATS):
            actual, expected = results[2 * number : 2 * number + 2]
            np.testing.assert_array_equal(actual, expected, err_msg=str(form))
            assert rows == 0 or np.abs(actual).max() > 1
