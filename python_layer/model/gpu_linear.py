"""The linear layers of a GPU's graph: MILI's own kernels, whose sums have one order for any number of rows."""

import re

from max.dtype import DType
from max.graph import TensorType, TensorValue, ops

FLOAT8_SINCE = 90
"""Compute capability, times ten, from which MAX compiles products of e4m3."""
SCALED_COLUMNS = 128
"""Of an e4m3 matrix, those that share a scale."""


def gpu_linear(
    x: TensorValue,
    w: TensorValue,
    architecture: str,
    scales: TensorValue | None = None,
    bias: TensorValue | None = None,
    dtype: DType = DType.bfloat16,
) -> TensorValue:
    """x[T, K] @ w[N, K].T + bias.

    With scales w is e4m3. Activations are then rounded to e4m3 too where the GPU multiplies it; elsewhere w is widened
    to bfloat16 as it is multiplied.

    Args:
        x: bfloat16.
        w: bfloat16, or uint8 with the bits of e4m3.
        architecture: Of the GPU, such as sm_90a.
        scales: [N / 8, K / 128], rounded up.
        bias: [N].
        dtype: Of the result.
    """
    rows, columns = x.shape
    device = x.device
    out = [TensorType(dtype, [rows, w.shape[0]], device)]
    if scales is None:
        (y,) = ops.custom("mili.linear", device, [x, w], out, {"isa": architecture})
    elif multiplies_float8(architecture):
        groups = -(-int(w.shape[1]) // SCALED_COLUMNS)
        kinds = [TensorType(DType.uint8, [rows, columns], device), TensorType(DType.float32, [rows, groups], device)]
        rounded = ops.custom("mili.quantize_float8", device, [x], kinds)
        (y,) = ops.custom("mili.float8_linear", device, [*rounded, w, scales], out)
    else:
        (y,) = ops.custom("mili.widened_linear", device, [x, w, scales], out)
    return y.tensor if bias is None else y.tensor + ops.cast(bias, dtype)


def multiplies_float8(architecture: str) -> bool:
    """Whether kernels for a GPU such as sm_90a multiply e4m3.

    sm_89 could, but MAX writes its PTX in version 8.1, and these products came with version 8.4.
    """
    return compute_capability(architecture) >= FLOAT8_SINCE


def compute_capability(architecture: str) -> int:
    """That of a GPU such as sm_90a, times ten; 0 where the name tells none."""
    found = re.search(r"\d+", architecture)
    return int(found[0]) if found else 0
