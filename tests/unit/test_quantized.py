"""Rounding to groups of 4 and 8 bits, against straight loops in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from python_layer.model.quantized import QuantFormat, QuantizedRows, quantize_rows
from python_layer.utils.errors import ConfigError


def normal(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32) / 50


def looped(rows: QuantizedRows) -> NDArray[np.float64]:
    """The definition, one number at a time."""
    result = np.empty(rows.values.shape)
    for n, k in np.ndindex(result.shape):
        scale = float(rows.scales[n, k // rows.group])
        middle = scale * 2 ** (rows.bits - 1)
        offset = middle if rows.offsets is None else float(rows.offsets[n, k // rows.group])
        result[n, k] = scale * int(rows.values[n, k]) - offset
    return result


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("offsets", [False, True])
def test_dequantized_as_defined(bits: int, group: int, offsets: bool) -> None:
    rng = np.random.default_rng(group)
    values = rng.integers(0, 1 << bits, (5, 256), np.uint8)
    scales = (rng.standard_normal((5, 256 // group)) / 99).astype(np.float16)
    shifts = rng.standard_normal(scales.shape).astype(np.float16) if offsets else None
    rows = QuantizedRows(values, scales, shifts, bits, group)
    assert rows.format == QuantFormat(bits, group, offsets)
    assert rows.dequantize().dtype == np.float32
    np.testing.assert_allclose(rows.dequantize(), looped(rows), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_every_value_is_the_nearest_to_its_scale(bits: int, group: int) -> None:
    values = normal(700, 256)  # more than one chunk
    rows = quantize_rows(values, bits, group)
    assert rows.offsets is None and rows.scales.shape == (700, 256 // group)
    zero = 1 << (bits - 1)
    scales = rows.scales.astype(np.float64).repeat(group, 1)
    every = (np.arange(2 * zero) - zero) * scales[:50, :, None]
    errors = np.abs(every - values[:50, :, None].astype(np.float64))
    chosen = np.take_along_axis(errors, rows.values[:50, :, None].astype(int), 2)[..., 0]
    np.testing.assert_allclose(chosen, errors.min(2), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("group", [32, 128])
def test_8_bits_reach_the_largest_value_and_round_by_half_a_step(group: int) -> None:
    values = normal(40, 256)
    rows = quantize_rows(values, 8, group)
    largest = np.abs(values).reshape(40, -1, group).max(2).astype(np.float64)
    np.testing.assert_allclose(rows.scales, largest / 127, rtol=2**-11)
    half = rows.scales.astype(np.float64).repeat(group, 1) / 2
    # The scale may be rounded down, which leaves the largest value 127 / 2048 of a step beyond the last one.
    assert (np.abs(rows.dequantize() - values) <= half * 1.13).all()


@pytest.mark.parametrize("group", [32, 64, 128])
def test_4_bits_are_no_worse_than_the_scale_of_the_largest_value(group: int) -> None:
    values = normal(200, 256).reshape(-1, group)
    extreme = np.take_along_axis(values, np.abs(values).argmax(1)[:, None], 1)
    scale = (extreme / -8).astype(np.float16).astype(np.float64)
    plain = np.clip(np.rint(values / scale), -8, 7) * scale
    before = ((plain - values) ** 2).sum(1)
    rows = quantize_rows(values, 4, group)
    after = ((rows.dequantize().astype(np.float64) - values) ** 2).sum(1)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.95 * before.sum(), "the search must find better scales"


@pytest.mark.parametrize("bits", [4, 8])
def test_zeros_and_numbers_below_float16_stay_small(bits: int) -> None:
    values = np.zeros((2, 64), np.float32)
    values[1] = np.linspace(-1e-9, 1e-9, 64)
    rows = quantize_rows(values, bits, 32)
    assert (rows.values[0] == 1 << (bits - 1)).all()
    assert np.abs(rows.dequantize() - values).max() <= 1e-9


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_has_no_scale_is_refused(bits: int, value: float) -> None:
    values = normal(2, 64)
    values[1, 7] = value
    with pytest.raises(OverflowError, match="not finite or needs a scale beyond float16"):
        quantize_rows(values, bits, 32)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="rows of 96 columns can't be quantized in groups of 64"):
        quantize_rows(normal(1, 96), 8, 64)
    for bits, group in ((5, 32), (4, 48)):
        with pytest.raises(ConfigError, match=f"{bits} bits in groups of {group} are not supported"):
            quantize_rows(normal(1, 96), bits, group)


@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("wanted", [QuantFormat(b, g, o) for b in (4, 8) for g in (32, 64) for o in (False, True)])
def test_wider_formats_hold_the_same_numbers(wanted: QuantFormat, offsets: bool) -> None:
    rows = quantize_rows(normal(6, 256), 4, 64)
    if offsets:
        shifts = (rows.scales * np.float16(3)).astype(np.float16)
        rows = QuantizedRows(rows.values, rows.scales, shifts, 4, 64)
    fitted = rows.fitted(wanted)
    if offsets and not wanted.offsets:
        assert fitted is None
        return
    assert fitted is not None and fitted.format == wanted
    np.testing.assert_allclose(fitted.dequantize(), rows.dequantize(), rtol=1e-6, atol=1e-7)


def test_narrower_formats_do_not() -> None:
    rows = quantize_rows(normal(6, 256), 8, 64)
    assert rows.fitted(QuantFormat(4, 64, True)) is None
    assert rows.fitted(QuantFormat(8, 128, True)) is None
