"""A checkpoint's tensor as the loader reads it, whatever the file's format."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from python_layer.model.dtype_conversion import convert
from python_layer.model.quantized import QuantFormat, QuantizedRows, dequantized, quantize_rows, to_float16


class TensorSource(Protocol):
    """A tensor [N, ...], read by rows; K is the product of the other axes, 1 of a vector.

    Rows may be read from several threads at once. Reading raises OverflowError where a scale lies beyond float16.
    """

    @property
    def path(self) -> Path:
        """The file it lies in."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, as a plain tensor's would be."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""

    @property
    def dtype(self) -> str:
        """Type of what :meth:`rows` gives; other than float32, bfloat16 and float16 it can't be loaded."""

    @property
    def stored_as(self) -> str:
        """How the file holds it, in words."""

    @property
    def is_plain(self) -> bool:
        """Whether :meth:`rows` are the file's own bytes, which takes no memory."""

    @property
    def format(self) -> QuantFormat | None:
        """What :meth:`quantized` gives; None where there is no such thing."""

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """Rows [stop - start, K] in the storage type of ``dtype``; dequantized where they are quantized."""

    def quantized(self, start: int, stop: int) -> QuantizedRows:
        """The same rows in ``format``, which must not be None."""

    def release(self, start: int, stop: int) -> None:
        """Lets go of the memory that reading these rows took, for they won't be read again."""


class ComputedTensor:
    """What sources have in common whose rows are computed, in float32.

    Args:
        path: The file it lies in.
        shape: Its shape, [N, K].
        nbytes: Bytes in the file.
    """

    dtype = "float32"
    is_plain = False

    def __init__(self, path: Path, shape: tuple[int, ...], nbytes: int) -> None:
        self.path = path
        self.shape = shape
        self.nbytes = nbytes

    @property
    def format(self) -> QuantFormat | None:
        """None: see :class:`TensorSource`."""
        return None

    def quantized(self, start: int, stop: int) -> QuantizedRows:
        """Not to be called: see :class:`TensorSource`."""
        raise TypeError(f"{type(self).__name__} is not quantized in groups")


class Groups(NamedTuple):
    """Decoded rows: as :class:`~python_layer.model.quantized.QuantizedRows`, before its rounding to float16."""

    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32] | None


class GroupedTensor(ComputedTensor, ABC):
    """A source in groups with scales; a format has only to decode its rows."""

    @abstractmethod
    def decode(self, start: int, stop: int) -> Groups:
        """Rows ``start`` to ``stop``, in the bits and groups of ``format``."""

    def rows(self, start: int, stop: int) -> NDArray[np.generic]:
        """See :class:`TensorSource`; scales and offsets are not rounded."""
        return dequantized(*self.decode(start, stop), self._known_format.bits)

    def quantized(self, start: int, stop: int) -> QuantizedRows:
        """See :class:`TensorSource`; scales and offsets are rounded to float16."""
        values, scales, offsets = self.decode(start, stop)
        rounded = None if offsets is None else to_float16(offsets)
        return QuantizedRows(values, to_float16(scales), rounded, self._known_format.bits, self._known_format.group)

    @property
    def _known_format(self) -> QuantFormat:
        if self.format is None:
            raise TypeError(f"{type(self).__name__} is not quantized in groups")
        return self.format


def float_rows(source: TensorSource, start: int, stop: int) -> NDArray[np.float32]:
    """Rows of any source as float32."""
    given = source.rows(start, stop)
    values = np.empty(given.shape, np.float32)
    convert(given.reshape(-1), source.dtype, values.reshape(-1), "float32")
    return values


def quantized_rows(source: TensorSource, start: int, stop: int, wanted: QuantFormat) -> QuantizedRows:
    """Rows of any source in a format: the very numbers of the file where it holds them, else rounded anew.

    Raises:
        ConfigError: The columns can't be grouped so.
        OverflowError: A scale would lie beyond float16.
    """
    fitted = source.quantized(start, stop).fitted(wanted) if source.format is not None else None
    if fitted is not None:
        return fitted
    rounded = quantize_rows(float_rows(source, start, stop), wanted.bits, wanted.group)
    exact = rounded.fitted(wanted)
    assert exact is not None  # only offsets may differ
    return exact
