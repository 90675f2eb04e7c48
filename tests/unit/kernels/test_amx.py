"""Linear layers on AMX, which `tests/amx` emulates where the CPU has none."""

import numpy as np
import pytest
from max.dtype import DType
from max.graph import ops

from python_layer.model.packing import quantized_shape
from python_layer.model.quantized import QuantFormat
from tests.amx.emulator import emulate_amx
from tests.unit.kernels.harness import DEVICE, FLOAT, OpRunner, tensor, to_dtype
from tests.unit.kernels.matrices import packed, packed_quantized, random_quantized

BF16 = DType.bfloat16
COLUMNS = 640
"""More than a stretch of k, and not a multiple of it."""
FORMATS = (QuantFormat(8, 128, False), QuantFormat(8, 32, False), QuantFormat(4, 64, True), QuantFormat(4, 128, False))


@pytest.fixture(scope="module")
def bfloat16() -> OpRunner:
    """x, packed w, of the outputs' number -> linear by AMX and by AVX512-BF16."""
    emulate_amx()

    def build(values):
        x, w, like = (value.tensor for value in values)
        out = [tensor(FLOAT, "T", like.shape[0])]
        return [ops.custom("mili.linear", DEVICE, [x, w], out, {"isa": isa})[0] for isa in ("amx", "avx512_bf16")]

    return OpRunner([tensor(BF16, "T", "K"), tensor(BF16, "panels", "steps", 128), tensor(FLOAT, "N")], build)


@pytest.fixture(scope="module")
def quantized() -> OpRunner:
    """x and packed w of each format -> linear by AMX and by VNNI."""
    emulate_amx()

    def build(values):
        x, *matrices = (value.tensor for value in values)
        outputs = []
        for form, w in zip(FORMATS, matrices, strict=True):
            groups = COLUMNS // form.group
            kinds = [tensor(DType.int8, "T", COLUMNS), tensor(FLOAT, "T", groups, 2)]
            rounded = ops.custom("mili.quantize_rows", DEVICE, [x], kinds)
            for isa in ("amx", "avx512_vnni"):
                kind = {"isa": isa, "bits": form.bits, "offsets": form.offsets}
                outputs += ops.custom("mili.quantized_linear", DEVICE, [*rounded, w], [tensor(FLOAT, "T", 200)], kind)
        return outputs

    packed = [tensor(DType.uint8, *quantized_shape((200, COLUMNS), form)) for form in FORMATS]
    return OpRunner([tensor(FLOAT, "T", COLUMNS), *packed], build)


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


def test_quantized_has_the_bits_of_vectors(quantized: OpRunner) -> None:
    rng = np.random.default_rng(1)
    matrices = [packed_quantized(random_quantized(rng, 200, COLUMNS, form)) for form in FORMATS]
    for rows in (0, 1, 15, 16, 17, 32, 45):
        results = quantized(rng.standard_normal((rows, COLUMNS)).astype(np.float32), *matrices)
        for number, form in enumerate(FORMATS):
            tiles, vectors = results[2 * number : 2 * number + 2]
            np.testing.assert_array_equal(tiles, vectors, err_msg=str(form))
            assert rows == 0 or np.abs(tiles).max() > 1


def test_columns_that_fill_no_tiles_are_refused(bfloat16: OpRunner) -> None:
    w, _ = to_dtype(np.ones((64, 40)), BF16)
    with pytest.raises(ValueError, match="32 columns, which do not divide 40"):
        bfloat16(to_dtype(np.ones((1, 40)), BF16)[0], packed(w), np.zeros(64, np.float32))
