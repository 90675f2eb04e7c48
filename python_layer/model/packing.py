"""How matrices lie in memory for the kernels; the layout is described in ``mojo_kernels/core/packed.mojo``."""

import numpy as np
from numpy.typing import NDArray

PANEL = 64
"""Rows of a matrix that are interleaved."""


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
