"""Matrices as the kernels of linear layers want them."""

from dataclasses import replace

import numpy as np
from max.driver import Buffer
from max.dtype import DType

from python_layer.model.packing import (
    pack_quantized_rows,
    pack_rows,
    pack_scaled_rows,
    packed_shape,
    quantized_shape,
    scaled_shape,
)
from python_layer.model.quantized import QuantFormat, QuantizedRows


def packed(w: Buffer) -> Buffer:
    """A matrix, packed in two parts."""
    bits = {DType.float32: DType.uint32}.get(w.dtype, DType.uint16)
    rows = w.view(bits, w.shape).to_numpy()
    target = np.zeros(packed_shape(rows.shape, w.dtype.name), rows.dtype)
    middle = len(rows) // 3
    pack_rows(rows[:middle], 0, target)
    pack_rows(rows[middle:], middle, target)
    return Buffer.from_numpy(target).view(w.dtype, target.shape)


def packed_scaled(w: np.ndarray, dtype: str) -> np.ndarray:
    """A float32 matrix as float16 or int16 with a scale for each row, packed in two parts."""
    target = np.zeros(scaled_shape(w.shape), dtype)
    middle = len(w) // 3
    pack_scaled_rows(w[:middle], 0, target)
    pack_scaled_rows(w[middle:], middle, target)
    return target


def random_quantized(rng: np.random.Generator, rows: int, columns: int, form: QuantFormat) -> QuantizedRows:
    """Every value and sign of scale occurs."""
    groups = (rows, columns // form.group)
    scales = rng.uniform(-0.1, 0.1, groups).astype(np.float16)
    offsets = rng.uniform(-1, 1, groups).astype(np.float16) if form.offsets else None
    values = rng.integers(0, 1 << form.bits, (rows, columns)).astype(np.uint8)
    return QuantizedRows(values, scales, offsets, form.bits, form.group)


def packed_quantized(w: QuantizedRows) -> np.ndarray:
    """A quantized matrix, packed in two parts."""
    target = np.zeros(quantized_shape(w.values.shape, w.format), np.uint8)
    middle = len(w.values) // 3
    for part in (slice(0, middle), slice(middle, None)):
        offsets = None if w.offsets is None else w.offsets[part]
        pack_quantized_rows(
            replace(w, values=w.values[part], scales=w.scales[part], offsets=offsets), part.start, target
        )
    return target
