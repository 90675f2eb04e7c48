"""How matrices lie in memory for the kernels.

The layouts are described in ``mojo_kernels/core/packed.mojo``; of scaled rows in ``scaled_rows.mojo`` and of quantized
ones in ``quantized_rows.mojo`` beside it.
"""

import numpy as np
from numpy.typing import NDArray

from python_layer.model.quantized import QuantFormat, QuantizedRows

PANEL = 64
"""Rows of a matrix that are interleaved."""
SCALED_EXPONENTS = {"float16": 5, "int16": 12}
"""Scaled rows have numbers up to 2 to the power of this."""
LEAST_EXPONENT = -100
"""Far below what matters in a sum, so that rows of zeros have a scale too."""


def pack_factor(dtype: str) -> int:
    """Columns that lie together, by the matrix's type."""
    return 2 if dtype == "bfloat16" else 1


def packed_shape(shape: tuple[int, ...], dtype: str) -> tuple[int, int, int]:
    """The shape of a packed matrix [rows, columns]: [rows / 64, columns / P, 64 P], both rounded up."""
    rows, columns = shape
    factor = pack_factor(dtype)
    return -(-rows // PANEL), -(-columns // factor), PANEL * factor


def pack_rows(values: NDArray[np.generic], first: int, target: NDArray[np.generic]) -> None:
    """Writes consecutive rows of a matrix to their places.

    Args:
        values: [n, columns].
        first: Number of the first of them in the matrix.
        target: The packed matrix, zero where rows or columns are filled up.
    """
    factor = target.shape[2] // PANEL
    if values.shape[1] % factor:
        values = np.pad(values, ((0, 0), (0, factor - values.shape[1] % factor)))
    # What lies together is copied as one number.
    together = np.dtype(f"u{values.itemsize * factor}")
    rows, lanes = values.view(together), target.view(together)
    done = 0
    while done < len(rows):
        panel, lane = divmod(first + done, PANEL)
        count = min(PANEL - lane, len(rows) - done)
        lanes[panel, :, lane : lane + count] = rows[done : done + count].T
        done += count


def scaled_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape of a packed matrix [rows, columns] of scaled rows: [rows / 64, columns / 2 + 1, 128]."""
    rows, columns = shape
    return -(-rows // PANEL), -(-columns // 2) + 1, 2 * PANEL


def pack_scaled_rows(values: NDArray[np.float32], first: int, target: NDArray[np.float16] | NDArray[np.int16]) -> None:
    """Writes consecutive rows of a matrix to their places, each divided by its scale, a power of two.

    Args:
        values: [n, columns].
        first: Number of the first of them in the matrix.
        target: The packed matrix, float16 or int16, zero where rows are filled up.

    Raises:
        OverflowError: A value is not finite, and int16 has no such numbers.
    """
    largest = np.abs(values).max(axis=1, initial=0)
    if target.dtype == np.int16 and not np.isfinite(largest).all():
        raise OverflowError("a value is not finite")
    exponents = np.frexp(largest)[1]
    scales = np.ldexp(np.float32(1), np.maximum(exponents, LEAST_EXPONENT) - SCALED_EXPONENTS[target.dtype.name])
    numbers = values / scales[:, None]
    if target.dtype == np.int16:
        np.rint(numbers, out=numbers)
    pack_rows(numbers.astype(target.dtype), first, target[:, :-1])
    rows = np.arange(first, first + len(values))
    target[:, -1].view(np.float32)[rows // PANEL, rows % PANEL] = scales


def quantized_shape(shape: tuple[int, ...], form: QuantFormat) -> tuple[int, int, int]:
    """The shape of a packed quantized matrix [rows, columns]: [rows / 64, groups, bytes of a block]."""
    rows, columns = shape
    scales = 2 * PANEL * (2 if form.offsets else 1)
    return -(-rows // PANEL), columns // form.group, PANEL * form.group * form.bits // 8 + scales


def pack_quantized_rows(rows: QuantizedRows, first: int, target: NDArray[np.uint8]) -> None:
    """Writes consecutive rows of a quantized matrix to their places.

    Args:
        rows: n of them.
        first: Number of the first of them in the matrix.
        target: The packed matrix, zero where rows are filled up.
    """
    count, columns = rows.values.shape
    quads = rows.values.reshape(count, columns // rows.group, rows.group // 4, 4)
    together = quads if rows.bits == 8 else quads[:, :, 0::2] | np.left_shift(quads[:, :, 1::2], 4, dtype=np.uint8)
    # Four bytes that lie together are copied as one number.
    words = np.ascontiguousarray(together).view(np.uint32)[..., 0]
    steps = words.shape[2]
    panels, groups, _ = target.shape
    lanes = np.reshape(target.view(np.uint32)[:, :, : steps * PANEL], (panels, groups, steps, PANEL), copy=False)
    halves = target.view(np.float16)[:, :, 2 * steps * PANEL :]
    done = 0
    while done < count:
        panel, lane = divmod(first + done, PANEL)
        taken = min(PANEL - lane, count - done)
        part, here = slice(done, done + taken), slice(lane, lane + taken)
        lanes[panel, :, :, here] = words[part].transpose(1, 2, 0)
        halves[panel, :, here] = rows.scales[part].T
        if rows.offsets is not None:
            halves[panel, :, PANEL + here.start : PANEL + here.stop] = rows.offsets[part].T
        done += taken
