"""Rows of a matrix in a few bits each, with a scale for every group of columns; and how to round to them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from python_layer.utils.errors import ConfigError

GROUPS = (32, 64, 128)
"""Columns that may share a scale."""

CHUNK = 1 << 17
"""Elements that are quantized at a time: the intermediate arrays stay in a core's cache."""

SHRINKS = (1.0, 0.94, 0.88, 0.82)
"""What a scale of 4 bits may be of the one that reaches the group's largest value; the best is kept.

A smaller one cuts the largest value off and rounds all others more finely.
"""


@dataclass(frozen=True)
class QuantFormat:
    """How a matrix is quantized.

    Attributes:
        bits: Of a value: 4 or 8.
        group: Columns that share a scale: 32, 64 or 128.
        offsets: Whether a group has an offset beside its scale.
    """

    bits: int
    group: int
    offsets: bool

    def __str__(self) -> str:
        return f"int{self.bits} in groups of {self.group}{' with offsets' if self.offsets else ''}"


@dataclass(frozen=True)
class QuantizedRows:
    """Rows of a matrix: ``w[n, k] = scales[n, k // group] * values[n, k] - offsets[n, k // group]``.

    Attributes:
        values: [n, K]; 0 to 15 for 4 bits, 0 to 255 for 8.
        scales: [n, K / group]; may be negative.
        offsets: [n, K / group]; None is ``scales * 2**(bits - 1)``, that is, values around zero.
        bits: 4 or 8.
        group: Columns that share a scale: 32, 64 or 128.
    """

    values: NDArray[np.uint8]
    scales: NDArray[np.float16]
    offsets: NDArray[np.float16] | None
    bits: int
    group: int

    @property
    def format(self) -> QuantFormat:
        """How the rows are quantized."""
        return QuantFormat(self.bits, self.group, self.offsets is not None)

    def dequantize(self) -> NDArray[np.float32]:
        """The rows [n, K], computed in float32."""
        return dequantized(
            self.values,
            self.scales.astype(np.float32),
            None if self.offsets is None else self.offsets.astype(np.float32),
            self.bits,
        )

    def fitted(self, wanted: QuantFormat) -> "QuantizedRows | None":
        """The same numbers in another format; None where it has too few bits, too large groups or no offsets."""
        if wanted.bits < self.bits or self.group % wanted.group or (self.offsets is not None and not wanted.offsets):
            return None
        if wanted == self.format:
            return self
        repeats = self.group // wanted.group
        scales, offsets, values = self.scales.repeat(repeats, 1), self.offsets, self.values
        if offsets is not None:
            offsets = offsets.repeat(repeats, 1)
        elif wanted.offsets:
            offsets = _times(scales, 1 << (self.bits - 1))
        elif wanted.bits > self.bits:
            values = values + np.uint8((1 << (wanted.bits - 1)) - (1 << (self.bits - 1)))
        return replace(self, values=values, scales=scales, offsets=offsets, bits=wanted.bits, group=wanted.group)


def dequantized(
    values: NDArray[np.uint8], scales: NDArray[np.float32], offsets: NDArray[np.float32] | None, bits: int
) -> NDArray[np.float32]:
    """As :meth:`QuantizedRows.dequantize`, for scales and offsets that float16 could not hold."""
    rows, columns = values.shape
    grouped = values.astype(np.float32).reshape(rows, scales.shape[1], -1)
    if offsets is None:
        grouped -= np.float32(1 << (bits - 1))
    grouped *= scales[:, :, None]
    if offsets is not None:
        grouped -= offsets[:, :, None]
    return grouped.reshape(rows, columns)


def quantize_rows(values: NDArray[np.float32], bits: int, group: int) -> QuantizedRows:
    """The nearest numbers of a symmetric format, to scales that are rounded to float16 first.

    With 8 bits a group's largest value is 127 steps from zero. With 4 bits there are 8 steps on one side and 7 on the
    other; the largest value goes to the side of 8 (as in ggml's Q4_0), and of some smaller scales the one with the
    least squared error is taken.

    Args:
        values: [n, K].
        bits: 4 or 8.
        group: Columns that share a scale: 32, 64 or 128.

    Raises:
        ConfigError: K is no multiple of ``group``, or ``bits`` or ``group`` is not one of these.
        OverflowError: A value is not finite, or needs a scale beyond float16.
    """
    rows, columns = values.shape
    if bits not in (4, 8) or group not in GROUPS:
        raise ConfigError(f"{bits} bits in groups of {group} are not supported; 4 or 8 bits in {GROUPS} are")
    if columns % group:
        raise ConfigError(f"rows of {columns} columns can't be quantized in groups of {group}, which do not divide it")
    grouped = values.reshape(-1, group)
    quantized = np.empty(grouped.shape, np.uint8)
    scales = np.empty(len(grouped), np.float16)
    step = max(1, CHUNK // group)
    for start in range(0, len(grouped), step):
        part = slice(start, start + step)
        _quantize(grouped[part], bits, quantized[part], scales[part])
    return QuantizedRows(quantized.reshape(rows, columns), scales.reshape(rows, columns // group), None, bits, group)


def _quantize(groups: NDArray[np.float32], bits: int, values: NDArray[np.uint8], scales: NDArray[np.float16]) -> None:
    """Fills ``values`` [g, group] and ``scales`` [g] with the best for ``groups`` [g, group]."""
    high, low = groups.max(1), groups.min(1)
    if bits == 8:
        widest = to_float16(np.maximum(high, -low) / np.float32(127))
        _round(groups, widest, bits, values)
        scales[...] = widest
        return
    # The side of -8 is where the largest value is: a positive one makes the scale negative.
    signed = np.where(high > -low, high, low) / np.float32(-8)
    least = np.full(len(groups), np.inf, np.float32)
    rounded = np.empty_like(values)
    for shrink in SHRINKS:
        candidate = to_float16(signed * np.float32(shrink))
        error = _round(groups, candidate, bits, rounded)
        better = error < least
        least[better], scales[better], values[better] = error[better], candidate[better], rounded[better]


def _round(
    groups: NDArray[np.float32], scales: NDArray[np.float16], bits: int, values: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Fills ``values`` with the nearest to ``groups``; the sums of squared errors [g]."""
    zero = 1 << (bits - 1)
    exact = scales.astype(np.float32)[:, None]
    # A scale that was rounded to zero has no inverse, and makes zeros of everything.
    steps = groups * np.divide(1, exact, out=np.zeros_like(exact), where=exact != 0)
    np.rint(steps, out=steps)
    np.clip(steps, -zero, zero - 1, out=steps)
    np.add(steps, zero, out=values, casting="unsafe")
    steps *= exact
    steps -= groups
    errors: NDArray[np.float32] = np.einsum("gk,gk->g", steps, steps)
    return errors


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Scales or offsets, rounded.

    Raises:
        OverflowError: One is not finite, or beyond float16.
    """
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise OverflowError("a value is not finite or needs a scale beyond float16")
    return rounded


def _times(scales: NDArray[np.float16], factor: int) -> NDArray[np.float16]:
    return to_float16(scales.astype(np.float32) * np.float32(factor))
