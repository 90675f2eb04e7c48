"""Matrices of 8-bit floating-point numbers with a scale for each block, as in Qwen's FP8 checkpoints.

``w[n, k] = weight[n, k] * weight_scale_inv[n // B0, k // B1]``, with weights in E4M3 (arXiv:2209.05433, section 3.1:
sign, four bits of exponent with bias 7, three of mantissa; no infinities, NaN where all bits after the sign are set).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from python_layer.model.dtype_conversion import convert
from python_layer.model.safetensors_file import PlainTensor
from python_layer.model.tensor_source import ComputedTensor
from python_layer.utils.errors import WeightError

SCALED_ROWS, SCALED_COLUMNS = 8, 128
"""Rows and columns that share a scale on a GPU; see ``mojo_kernels/core/float8_linear.mojo``."""


@dataclass(frozen=True)
class Fp8Format:
    """How a matrix is scaled.

    Attributes:
        block: Rows and columns that share a scale in the checkpoint.
    """

    block: tuple[int, int]

    def fits_gpu(self, shape: tuple[int, ...]) -> bool:
        """Whether a matrix of this shape can stay as it is on a GPU."""
        rows, columns = self.block
        whole = rows % SCALED_ROWS == 0 and shape[0] % SCALED_ROWS == 0 and shape[1] % 16 == 0
        return whole and columns == SCALED_COLUMNS


def gpu_scales_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of the scales of a matrix on a GPU."""
    return -(-shape[0] // SCALED_ROWS), -(-shape[1] // SCALED_COLUMNS)


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

    @property
    def float8(self) -> Fp8Format:
        """How it is scaled."""
        return Fp8Format(self._block)

    @property
    def stored_as(self) -> str:
        """See :class:`~python_layer.model.tensor_source.TensorSource`."""
        return f"FP8 in blocks of {self._block[0]} x {self._block[1]}"

    def bits(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows as they are in the file.

        Raises:
            WeightError: One has a number that is none; not every GPU kernel would show it.
        """
        found: NDArray[np.uint8] = self._weight.rows(start, stop).view(np.uint8)
        if ((found & 127) == 127).any():
            raise WeightError(f"{self.path}: rows {start} to {stop} of an FP8 matrix hold NaN; the file is damaged")
        return found

    def gpu_scales(self) -> NDArray[np.float32]:
        """The scales as a GPU has them, [N / 8, K / 128], rounded up; the format must fit it."""
        every = np.arange(0, self.shape[0], SCALED_ROWS) // self._block[0]
        scales: NDArray[np.float32] = self._scales[every]
        return scales

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
