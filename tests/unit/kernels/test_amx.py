"""Linear layers in bfloat16 on AMX, which `tests/emulator` emulates where the CPU has none."""

import numpy as np
import pytest
from max.dtype import DType
from max.graph import ops

from tests.emulator.emulate import emulate
from tests.unit.kernels.harness import DEVICE, FLOAT, OpRunner, tensor, to_dtype
from tests.unit.kernels.matrices import packed

BF16 = DType.bfloat16
COLUMNS = 640
"""More than a stretch of k, and not a multiple of it."""


@pytest.fixture(scope="module")
def bfloat16() -> OpRunner:
    """x, packed w, of the outputs' number -> linear by AMX and by AVX512-BF16."""
    emulate("amx")

    def build(values):
        x, w, like = (value.tensor for value in values)
        out = [tensor(FLOAT, "T", like.shape[0])]
        return [ops.custom("mili.linear", DEVICE, [x, w], out, {"isa": isa})[0] for isa in ("amx", "avx512_bf16")]

    return OpRunner([tensor(BF16, "T", "K"), tensor(BF16, "panels", "steps", 128), tensor(FLOAT, "N")], build)


@pytest.mark.parametrize(("outputs", "columns"), [(1, 32), (131, 96), (192, COLUMNS), (3001, 512)])
def test_bfloat16_matches_reference_in_any_company(bfloat16: OpRunner, outputs: int, columns: int) -> None:
    rng = np.random.default_rng([outputs, columns])
    w, exact = to_dtype(rng.standard_normal((outputs, columns)), BF16)
    values = rng.standard_normal((100, columns)).astype(np.float32)
    like = np.zeros(outputs, np.float32)
    matrix = packed(w)
    whole, by_vectors = bfloat16(to_dtype(values, BF16)[0], matrix, like)
    x = to_dtype(values, BF16)[1]
    tolerance = 1e-6 * (np.abs(x) @ np.abs(exact).T)
    assert (np.abs(whole - x @ exact.T) <= tolerance).all()
    assert (np.abs(whole - by_vectors) <= 2 * tolerance).all()
    for begin, end in [(0, 0), (0, 1), (99, 100), (3, 18), (5, 21), (40, 57), (10, 42), (20, 69)]:
        part = bfloat16(to_dtype(values[begin:end], BF16)[0], matrix, like)[0]
        np.testing.assert_array_equal(part, whole[begin:end])


def test_columns_that_fill_no_tiles_are_refused(bfloat16: OpRunner) -> None:
    w, _ = to_dtype(np.ones((64, 40)), BF16)
    with pytest.raises(ValueError, match="32 columns, which do not divide 40"):
        bfloat16(to_dtype(np.ones((1, 40)), BF16)[0], packed(w), np.zeros(64, np.float32))
