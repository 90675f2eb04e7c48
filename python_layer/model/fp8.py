"""Matrices of 8-bit floating-point numbers with a scale for each block, as in Qwen's FP8 checkpoints.

``w[n, k] = weight[n, k] * weight_scale_inv[n // B0, k // B1]``, with weights in E4M3 (arXiv:2209.05433, section 3.1:
sign, four bits of exponent with bias 7, three of mantissa; no infinities, NaN where all bits after the sign are set).
"""

import numpy as np
from numpy.typing import NDArray

from python_layer.model.dtype_conversion import convert
from python_layer.model.safetensors_file import PlainTensor
from python_layer.model.tensor_source import ComputedTensor


class Fp8Tensor(ComputedTensor):
    """A block-scaled matrix [N, K].

    Args:
        weight: [N, K], float8_e4m3fn.
        scales: ``weight_scale_inv`` [N / B0, K / B1], rounded up; float32, bfloat16 or float16.
        block: B0 and B1.
    """

    def __init__(self, weight: PlainTensor, scales: PlainTensor, block: tuple[int, int]) -> None:
        super().__init__(weight.path, weight.shape, weight.nbytes + scales.nbytes)
        self._weight = weight
        self._block = block
        self._values = e4m3_values()
        self._scales = np.empty(scales.shape, np.float32)
        convert(scales.whole().reshape(-1), scales.dtype, self._scales.reshape(-1), "float32")

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        values: NDArray[np.float32] = self._values[self._weight.rows(start, stop)]
        scales = self._scales[np.arange(start, stop) // self._block[0]]
        for column in range(scales.shape[1]):
            values[:, column * self._block[1] : (column + 1) * self._block[1]] *= scales[:, column : column + 1]
        return values

    def release(self, start: int, stop: int) -> None:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        self._weight.release(start, stop)


def e4m3_values() -> NDArray[np.float32]:
    """The number that each of the 256 bytes stands for."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    size = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    size[code & 127 == 127] = np.nan
    values: NDArray[np.float32] = np.where(code & 128, -size, size).astype(np.float32)
    return values
